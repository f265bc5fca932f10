"""Runs as functions of tensors: the same numbers as the run's own forecasts, or refused in one sentence."""

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_tasks
import torch
import xarray as xr
from running import etesian

import etesian as et
from etesian.core.clock import cosine_solar_zenith, parse_time, seasonal_terms
from etesian.core.errors import RecipeError
from etesian.exporting import programs
from etesian.exporting.network import CALENDAR, ExportedRun
from etesian.exporting.programs import METADATA, _quiet, write_onnx, write_pt2
from etesian.networks.weathermesh_parts import clock_features
from etesian.nn.moment import Initial, clock_inside, counted_from, seasons
from etesian.training.members import MemberNoise

pytestmark = pytest.mark.filterwarnings("ignore::zarr.errors.ZarrUserWarning")

DATES = [
    "1900-03-01T05",
    "1969-12-31T23",
    "2000-02-29T12",
    "2000-12-31T18",
    "2001-01-01",
    "2100-02-28T06",
    "2399-07-04",
]


def test_the_clock_inside_of_an_exported_network_is_the_clock() -> None:
    seconds = np.array([parse_time(date, CALENDAR) for date in DATES])
    since = torch.zeros(len(DATES), 1, dtype=torch.int64)
    for calendar in (CALENDAR, "noleap", "360_day"):
        with counted_from(Initial(torch.from_numpy(seconds))):
            inside = seasons(since, calendar, torch.zeros(()))
        np.testing.assert_allclose(inside[:, 0], seasonal_terms(seconds, calendar), atol=2e-6)
    frame = et.Frame((et.Channel("a"),), torch.from_numpy(seconds)[:, None], small_tasks.GLOBE)
    expected = clock_features(frame, torch.zeros(()))
    with counted_from(Initial(torch.from_numpy(seconds))):
        inside = clock_inside(since[:, 0], small_tasks.GLOBE, CALENDAR)
        with pytest.raises(RecipeError, match="not julian"):
            seasons(since, "julian", torch.zeros(()))
    np.testing.assert_allclose(inside, expected, atol=5e-6)
    np.testing.assert_allclose(inside[:, 0], cosine_solar_zenith(seconds, small_tasks.GLOBE), atol=5e-6)


@pytest.fixture(scope="module")
def run(store: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A U-Net that sees the season twice, and has members."""
    torch.manual_seed(0)
    data = et.ForecastData(
        [store],
        leads=[6, 24],
        train=("2001-01-01", "2001-01-10"),
        validate=("2001-01-11", "2001-01-15"),
        history=[-6, 0],
    )
    data.setup("fit")
    task = et.ForecastTask(
        lambda own: small_tasks.stirred(et.UNet(own, (6, 24), width=8, dropout=0.0, noise=0.0)),
        data.layout, data.statistics, anomalies=True, members=2,
    )  # fmt: skip
    task.provenance = data.provenance
    return small_tasks.saved(task, tmp_path_factory.mktemp("runs") / "run")


def inputs_of(described: dict[str, Any], store: str, initial: str, noise: np.ndarray) -> dict[str, np.ndarray]:
    """What the function is given for one initial time, as its description tells."""
    given, told = et.Store(store), {each["name"]: each for each in described["inputs"]}
    time = parse_time(initial, CALENDAR)
    index = np.searchsorted(given.time, time + 3600 * np.array(told["states"]["hours"]))
    names = [et.Channel(each["name"], each["level_hPa"]) for each in told["states"]["channels"]]
    assert tuple(names) == given.channels
    states = given.read(index, slice(None), slice(None), slice(None))[None]
    return {"states": states, "statics": given.statics, "noise": noise, "time": np.array([time])}


def normals(described: dict[str, Any], initial: str, member: int) -> np.ndarray:
    (told,) = [each for each in described["inputs"] if each["name"] == "noise"]
    draw = MemberNoise(0, [parse_time(initial, CALENDAR)], [member])
    return np.stack([draw(step, tuple(told["shape"][2:])).numpy() for step in told["steps"]], axis=1)


def answers_as(run: str, store: str, told: dict[str, Any], function: Callable[..., np.ndarray]) -> None:
    initial = "2001-01-10T06"
    forecast = et.load(run).forecast(store, (initial, initial), [6, 24], members=2, seed=0)
    assert told["output"]["leads_hours"] == [6, 24]
    for member in range(2):
        answer = function(**inputs_of(told, store, initial, normals(told, initial, member)))
        for place, each in enumerate(told["output"]["channels"]):
            array = forecast[each["name"]].isel(time=0, number=member)
            array = array if each["level_hPa"] is None else array.sel(level=each["level_hPa"])
            off = np.abs(answer[0, :, place] - array.values).max() / np.abs(array.values).max()
            assert off < 1e-5, each


def test_a_program_of_torch_gives_the_forecasts_of_the_run(run: str, store: str, tmp_path: Path) -> None:
    out = tmp_path / "run.pt2"
    etesian("export", run, out, "--leads", 6, 24)
    extra = {METADATA: ""}
    program = torch.export.load(str(out), extra_files=extra).module()
    told = json.loads(extra[METADATA])
    names = [each["name"] for each in told["inputs"]]
    assert names == ["states", "statics", "noise", "time"]
    assert told["grid"] == et.Store(store).grid.to_dict()
    assert told["output"]["channels"][0] == {"name": "temperature", "level_hPa": 500, "units": "K"}

    def answer(**given: np.ndarray) -> np.ndarray:
        return program(*(torch.from_numpy(np.ascontiguousarray(given[name])) for name in names)).numpy()

    answers_as(run, store, told, answer)


def test_an_onnx_model_gives_the_forecasts_of_the_run(run: str, store: str, tmp_path: Path) -> None:
    onnx, runtime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    out = et.export(et.load(run), tmp_path / "run.onnx", leads=[6, 24])
    told = json.loads(next(p.value for p in onnx.load(str(out)).metadata_props if p.key == "etesian"))
    session = runtime.InferenceSession(str(out))
    answers_as(run, store, told, lambda **given: session.run(None, given)[0])


# Of several leads at once, a run's own program is above, and the iterated ones are here.
KINDS = {
    "climax_departure": (24,), "climax_iterated": (6, 12), "climax_local": (24,), "climax_forced": (24,),
    "climax_history": (6,), "mesh_tiled": (6, 12), "mesh_members": (12,), "downscaled": (), "regressed": (),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_every_network_that_forecasts_or_downscales_is_a_program(kind: str, tmp_path: Path) -> None:
    # Writing holds the program against the run at two dates and refuses one that is off.
    run = ExportedRun(getattr(small_tasks, kind)()[0], KINDS[kind], 1)
    write_pt2(run, tmp_path / "run.pt2")
    assert (tmp_path / "run.pt2").stat().st_size > 0


def test_holes_are_given_as_nan() -> None:
    task, batch = small_tasks.climax_local()
    run = ExportedRun(task, (6, 24), 2)
    assert run.described()["inputs"][0]["missing"] == "NaN"
    start = batch.inputs.frame.time[0]
    frames = [replace(part.frame, time=start.expand(2, -1).clone()) for part in (batch.inputs, batch.statics)]
    inputs, statics = (
        replace(part, frame=frame) for part, frame in zip((batch.inputs, batch.statics), frames, strict=True)
    )
    given = et.Batch(inputs, statics=replace(statics, values=statics.values[:1].expand(2, -1, -1, -1, -1)))
    expected = torch.cat([part.values for part in task.eval().forecast(given, [6, 24])], 1)
    answer = run(inputs.filled(float("nan")), statics.values[0, 0])
    torch.testing.assert_close(answer, expected, rtol=0, atol=1e-5)


def test_what_is_no_function_of_one_state_is_refused(tmp_path: Path, run: str) -> None:
    for kind, leads, message in (
        ("fill_daily", (), "a run that fills the gaps of months of a calendar is no function"),
        ("lags", (), "a run that measures distances is no function"),
        ("projected", (), "a run that projects scenarios is no function"),
        ("super_resolved", (), "super-resolution is made for each grid anew"),
        ("unet_forced", (6,), "is given the state around its region"),
        ("climax_iterated", (7,), "7 h is no whole number of the steps of 6 h"),
        ("climax_plain", (), "exported for some leads; name them"),
        ("downscaled", (6,), "a run that downscales has no leads"),
    ):
        with pytest.raises(RecipeError, match=message):
            ExportedRun(getattr(small_tasks, kind)()[0], leads, 1)
    with pytest.raises(RecipeError, match="only a trained run is exported as"):
        et.export("baseline:persistence", tmp_path / "a.onnx", leads=[6])
    with pytest.raises(RecipeError, match="leads means nothing"):
        et.export(xr.Dataset(), tmp_path / "a.nc", leads=[6])
    with pytest.raises(RecipeError, match="not for 48 h"):
        et.export(run, tmp_path / "a.pt2", leads=[48])
    assert not list(tmp_path.iterdir())


def test_runs_of_means_say_over_how_many_hours() -> None:
    task, _ = small_tasks.climax_plain()
    task.provenance["average_hours"] = 24
    assert ExportedRun(task, (24,), 1).described()["output"]["averaging_hours"] == 24


@pytest.mark.parametrize("before", [logging.NOTSET, logging.ERROR])
def test_what_was_said_about_logging_holds_afterwards(before: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.root.manager, "disable", before)
    with _quiet():
        with _quiet():
            pass
        assert logging.root.manager.disable == max(before, logging.WARNING)
    assert logging.root.manager.disable == before


def test_a_function_that_is_off_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = ExportedRun(small_tasks.climax_plain()[0], (6,), 1)
    monkeypatch.setattr(run, "trial", lambda *date: (ExportedRun.trial(run, *date)[0], torch.zeros(1, 1, 6, 8, 16)))
    traced = programs._traced(run)
    monkeypatch.setattr(programs, "_traced", lambda _: traced)
    for write in (write_pt2, write_onnx):
        if write is write_onnx:
            pytest.importorskip("onnxruntime")
        with pytest.raises(RecipeError, match="so nothing was written"):
            write(run, tmp_path / "a")
    assert not list(tmp_path.iterdir())
