"""From a file to scores in every year from 1 to 9999 and every calendar."""

from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

from etesian.core import Layout
from etesian.core.clock import decode_time, parse_time
from etesian.core.errors import DataError
from etesian.core.statistics import Statistics
from etesian.files.open import open_store
from etesian.fill.baselines import fill_baseline
from etesian.forecast.baselines import Persistence
from etesian.forecast.run import predict_to
from etesian.forecast.task import ForecastTask
from etesian.samples.windows import Period, WindowReader
from etesian.scores.drawing import plot
from etesian.scores.score import score
from etesian.store.format import to_dataset
from etesian.store.prepare import prepare
from etesian.store.reader import Store
from etesian.training.prediction import initial_times

pytestmark = pytest.mark.filterwarnings("ignore::zarr.errors.ZarrUserWarning")


def write(path: Path, calendar: str, first: str, days: int = 12, name: str = "tas") -> np.ndarray:
    """Write a file of one value per day, and return its times."""
    seconds = parse_time(first, calendar) + 86400 * np.arange(days)
    values = np.broadcast_to(280 + np.arange(days, dtype=np.float32)[:, None, None], (days, 4, 8)).copy()
    xr.Dataset(
        {name: (("time", "lat", "lon"), values, {"units": "K"})},
        {
            "time": ("time", seconds, {"units": "seconds since 1970-01-01", "calendar": calendar}),
            "lat": ("lat", [60.0, 20, -20, -60], {"units": "degrees_north"}),
            "lon": ("lon", np.arange(0.0, 360, 45), {"units": "degrees_east"}),
        },
    ).to_netcdf(path)
    return seconds


@pytest.mark.parametrize(
    ("calendar", "first"),
    [
        ("standard", "0850-03-01"),
        ("standard", "1582-10-01"),
        ("proleptic_gregorian", "0001-01-01"),
        ("standard", "2298-02-20"),
        ("noleap", "9999-12-20"),
        ("julian", "0850-02-25"),
    ],
)
def test_a_store_its_forecasts_and_their_scores_keep_the_dates_of_the_file(
    tmp_path: Path, calendar: str, first: str
) -> None:
    seconds = write(tmp_path / "a.nc", calendar, first)
    path = tmp_path / "a.zarr"
    prepare([str(tmp_path / "a.nc")], str(path), start=first, train_start=first, train_end="9999")
    store = Store(path)
    np.testing.assert_array_equal(store.time, seconds)
    dates = open_store(tmp_path / "a.nc").time.values
    assert str(to_dataset(path).time.values[0])[:10] == str(dates[0])[:10] == first

    layout = Layout(inputs=store.channels, targets=store.channels, grid=store.grid)
    task = ForecastTask(Persistence, layout, Statistics(store.channels, np.zeros(1), np.ones(1)))
    window = WindowReader(store, layout).start(seconds[:1])
    assert torch.equal(window.inputs.frame.time, torch.tensor(seconds[:1, None]))
    initial = initial_times(store, (0,), Period(first, str(dates[-1])[:10]), 24)
    predict_to(task, store, str(tmp_path / "f.zarr"), initial, (24, 48), source={})
    scores = score({"P": tmp_path / "f.zarr"}, tmp_path / "a.nc", progress=False)
    assert scores.sizes["initial_time"] == 11
    np.testing.assert_allclose(scores.rmse.sel(forecast="P").values[:, 0, 0], [1, 2], rtol=1e-5)
    assert str(scores.initial_time.values[0])[:10] == first
    plot(str(path), str(tmp_path / "a.png"), time=first)
    assert (tmp_path / "a.png").stat().st_size > 0


@pytest.mark.parametrize(
    ("calendar", "month"), [("standard", "0850-02"), ("360_day", "2298-02"), ("standard", "9999-12")]
)
def test_gaps_are_filled_and_months_averaged_in_every_year(tmp_path: Path, calendar: str, month: str) -> None:
    write(tmp_path / "a.nc", calendar, f"{month}-01", 30 if calendar == "360_day" else 28, name="sst")
    prepare([str(tmp_path / "a.nc")], str(tmp_path / "a.zarr"))
    store = Store(tmp_path / "a.zarr")
    filled = fill_baseline("observed_mean", store, store.channels, month, month)
    assert [str(time)[:10] for time in filled.time.values] == [f"{month}-01"]
    filled.to_zarr(tmp_path / "filled.zarr", zarr_format=3)
    assert str(open_store(tmp_path / "filled.zarr").time.values[0])[:10] == f"{month}-01"


@pytest.mark.parametrize("starts", [("2014-01-01", "2298-01-01"), ("0850-01-01", "2014-01-01")])
def test_files_of_one_calendar_are_joined_across_all_centuries(tmp_path: Path, starts: tuple[str, str]) -> None:
    written = [write(tmp_path / f"{start}.nc", "standard", start, 3) for start in starts]
    joined = open_store([tmp_path / f"{start}.nc" for start in reversed(starts)])
    np.testing.assert_array_equal(joined.time, decode_time(np.concatenate(written), "standard"))
    assert joined["2m_temperature"][:, 0, 0].values.tolist() == [280, 281, 282, 280, 281, 282]


def test_the_standard_and_the_proleptic_calendar_are_one_after_1582_and_two_before(tmp_path: Path) -> None:
    write(tmp_path / "a.nc", "standard", "1850-01-01", 3)
    write(tmp_path / "b.nc", "proleptic_gregorian", "1850-01-04", 3)
    assert open_store([tmp_path / "a.nc", tmp_path / "b.nc"]).sizes["time"] == 6
    write(tmp_path / "c.nc", "standard", "0850-01-01", 3)
    write(tmp_path / "d.nc", "proleptic_gregorian", "0850-01-20", 3)
    with pytest.raises(
        DataError, match=r"d\.nc counts its times in the proleptic_gregorian calendar, .*c\.nc in standard"
    ):
        open_store([tmp_path / "c.nc", tmp_path / "d.nc"])
