"""Super-resolution of the embedded planet: squared error, and discriminator with squared error or AtmoDist as content.

Makes the planet, trains AtmoDist once and every generator with several seeds from the recipes, predicts held-out days
and prints the root-mean-square error of vorticity and divergence, how much of the truth's power they have in the
wavenumbers 17 to 42, which the coarse grid of 32 longitudes lacks and the planet's truncation admits, and by how many
powers of ten their spectra miss the truth's there, as a root mean square; means over seeds with standard deviation.

    python benchmarks/superresolution.py [--seeds 3] [--out runs/superresolution]
"""

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np
import xarray as xr

RECIPES = Path(__file__).resolve().parent.parent / "recipes"
CHANNELS = ("vorticity_850", "divergence_850")
FINE, COARSE = "runs/data/planet42.store.zarr", "runs/data/planet42.coarse.zarr"
PERIOD = ("--init", "2000-12-25", "2001-02-03", "--leads", "0", "--every", "24", "--grid", FINE)
FINE_WAVES = slice(17, 42)
COLUMNS = ("RMSE (1e-6 s-1)", "fine power", "spectral miss")
WAYS = {
    "squared error": "mse",
    "GAN, squared error": "gan_mse",
    "GAN, AtmoDist": "gan_atmodist",
    "GAN, both": "gan_both",
}


def main() -> None:
    """Make what is not there yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("runs/superresolution"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)

    def call(*words: object) -> None:
        subprocess.run([sys.executable, "-m", "etesian", *map(str, words)], check=True, cwd=options.out)

    def fit(recipe: str, run: str, *words: object) -> None:
        if not (options.out / run / "done").exists():
            call("fit", "-c", RECIPES / recipe, "--run", run, "--trainer.enable_progress_bar=false", *words)
            (options.out / run / "done").touch()

    def predict(run: str, name: str, *words: object) -> None:
        if not (options.out / f"{name}.zarr").exists():
            call("predict", run, COARSE, f"{name}.zarr", *PERIOD, *words)

    raw, prepared = "runs/data/planet42.zarr", ("--train_end", "2000-11-15")
    call("simulate", raw, "--truncation", "T42", "--days", 400, "--levels", 250, 850)
    call("prepare", raw, FINE, "--variables", "vorticity", "divergence", "u_component_of_wind", *prepared)
    call("prepare", raw, COARSE, "--variables", "vorticity", "divergence", *prepared, "--coarsen", 4)
    fit("atmodist_planet.yaml", "runs/atmodist_planet")
    names: dict[str, list[str]] = {way: [] for way in WAYS}
    for seed in range(options.seeds):
        chance = (f"--seed_everything={seed}", f"--data.init_args.seed={seed}")
        start = f"runs/mse{seed}"
        fit("superres_planet.yaml", start, *chance)
        for kind, content in (
            ("gan_mse", "null"),
            ("gan_atmodist", "{run: runs/atmodist_planet, layer: '1.2', error_weight: 0.0}"),
            ("gan_both", "{run: runs/atmodist_planet, layer: '1.2', error_weight: 0.5}"),
        ):
            fit(
                "superres_planet_gan.yaml", f"runs/{kind}{seed}", *chance, f"--model.init_args.start={start}",
                "--model.init_args.content", content,
            )  # fmt: skip
        for way, kind in WAYS.items():
            predict(f"runs/{kind}{seed}", f"{kind}{seed}")
            names[way].append(f"{kind}{seed}")
    for baseline in ("interpolation", "bicubic"):
        predict(baseline, baseline, "--channels", *CHANNELS)
        names[baseline] = [baseline]
    every = [f"{name}.zarr" for group in names.values() for name in group]
    call(
        "evaluate", every[0], FINE, "--others", *every[1:], "--baselines", "--structure", "--channels", *CHANNELS,
        "--out", "scores",
    )  # fmt: skip
    with xr.open_dataset(options.out / "scores" / "scores.nc") as scores:
        print_table(scores.isel(region=0, lead_time=0, map_lead_time=0), names)


def print_table(scores: xr.Dataset, names: dict[str, list[str]]) -> None:
    """Print errors and what spectra hold of the truth's fine scales, by way of training."""
    power = scores.spectrum.sel(wavenumber=FINE_WAVES)
    truth = power.sel(series="truth")
    share = power.sum("wavenumber") / truth.sum("wavenumber")
    miss = np.sqrt((np.log10(power / truth) ** 2).mean("wavenumber"))
    print("| | " + " | ".join(f"{of} {channel.removesuffix('_850')}" for of in COLUMNS for channel in CHANNELS) + " |")
    print("|---" * (1 + len(COLUMNS) * len(CHANNELS)) + "|")
    for way, group in names.items():
        cells = [1e6 * scores.rmse.sel(forecast=group, channel=channel).values for channel in CHANNELS]
        cells += [of.sel(series=group, spectrum_of=channel).values for of in (share, miss) for channel in CHANNELS]
        print(f"| {way} | " + " | ".join(_spread(values) for values in cells) + " |")


def _spread(values: np.ndarray) -> str:
    return f"{values.mean():.3g}" + (f" ± {values.std(ddof=1):.1g}" if values.size > 1 else "")


if __name__ == "__main__":
    main()
