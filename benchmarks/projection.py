"""Projections beside statistical emulators: the tables of docs/projection.md, with several seeds.

Trains the recipe `projection_climatebench` on a generated climate, projects 2080-2100 of ssp245, and scores it as
ClimateBench does beside the emulators and beside the mean of twenty members of another draw. Scores are against the
mean of the three members of the draw that was trained on, as in ClimateBench, and against the mean of the twenty, in
which there is less weather. With --hadcm3 also `projection_hadcm3` on the files `A1B_north_america.nc` and
`E1_north_america.nc` of Iris's sample data. Prints mean ± standard deviation over seeds, and processor seconds of
training.

    python benchmarks/projection.py [--seeds 3] [--hadcm3 FOLDER] [--out runs/projection]
"""

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np

import etesian as et
from etesian.projection.data import YearData
from etesian.projection.emulators import EMULATORS
from etesian.projection.scores import Maps, climatebench_scores

TRAINED = ["historical", "ssp126", "ssp370", "ssp585", "hist-GHG", "hist-aer"]
YEARS = (2080, 2100)


def main() -> None:
    """Train what is not trained yet, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--hadcm3", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/projection"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    generated(options.out, options.seeds)
    if options.hadcm3 is not None:
        hadcm3(options.out, options.hadcm3, options.seeds)


def generated(out: Path, seeds: int) -> None:
    """Print the table of the generated climate."""
    et.simulate("climate", out / "climate")
    et.simulate("climate", out / "many", members=20, seed=1)
    data = et.ProjectionData(str(out / "climate"), "2041-2050", TRAINED, "ssp245", YEARS)
    many = et.ProjectionData(str(out / "many"), "2041-2050", TRAINED, "ssp245", YEARS)
    expected = many.dataset("test").arrays()[1]
    maps = trained("projection_climatebench", out, seeds, data, {"data.folder": str(out / "climate")}) | emulated(data)
    print("against the mean of three members")
    report(data, maps | {"twenty other members": [expected]}, data.dataset("test").arrays()[1])
    print("against the mean of twenty other members")
    report(data, maps, expected)


def hadcm3(out: Path, folder: Path, seeds: int) -> None:
    """Print the table of HadCM3's E1."""
    files = {name: str(folder / f"{name}_north_america.nc") for name in ("A1B", "E1")}
    data = et.SimulationData(files, "2m_temperature", ["A1B"], "2041-2050", "E1", (2080, 2099))
    maps = trained("projection_hadcm3", out, seeds, data, {"data.simulations": files}) | emulated(data)
    report(data, maps, data.dataset("test").arrays()[1])


def trained(recipe: str, out: Path, seeds: int, data: YearData, options: dict[str, Any]) -> dict[str, list[Maps]]:
    """Return the maps of the test years by the networks of all seeds."""
    maps = []
    for seed in range(seeds):
        begun, seeded = time.process_time(), {"seed_everything": seed, "data.seed": seed}
        run = et.fit(recipe, run=out / f"{recipe}_{seed}", options=options | seeded)
        print(f"{recipe} {seed}: {time.process_time() - begun:.0f} s of processor time", flush=True)
        batch = data.dataset("test")[list(range(len(data.samples["test"])))]
        assert batch.targets is not None
        maps.append(run.task.predict(batch, batch.targets.frame).values[:, 0].double().numpy())
    return {"network": maps}


def emulated(data: YearData) -> dict[str, list[Maps]]:
    """Return the maps of the test years by the emulators."""
    fitted, given = data.dataset("train").arrays(), data.dataset("test").arrays()[0]
    return {name: [emulator(*fitted, data.layout.grid).predict(given)] for name, emulator in EMULATORS.items()}


def report(data: YearData, maps: dict[str, list[Maps]], truth: Maps) -> None:
    """Print the scores of maps: NRMSE_s, NRMSE_g and total of each target."""
    for number, target in enumerate(data.layout.targets):
        print(f"  {target!s:34}" + "".join(f"{score:>16}" for score in ("NRMSE_s", "NRMSE_g", "total")))
        for name, members in maps.items():
            scores = np.array([climatebench_scores(m[:, number], truth[:, number], data.layout.grid) for m in members])
            means, spread = scores.mean(0), scores.std(0, ddof=len(scores) > 1)
            cells = [
                f"{m:.3f} ± {s:.3f}" if len(scores) > 1 else f"{m:.3f}" for m, s in zip(means, spread, strict=True)
            ]
            print(f"    {name:32}" + "".join(f"{cell:>16}" for cell in cells))


if __name__ == "__main__":
    main()
