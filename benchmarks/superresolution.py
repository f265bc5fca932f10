"""Super-resolution of the embedded planet: squared or spectral error, and discriminator with squared error or AtmoDist.

Makes the planet, trains AtmoDist once and every generator with several seeds from the recipes, predicts held-out days
and prints the root-mean-square error of vorticity and divergence, how much of the truth's power they have in the
wavenumbers 17 to 42, which the coarse grid of 32 longitudes lacks and the planet's truncation admits, and by how many
powers of ten their spectra miss the truth's there, as a root mean square; means over seeds with standard deviation.

    python benchmarks/superresolution.py [--seeds 3] [--out runs/superresolution]
"""

import argparse
from contextlib import chdir
from pathlib import Path

import numpy as np
import xarray as xr

import etesian as et

CHANNELS = ("vorticity_850", "divergence_850")
FINE, COARSE = "runs/data/planet42.store.zarr", "runs/data/planet42.coarse.zarr"
HELD_OUT = ("2000-12-25", "2001-02-03")
FINE_WAVES = slice(17, 42)
COLUMNS = ("RMSE (1e-6 s-1)", "fine power", "spectral miss")
WAYS = {
    "squared error": "mse",
    "spectral error": "spectral",
    "GAN, squared error": "gan_mse",
    "GAN, AtmoDist": "gan_atmodist",
    "GAN, both": "gan_both",
}
SPECTRAL = {"class_path": "etesian.SpectralError", "init_args": {"weight": 0.66, "error_weight": 0.33}}


def main() -> None:
    """Make what is not there yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("runs/superresolution"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    with chdir(options.out):  # where the recipes look for their stores
        names = trained(options.seeds)
        forecasts = {name: f"{name}.zarr" for group in names.values() for name in group}
        scores = et.evaluate(
            forecasts, FINE, baselines=[], structure=True, channels=CHANNELS, out="scores", overwrite=True
        )
    print_table(scores.isel(region=0, lead_time=0, map_lead_time=0), names)


def trained(seeds: int) -> dict[str, list[str]]:
    """Make whatever is not there yet, and return the names of the fine fields by the way they were made."""
    raw, period, channels = "runs/data/planet42.zarr", (None, "2000-11-15"), ["vorticity", "divergence"]
    et.simulate("atmosphere", raw, truncation="T42", days=400, levels=[250, 850])
    et.prepare(raw, FINE, train=period, variables=[*channels, "u_component_of_wind"])
    et.prepare(raw, COARSE, train=period, variables=channels, coarsen=4)
    et.fit("atmodist_planet")
    names: dict[str, list[str]] = {way: [] for way in WAYS}
    for seed in range(seeds):
        chance = {"seed_everything": seed, "data.seed": seed}
        start = f"runs/mse{seed}"
        runs = {"mse": et.fit("superres_planet", run=start, options=chance)}
        spectral = chance | {"model.start": start, "model.content": SPECTRAL}
        runs["spectral"] = et.fit("superres_planet", run=f"runs/spectral{seed}", epochs=6, options=spectral)
        for kind, content in (
            ("gan_mse", None),
            ("gan_atmodist", {"run": "runs/atmodist_planet", "layer": "1.2", "error_weight": 0.0}),
            ("gan_both", {"run": "runs/atmodist_planet", "layer": "1.2", "error_weight": 0.5}),
        ):
            chosen = {**chance, "model.start": start, "model.content": content}
            runs[kind] = et.fit("superres_planet_gan", run=f"runs/{kind}{seed}", options=chosen)
        for way, kind in WAYS.items():
            names[way].append(f"{kind}{seed}")
            runs[kind].downscale(COARSE, HELD_OUT, every=24, grid=FINE, out=f"{kind}{seed}.zarr")
    for baseline in ("interpolation", "bicubic"):
        names[baseline] = [baseline]
        et.baseline(baseline).downscale(COARSE, FINE, HELD_OUT, every=24, out=f"{baseline}.zarr")
    return names


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
