"""Forecasts are written where, when and in the units that they say, complete or not at all."""

import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from small_tasks import answered

from etesian.core import Fields, Layout, Region
from etesian.core.clock import parse_time
from etesian.core.errors import ChannelError, DataError, GridError, RecipeError
from etesian.core.statistics import Statistics
from etesian.forecast import run as predictor
from etesian.forecast.baselines import Persistence
from etesian.forecast.run import predict_to, stream
from etesian.forecast.task import ForecastTask
from etesian.networks.weathermesh import WeatherMesh
from etesian.networks.weathermesh_sizes import SIZES
from etesian.samples.windows import Period, WindowReader
from etesian.store.reader import Store
from etesian.training import prediction
from etesian.training.prediction import PredictionWriter, initial_times

pytestmark = pytest.mark.filterwarnings("ignore::zarr.errors.ZarrUserWarning")
PERIOD = Period("2001-01-03", "2001-01-09")


def persistence(store: Store, step_hours: int | None = None, **options: Any) -> ForecastTask:
    chosen = {"inputs": store.channels, "targets": store.channels, "grid": store.grid} | options
    layout = Layout(**chosen)
    physical = Statistics(layout.inputs, np.zeros(len(layout.inputs)), np.ones(len(layout.inputs)))
    return ForecastTask(Persistence, layout, physical, step_hours=step_hours)


def write(path: Path, store: Store, leads: tuple[int, ...] = (0, 6, 24), **options: Any) -> xr.Dataset:
    task = persistence(store)
    initial = initial_times(store, (0,), PERIOD, 24)
    predict_to(task, store, str(path), initial, leads, source={"baseline": "persistence"}, batch_size=2, **options)
    return xr.open_zarr(path)


def contents(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}


def test_persistence_repeats_the_initial_state_at_every_lead_missing_values_included(
    gappy_store: str, tmp_path: Path
) -> None:
    written = write(tmp_path / "out.zarr", Store(gappy_store))
    truth = xr.open_zarr(gappy_store)["fields"].sel(time=written.time)
    for lead in range(3):
        np.testing.assert_array_equal(written["temperature"][:, lead], truth[:, :2])
        np.testing.assert_array_equal(written["surface_pressure"][:, lead], truth[:, 2])


def test_the_layout_is_weatherbench_2s_with_cf_attributes(store: str, tmp_path: Path) -> None:
    written = write(tmp_path / "out.zarr", Store(store))
    assert written["temperature"].dims == ("time", "prediction_timedelta", "level", "latitude", "longitude")
    assert written["surface_pressure"].dims == ("time", "prediction_timedelta", "latitude", "longitude")
    assert np.issubdtype(written.time.dtype, np.datetime64)
    assert written.time.values.astype("datetime64[h]").tolist() == [
        np.datetime64(f"2001-01-{day:02d}T00").astype("datetime64[h]").tolist() for day in range(3, 10)
    ]
    assert np.issubdtype(written.prediction_timedelta.dtype, np.timedelta64)
    assert (written.prediction_timedelta.values / np.timedelta64(1, "h")).tolist() == [0, 6, 24]
    assert written.level.values.tolist() == [500, 850]
    assert written.level.attrs["units"] == "hPa"
    assert (written["temperature"].attrs["units"], written["surface_pressure"].attrs["units"]) == ("K", "Pa")
    assert written["temperature"].attrs["standard_name"] == "air_temperature"
    assert written.latitude.attrs["units"] == "degrees_north"
    assert written.attrs["Conventions"] == "CF-1.11"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.zarr"]


def test_a_stopped_forecast_goes_on_and_equals_an_undisturbed_one(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, calls = Store(store), []

    def counted(*arguments: Any) -> Iterator[Fields]:
        calls.append(len(arguments[2]))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return stream(*arguments)

    write(tmp_path / "undisturbed.zarr", reader)
    monkeypatch.setattr(predictor, "stream", counted)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "out.zarr", reader)
    assert not (tmp_path / "out.zarr").exists()
    write(tmp_path / "out.zarr", reader)
    assert calls == [2, 2, 2, 2, 1]
    assert contents(tmp_path / "out.zarr") == contents(tmp_path / "undisturbed.zarr")


@pytest.mark.parametrize("torn", [False, True])
def test_an_unfinished_forecast_of_another_plan_is_discarded(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, torn: bool
) -> None:
    reader = Store(store)
    with monkeypatch.context() as patch:
        patch.setattr(PredictionWriter, "finish", lambda writer: None)
        with pytest.raises(FileNotFoundError):
            write(tmp_path / "out.zarr", reader, leads=(6, 12, 18))
    if torn:
        (tmp_path / "out.zarr.partial" / "etesian-plan.txt").write_text("")
    expected = write(tmp_path / "fresh.zarr", reader)
    xr.testing.assert_identical(write(tmp_path / "out.zarr", reader).load(), expected.load())


def test_forecasts_that_exist_are_replaced_only_when_asked(store: str, tmp_path: Path) -> None:
    reader = Store(store)
    write(tmp_path / "out.zarr", reader)
    with pytest.raises(DataError, match=r"exists, made with leads = \[.*\] instead of \[12\]; use --overwrite"):
        write(tmp_path / "out.zarr", reader, leads=(12,))
    assert write(tmp_path / "out.zarr", reader, leads=(12,), overwrite=True).sizes["prediction_timedelta"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["out.zarr"]


def test_a_calendar_of_360_days_is_kept(make_store, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    time = xr.date_range("2001-02-25", periods=8, freq="1D", calendar="360_day", use_cftime=True)
    store = Store(make_store(time))
    initial = initial_times(store, (0,), Period("2001-02-29", "2001"), 48)
    predict_to(persistence(store), store, str(tmp_path / "out.zarr"), initial, (24,), source={})
    written = xr.open_zarr(tmp_path / "out.zarr")
    assert [str(date)[:10] for date in written.time.values] == ["2001-02-29", "2001-03-01"]
    assert written.time.dt.calendar == "360_day"


def test_levels_that_a_variable_is_not_predicted_at_are_missing_and_named(store: str, tmp_path: Path) -> None:
    reader = Store(store)
    channels = (reader.channels[0], reader.channels[1]._replace(name="geopotential"))
    writer = PredictionWriter(
        str(tmp_path / "out.zarr"), channels, reader.grid, reader.time[:1], (6,), reader.calendar, {}
    )
    task = persistence(reader)
    fields = answered(task, WindowReader(reader, task.layout), reader.time[:1], (6,))
    frame = fields.select(reader.channels[:2]).frame
    values = fields.select(reader.channels[:2]).values
    assert writer.write([0], [Fields(values, type(frame)(channels, frame.time, frame.grid, frame.calendar))])
    writer.mark([0])
    writer.finish()
    written = xr.open_zarr(tmp_path / "out.zarr").isel(time=0, prediction_timedelta=0)
    np.testing.assert_array_equal(written["temperature"].sel(level=500), values[0, 0, 0])
    np.testing.assert_array_equal(written["geopotential"].sel(level=850), values[0, 0, 1])
    assert np.isnan(written["temperature"].sel(level=850)).all()
    assert np.atleast_1d(written["temperature"].attrs["levels"]).tolist() == [500]


def test_a_store_that_does_not_fit_the_run_is_refused_and_nothing_is_left(store: str, tmp_path: Path) -> None:
    reader = Store(store)
    initial = initial_times(reader, (0,), PERIOD, 24)
    other = persistence(reader, grid=type(reader.grid).equiangular(30))
    with pytest.raises(
        GridError, match=r"store.*\.zarr lies on .*, the run on .*; regrid it with `etesian prepare --g"
    ):
        predict_to(other, reader, str(tmp_path / "out.zarr"), initial, (6,), source={})
    lacking = (reader.channels[0]._replace(level=700),)
    with pytest.raises(ChannelError, match="has no channel 'temperature_700'"):
        predict_to(
            persistence(reader, inputs=lacking, targets=lacking), reader, str(tmp_path / "o"), initial, (6,), source={}
        )
    assert not list(tmp_path.iterdir())


def test_initial_times_have_their_history_and_their_spacing(store: str) -> None:
    reader = Store(store)
    found = initial_times(reader, (-24, 0), Period("2001-01-01", "2001-01-04"), 12)
    first = parse_time("2001-01-02", "proleptic_gregorian")
    assert found.tolist() == [first + 12 * 3600 * i for i in range(6)]
    with pytest.raises(DataError, match=r"no initial time .* in 2003 to 2003; it holds 2001-01-01T00:00 to 2001-01-15"):
        initial_times(reader, (0,), Period("2003", "2003"), 24)
    with pytest.raises(
        DataError, match=r"store.*\.zarr holds .* 2001-01-03 to 2001-02-01 reaches beyond .*; ask for 20"
    ):
        initial_times(reader, (0,), Period("2001-01-03", "2001-02-01"), 24)


def test_a_region_is_forecast_from_a_store_of_the_globe(store: str) -> None:
    reader = Store(store)
    task = persistence(reader, grid=reader.grid.crop(Region(-50, 50, 300, 60)))
    fields = answered(task, WindowReader(reader, task.layout), reader.time[3:5], (6,))
    plain = xr.open_zarr(store)["fields"].sel(latitude=slice(-50, 50)).isel(longitude=[7, 0, 1])[3:5]
    np.testing.assert_array_equal(fields.values[:, 0], plain)
    assert fields.frame.grid.longitude.tolist() == [315, 360, 405]


def test_a_forecast_in_steps_gives_each_lead_as_it_comes(store: str) -> None:
    reader = Store(store)
    task = persistence(reader, step_hours=6)
    start = WindowReader(reader, task.layout).start(reader.time[:2])
    states = list(task.forecast(start, (6, 12, 18)))
    assert [(s.frame.time[:, 0] - start.inputs.frame.time[:, 0]).tolist() for s in states] == [
        [3600 * 6 * n] * 2 for n in (1, 2, 3)
    ]
    for state in states:
        torch.testing.assert_close(state.values, start.inputs.values)
    with pytest.raises(RecipeError, match="an iterated forecast feeds back its output"):
        persistence(reader, targets=reader.channels[:1], step_hours=6)


def latent_task(store: Store) -> ForecastTask:
    """Return a WeatherMesh with weights drawn, so that every lead differs."""
    torch.manual_seed(0)
    statistics = replace(store.statistics, harmonics=None, anomaly_std=None)
    options: dict[str, Any] = SIZES["tiny"] | {"dim": 16, "heads": 2, "surface_width": 4, "processors": {1: 1, 6: 1}}
    task = ForecastTask(
        lambda layout: WeatherMesh(layout, **options), Layout(store.channels, store.channels, store.grid), statistics
    )
    with torch.no_grad():
        for parameter in task.parameters():
            parameter.normal_(std=0.1)
    return task.eval()


def test_a_latent_forecast_is_written_lead_by_lead_in_memory_that_does_not_grow_with_its_length(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = Store(store)
    task = latent_task(given)
    network = task.network
    assert isinstance(network, WeatherMesh)
    monkeypatch.setattr(prediction, "CHUNK_BYTES", 3 * 4 * 2 * 48)
    hours: list[int] = []
    alive: list[weakref.ref[torch.Tensor]] = []
    most: list[int] = []

    def watched(name: str) -> None:
        method = getattr(network, name)

        def call(*arguments: Any) -> torch.Tensor:
            hours.extend(part for part in arguments[1:] if isinstance(part, int))
            out = method(*arguments)
            alive.append(weakref.ref(out))
            most[-1] = max(most[-1], sum(one() is not None for one in alive))
            return out

        monkeypatch.setattr(network, name, call)

    for name in ("step", "decode"):
        watched(name)

    def wrote(leads: tuple[int, ...]) -> xr.Dataset:
        hours.clear(), alive.clear(), most.append(0)
        path = tmp_path / f"{len(most)}.zarr"
        predict_to(task, given, str(path), given.time[:2], leads, source={}, batch_size=2)
        return xr.open_zarr(path)

    wrote((5,))
    assert hours == [1] * 5
    wrote((13,))
    assert hours == [6, 6, 1]
    several = wrote((13, 18, 5, 6))
    assert sorted(hours) == [1] * 6 + [6] * 3
    reader = WindowReader(given, task.layout)
    expected = answered(task, reader, given.time[:2], (13, 18, 5, 6))
    np.testing.assert_allclose(several["surface_pressure"], expected.values[:, :, 2], rtol=1e-5)
    np.testing.assert_allclose(several["temperature"], expected.values[:, :, :2], rtol=1e-5)
    assert np.std(several["surface_pressure"].values, axis=1).min() > 0.01

    day, fortnight = tuple(range(6, 30, 6)), tuple(range(6, 342, 6))
    wrote(day)
    long = wrote(fortnight)
    assert hours == [6] * 56
    assert long.sizes["prediction_timedelta"] == 56
    assert np.isfinite(long["temperature"]).all()
    assert long["temperature"].encoding["chunks"] == (1, 3, 2, 6, 8)
    # Leads of a chunk wait for one another; beyond that, nothing.
    assert most[-1] == most[-2] <= 8


def test_an_iterated_forecast_gives_each_state_when_it_is_reached(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = Store(store)
    task = persistence(reader, step_hours=6)
    asked: list[int] = []
    ask = task._ask
    monkeypatch.setattr(task, "_ask", lambda *given: asked.append(1) or ask(*given))
    batch = WindowReader(reader, task.layout).start(reader.time[:2])
    parts = task.forecast(batch, (6, 18))
    first = next(parts)
    assert len(asked) == 1
    assert (first.frame.time - batch.inputs.frame.time).tolist() == [[6 * 3600]] * 2
    assert torch.is_grad_enabled()
    assert not first.values.requires_grad
    second = next(parts)
    assert len(asked) == 3
    assert torch.equal(second.values, batch.inputs.values)
    assert next(parts, None) is None


def test_leads_beyond_training_are_refused_before_anything_is_written(store: str, tmp_path: Path) -> None:
    reader = Store(store)
    task = persistence(reader)
    task.provenance = {"leads": [6, 24]}
    initial = initial_times(reader, (0,), PERIOD, 24)
    with pytest.raises(RecipeError, match="trained for leads of 6 to 24 h, not for 30 h"):
        predict_to(task, reader, str(tmp_path / "out.zarr"), initial, (6, 30), source={"run": "r"})
    assert not list(tmp_path.iterdir())
