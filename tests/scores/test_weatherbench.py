"""WeatherBench 2's own scores of its own forecasts, reproduced."""

import bz2
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from numpy.testing import assert_allclose

from etesian.core.channels import Channel
from etesian.scores.score import score

# One level and the first and last lead of WeatherBench 2's case; `shared` has both levels, all leads and both grids.
GOLDEN = Path(__file__).parents[1] / "golden"


def opened(folder: Path, case: str, name: str) -> xr.Dataset:
    path = folder / f"wb2_{case}_{name}.nc"
    if path.exists():
        return xr.open_dataset(path, decode_timedelta=True)
    return xr.open_dataset(BytesIO(bz2.decompress(Path(f"{path}.bz2").read_bytes())), decode_timedelta=True)


def open_golden(folder: Path, case: str) -> tuple[xr.Dataset, xr.Dataset, xr.Dataset, xr.Dataset]:
    """Forecasts, truth over valid time, climatology for every day of the year, and WeatherBench 2's scores."""
    parts = {name: opened(folder, case, name) for name in ("forecast", "truth", "climatology_by_hour", "scores")}
    forecast = parts["forecast"].drop_vars("valid_time").rename(lead_time="prediction_timedelta")
    pairs = parts["truth"].stack(pair=("time", "lead_time"))
    truth = pairs.drop_vars(("pair", "time", "lead_time")).assign_coords(pair=pairs.valid_time.values)
    truth = truth.drop_vars("valid_time").rename(pair="time").sortby("time")
    day = xr.DataArray(np.arange(1, 367), dims="dayofyear", coords={"dayofyear": np.arange(1, 367)})
    season = np.cos(2 * np.pi * day / 365.25)
    by_hour = parts["climatology_by_hour"]
    climatology = xr.Dataset(
        {"geopotential": by_hour.geopotential + 100 * season, "2m_temperature": by_hour["2m_temperature"] + 4 * season}
    )
    return forecast, truth, climatology.transpose("hour", "dayofyear", ...), parts["scores"]


def as_if_valid_then(folder: Path, case: str, climatology: xr.Dataset) -> xr.DataArray:
    """ACC with the climatology of the coordinate `time`, which is how these golden values were made.

    WeatherBench 2 takes `time` for the valid time unless the initial time is called `init_time`; in these files it is
    the initial time. Each lead is therefore scored as an analysis of its own, valid at `time`.
    """
    forecast, truth = (opened(folder, case, name).drop_vars("valid_time") for name in ("forecast", "truth"))
    at_once = forecast.rename(lead_time="prediction_timedelta")
    parts = []
    for lead in range(forecast.lead_time.size):
        now = at_once.isel(prediction_timedelta=[lead]).assign_coords(
            prediction_timedelta=np.array([0], "timedelta64[ns]")
        )
        scores = score({"model": now}, truth.isel(lead_time=lead), climatology=climatology, progress=False)
        parts.append(scores.acc.isel(forecast=0))
    return xr.concat(parts, "lead_time")


def check(folder: Path, case: str) -> None:
    forecast, truth, climatology, expected = open_golden(folder, case)
    scores = score({"model": forecast}, truth, climatology=climatology, progress=False).isel(forecast=0)
    scores = scores.sel(region="global")
    acc = as_if_valid_then(folder, case, climatology).sel(region="global")
    sqrt_first = np.sqrt(scores.mse_by_initial_time).mean("initial_time")
    ours = {
        "mse": scores.mse,
        "mae": scores.mae,
        "bias": scores.bias,
        "acc": acc,
        "rmse_sqrt_before_time_avg": sqrt_first,
    }
    compared = 0
    for metric, values in ours.items():
        for name in ("geopotential", "u_component_of_wind", "v_component_of_wind", "2m_temperature"):
            theirs = expected[name].sel(metric=metric)
            for level in theirs.level.values if "level" in theirs.dims else [None]:
                theirs_here = theirs if level is None else theirs.sel(level=level)
                ours_here = values.sel(channel=str(Channel(name, level)))
                assert_allclose(ours_here, theirs_here, rtol=1e-6, err_msg=f"{metric} {name} {level}")
                compared += int(np.isfinite(theirs_here).sum())
    levels, leads = expected.level.size, expected.lead_time.size
    # Geopotential has five metrics and each wind four (it has no ACC) at every level, temperature five.
    assert compared == leads * (13 * levels + 5)
    for level in expected.level.values:
        theirs = expected.wind_vector.sel(metric="wind_vector_mse", level=level)
        assert_allclose(scores.mse.sel(channel=f"wind_vector_{level}"), theirs, rtol=1e-6)
    assert_allclose(scores.rmse, np.sqrt(scores.mse), rtol=1e-14)


def test_scores_agree_with_weatherbench_2_without_points_on_the_poles() -> None:
    check(GOLDEN, "nopoles")


@pytest.mark.parametrize("case", ["poles", "nopoles"])
def test_scores_agree_with_weatherbench_2_on_all_its_grids(shared: Path, case: str) -> None:
    check(shared / "golden", case)
