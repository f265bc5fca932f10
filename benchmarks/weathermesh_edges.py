"""Do forecasts of WeatherMesh show its patches? Their power by zonal wavenumber over the truth's, with seeds.

Trains the recipe `planet_weathermesh` as it ships and without `seamless`, and forecasts from the validation period, or,
with --part test, from the test period. For each channel and lead it prints the root-mean-square error, how much of the
variance about the seasonal cycle is left, the power over the truth's at the wavenumber of the patches and around it,
and which share of the power lies at wavenumbers that the planet has none of (above 21), the truth's share in brackets:
mean ± standard deviation over seeds.

    python benchmarks/weathermesh_edges.py planet.store.zarr [--seeds 3] [--epochs 4] [--ways seamless] [--part test]
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

import etesian as et
from etesian.core.clock import seasonal_terms

CHANNELS = ("geopotential_500", "temperature_850", "u_component_of_wind_250", "2m_temperature")
LEADS = (24, 120, 336)
WAYS: dict[str, dict[str, Any]] = {"seamless": {}, "plain": {"model.network.seamless": False}}
PERIODS = {"validate": ("2001-05-16", "2001-06-16"), "test": ("2001-07-01", "2001-08-28")}
TRUNCATION = 21


def zonal_power(fields: NDArray[np.float64], rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean power of (time, latitude, longitude) by zonal wavenumber, rows weighted by their area."""
    power = abs(np.fft.rfft(fields, axis=-1, norm="forward")) ** 2
    power[..., 1:-1] *= 2
    return np.asarray((power * rows[:, None]).mean((0, 1)))


def judged(forecast: xr.Dataset, store: et.Store, channel: str, lead: int, patches: int) -> dict[str, float]:
    """Return what is printed of one channel and lead."""
    which = et.Channel.parse(channel)
    made = forecast[which.name].sel(prediction_timedelta=np.timedelta64(lead, "h"))
    made = made if which.level is None else made.sel(level=which.level)
    fields = made.transpose("time", "latitude", "longitude").values.astype(np.float64)
    time = forecast.time.values.astype("datetime64[s]").astype(np.int64) + lead * 3600
    number = store.channels.index(which)
    truth = store.read(np.searchsorted(store.time, time), [number], slice(None), slice(None))[:, 0].astype(np.float64)
    cycle = np.einsum("tk,kij->tij", seasonal_terms(time, store.calendar), store.statistics.harmonics[:, number])
    rows = store.grid.area_weights
    power, true = zonal_power(fields, rows), zonal_power(truth, rows)
    left = [float(((part - cycle) ** 2 * rows[:, None]).mean()) for part in (fields, truth)]
    return {
        "RMSE": float(np.sqrt(((fields - truth) ** 2 * rows[:, None]).mean())),
        "variance": left[0] / left[1],
        f"m = {patches}": power[patches] / true[patches],
        f"{patches - 3} to {patches + 3}": power[patches - 3 : patches + 4].sum()
        / true[patches - 3 : patches + 4].sum(),
        "beyond": power[TRUNCATION + 1 :].sum() / power[1:].sum(),
        "truth beyond": true[TRUNCATION + 1 :].sum() / true[1:].sum(),
    }


def main() -> None:
    """Train what is not trained yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store")
    parser.add_argument("--ways", choices=WAYS, nargs="+", default=list(WAYS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--part", choices=PERIODS, default="validate")
    parser.add_argument("--out", type=Path, default=Path("runs/edges"))
    options = parser.parse_args()
    store = et.Store(options.store)
    found: dict[str, list[dict[tuple[str, int], dict[str, float]]]] = {}
    for way in options.ways:
        for seed in range(options.seeds):
            name = f"{way}_{seed}"
            half = {
                "data.horizon.batches": 125 * options.epochs // 2,
                "seed_everything": seed,
                "data.seed": seed,
                "trainer.enable_progress_bar": False,
            }
            run = et.fit(
                "planet_weathermesh", run=options.out / name, stores=[store], epochs=options.epochs,
                options=half | WAYS[way],
            )  # fmt: skip
            out = options.out / f"{name}_{options.part}.zarr"
            forecast = run.forecast(store, PERIODS[options.part], LEADS, every=12, out=out)
            patches = run.task.network.latent_shape[2]
            found.setdefault(way, []).append(
                {(c, lead): judged(forecast, store, c, lead, patches) for c in CHANNELS for lead in LEADS}
            )
    for channel in CHANNELS:
        for lead in LEADS:
            for way, seeds in found.items():
                cells = []
                for name in seeds[0][channel, lead]:
                    values = [seed[channel, lead][name] for seed in seeds]
                    cells.append(f"{name} {np.mean(values):.3g} ± {np.std(values, ddof=len(values) > 1):.1g}")
                print(f"{channel:24} {lead:3} h  {way:9}  " + "   ".join(cells))


if __name__ == "__main__":
    main()
