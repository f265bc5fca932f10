"""What is known at the target times: read at exactly these, given step by step, and asked for where it is missing."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
import yaml
from running import etesian
from torch import Tensor

import etesian as et
from etesian.core import Channel, Fields, Frame, Grid, Layout
from etesian.core.clock import parse_time
from etesian.core.errors import ChannelError, DataError, GridError, RecipeError
from etesian.core.radiation import SOLAR_RADIATION, incident_solar_radiation
from etesian.forecast.data import ForecastData
from etesian.forecast.driving import open_forcings
from etesian.forecast.run import predict_to
from etesian.forecast.task import ForecastTask
from etesian.networks.network import Network
from etesian.samples.windows import WindowPick
from etesian.store.format import to_dataset
from etesian.store.reader import Store
from etesian.training.checkpoint import SafeCheckpoints, best_and_last, load_task

pytestmark = pytest.mark.filterwarnings("ignore")
HOUR = 3600
PRESSURE, WARM = Channel("surface_pressure"), Channel("temperature", 850)
PERIODS = ("2001-01-01", "2001-01-08"), ("2001-01-09", "2001-01-12")
SUN = str(SOLAR_RADIATION)
ROOT = Path(__file__).parents[2]


def data(store: str, *, leads: tuple[int, ...] = (6, 12, 24), **options: Any) -> ForecastData:
    given: dict[str, Any] = {"batch_size": 3} | options
    return ForecastData([store], *PERIODS, list(leads), **given)


def true(store: str, channel: Channel, time: np.ndarray) -> np.ndarray:
    held = Store(store)
    return held.read(np.searchsorted(held.time, time.ravel()), np.array([held.channels.index(channel)])).reshape(
        *time.shape, *held.grid.shape
    )


class Repeats(Network):
    """Answers what it knows of the target time, added to the state that it starts from where it is told to."""

    def __init__(self, layout: Layout, add: bool = False) -> None:
        super().__init__()
        self.layout, self.add = layout, add
        self.asked: list[Fields] = []

    def forward(
        self, inputs: Fields, target: Frame, *, forcings: Fields | None = None, statics: Fields | None = None
    ) -> Tensor:
        assert forcings is not None
        self.asked.append(inputs)
        known = forcings.filled()[:, :, :1].expand(-1, -1, len(target.channels), -1, -1)
        start = inputs.at(-1).select(target.channels).filled()
        return known + start if self.add else known


def test_forcings_are_those_of_the_target_times_and_of_no_other(store: str) -> None:
    made = data(store, inputs=["temperature"], forcings=[SUN, "surface_pressure"], leads_per_sample=2)
    assert made.layout.forcings == (SOLAR_RADIATION, PRESSURE)
    for batch in made.train_dataloader():
        time = batch.targets.frame.time
        assert torch.equal(batch.forcings.frame.time, time)
        np.testing.assert_array_equal(batch.forcings.values[:, :, 1], true(store, PRESSURE, time.numpy()))
        earlier = true(store, PRESSURE, time.numpy() - 6 * HOUR)
        assert not (batch.forcings.values[:, :, 1].numpy() == earlier).any()
        sun = incident_solar_radiation(time.numpy(), made.layout.grid)
        np.testing.assert_allclose(batch.forcings.values[:, :, 0], sun, rtol=1e-6)
        assert batch.forcings.valid is None


def test_statistics_are_the_stores_and_of_the_sun_its_own(store: str) -> None:
    known = data(store, forcings=[SUN, "surface_pressure"])
    assert known.layout.targets == known.layout.inputs[:2]
    mean, std = (dict(zip(known.statistics.channels, numbers, strict=True)) for numbers in
                 (known.statistics.mean, known.statistics.std))  # fmt: skip
    assert mean[SOLAR_RADIATION] / 3600 == pytest.approx(325, rel=0.1)
    assert std[PRESSURE] == pytest.approx(Store(store).statistics.std[2])
    batch = next(iter(known.val_dataloader()))
    task = ForecastTask(Repeats, known.layout, known.statistics, anomalies=True)
    forced = task.normalized(batch).forcings
    physical = task.normalizer.denormalize(forced.values, forced.frame)
    torch.testing.assert_close(physical, batch.forcings.values, rtol=1e-4, atol=30.0)
    assert 0.3 < float(forced.values.std()) < 3


def test_radiation_that_is_no_forcing_has_the_statistics_of_the_store(store: str, tmp_path: Path) -> None:
    held = to_dataset(store)[["surface_pressure"]].rename(surface_pressure=SUN)
    held[SUN].attrs = {"units": "J m-2"}
    path = str(et.prepare(held, tmp_path / "sun.zarr").path)
    found, expected = data(path).statistics, Store(path).statistics
    for name in ("mean", "std", "anomaly_std", "harmonics"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=1e-6)


def test_missing_forcings_are_masked_and_counted_as_inputs_are(gappy_store: str) -> None:
    made = data(gappy_store, inputs=["surface_pressure"], forcings=["temperature_850"])
    batch = next(iter(made.val_dataloader()))
    expected = true(gappy_store, WARM, batch.forcings.frame.time.numpy())
    np.testing.assert_array_equal(batch.forcings.valid[:, :, 0], np.isfinite(expected))
    assert (batch.forcings.values[~batch.forcings.valid] == 0).all()
    assert 0.05 < made.holes()[WARM] < 0.15


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"targets": ["temperature"], "forcings": ["temperature_850"]}, "'temperature_850' is among the forcings and"),
        ({"forcings": ["surface_presure"]}, "no channel 'surface_presure'; did you mean 'surface_pressure'"),
        ({"forcings": ["surface_pressure"], "average_hours": 6}, "leave out average_hours or forcings"),
        ({"boundary": 1}, "boundary: 1 must be points around a region on one grid; name the region"),
        ({"boundary": 2, "region": "-50,50,0,270"}, "2 rows and columns around .* reach beyond the grid"),
        ({"boundary": 1, "region": "-50,50,0,360"}, "1 rows and columns around .* reach beyond the grid"),
    ],
)
def test_what_would_give_the_truth_away_or_is_not_there_is_refused(
    store: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises((RecipeError, ChannelError, GridError), match=message):
        data(store, **options)


def test_the_boundary_is_a_frame_around_the_region_in_which_alone_targets_are_known(store: str) -> None:
    made = data(store, region="-20,20,315,45", boundary=1, forcings=[SUN])
    layout = made.layout
    assert layout.grid == Grid(np.linspace(-75, 75, 6)[1:5], [270, 315, 360, 405, 450])
    assert layout.predicted_grid == Grid([-15, 15], [315, 360, 405])
    assert layout.forcings == (SOLAR_RADIATION, *layout.targets)
    batch = next(iter(made.val_dataloader()))
    known, asked = batch.forcings.valid, batch.targets.valid
    assert known[:, :, 0].all()
    assert (known[:, :, 1:] == ~asked).all()
    assert int(asked[0, 0, 0].sum()) == 6
    assert asked[..., 1:-1, 1:-1].all()
    truth = true(store, WARM, batch.targets.frame.time.numpy())[..., 1:5, :][..., [6, 7, 0, 1, 2]]
    frame = known[:, :, 2].numpy()
    np.testing.assert_array_equal(batch.forcings.values[:, :, 2].numpy()[frame], truth[frame])
    assert (batch.forcings.values[:, :, 2].numpy()[~frame] == 0).all()
    np.testing.assert_array_equal(batch.targets.values[:, :, 1].numpy()[~frame], truth[~frame])


def test_a_band_has_no_edge_round_the_globe_and_a_cap_none_at_the_pole(store: str) -> None:
    band = data(store, region="-20,20,0,360", boundary=1).layout
    assert (band.grid.shape, band.predicted_grid.shape) == ((4, 8), (2, 8))
    cap = data(store, region="40,90,0,360", boundary=1).layout
    assert (cap.grid.shape, cap.predicted_grid.shape) == ((3, 8), (2, 8))


def iterated(made: ForecastData, network: Callable[[Layout], Network]) -> ForecastTask:
    made.step_hours = 6
    return ForecastTask(network, made.layout, made.statistics, step_hours=6)


def test_a_roll_out_is_given_the_forcings_of_every_step(store: str) -> None:
    made = data(store, leads=(12, 18), inputs=["temperature"], forcings=["surface_pressure"])
    task = iterated(made, lambda layout: Repeats(layout, add=True))
    batch = next(iter(made.val_dataloader()))
    initial = batch.inputs.frame.time[:, -1:]
    assert torch.equal(batch.forcings.frame.time, initial + torch.tensor([6, 12, 18]) * HOUR)
    normal = task.normalized(batch)
    steps = normal.forcings.values.cumsum(1)
    expected = normal.inputs.values + steps[:, 1:]
    torch.testing.assert_close(task(normal, batch.targets.frame), expected, rtol=1e-5, atol=1e-5)


def test_a_samples_roll_out_does_not_depend_on_the_others_of_its_batch(store: str) -> None:
    made = data(store, leads=(6, 24), inputs=["temperature"], forcings=["surface_pressure", SUN])
    made.step_hours = 6
    reader = made.dataset("validate").readers[0]
    task = iterated(made, lambda layout: Repeats(layout, add=True))
    last = len(reader.store.time) - 2
    near, far = WindowPick(0, last, (6,)), WindowPick(0, last - 6, (24,))
    answers = []
    for picks in ((near, far), (near,), (far,)):
        batch = reader.batch(picks)
        answers.append(task.predict(batch, batch.targets.frame).values)
    torch.testing.assert_close(answers[0], torch.cat(answers[1:]), rtol=0, atol=0)


def test_what_is_known_takes_the_place_of_what_was_fed_back(store: str) -> None:
    made = data(store, leads=(12,), region="-20,20,315,45", boundary=1, forcings=["surface_pressure"])
    task = iterated(made, Repeats)
    batch = next(iter(made.val_dataloader()))
    normal = task.normalized(batch)
    task(normal, batch.targets.frame)
    second = task.network.asked[1]
    assert second.frame.channels == made.layout.inputs
    pressure, warm = (second.select((channel,)).values[:, 0, 0] for channel in (PRESSURE, WARM))
    at_six = normal.forcings.at(0)
    torch.testing.assert_close(pressure, at_six.select((PRESSURE,)).values[:, 0, 0])
    frame = at_six.select((WARM,))
    outside = frame.valid[0, 0, 0]
    torch.testing.assert_close(warm[:, outside], frame.values[:, 0, 0][:, outside])
    # Inside is what the network has answered: the pressure again.
    torch.testing.assert_close(warm[:, ~outside], pressure[:, ~outside])


def test_forcings_of_other_steps_are_missed(store: str) -> None:
    made = data(store, leads=(24,), inputs=["temperature"], forcings=["surface_pressure"])
    task = ForecastTask(Repeats, made.layout, made.statistics, step_hours=6)
    batch = next(iter(made.val_dataloader()))
    with pytest.raises(DataError, match="'surface_pressure' is not known at 2001-01-09T06:00"):
        task(task.normalized(batch), batch.targets.frame)


def networks(made: ForecastData) -> dict[str, Network]:
    torch.manual_seed(0)
    size = {"patch": 2, "dim": 16, "depth": 1, "heads": 2}
    found: dict[str, Network] = {
        "climax": et.ClimaX(made.layout, **size),
        "climax_local": et.ClimaX(made.layout, local_width=4, validity=True, **size),
        "climax_history": et.ClimaX(made.layout, history="attention", **size),
        "unet": et.UNet(made.layout, (6, 24), width=8),
    }
    for network in found.values():
        network.eval()
        for parameter in network.parameters():
            parameter.data += 0.05 * torch.randn_like(parameter)
    return found


@pytest.mark.parametrize("name", ["climax", "climax_local", "climax_history", "unet"])
def test_networks_answer_from_the_forcings_of_each_lead(store: str, name: str) -> None:
    made = data(store, leads=(6, 24), forcings=[SUN], draw="all", region="-20,20,0,360", boundary=1)
    network = networks(made)[name]
    task = ForecastTask(lambda _: network, made.layout, made.statistics)
    batch = task.normalized(next(iter(made.val_dataloader())))
    frame = batch.targets.frame
    given = replace(batch.forcings, values=batch.forcings.values.clone().requires_grad_())
    answer = network(batch.inputs, frame, forcings=given, statics=batch.statics)
    assert answer.shape == batch.targets.values.shape
    (gradient,) = torch.autograd.grad(answer[:, 1].square().sum(), given.values)
    assert (gradient[:, 0] == 0).all()
    assert (gradient[:, 1].abs().amax(dim=(-2, -1)) > 0).all()
    for lead in range(2):
        one = replace(frame, time=frame.time[:, lead : lead + 1])
        alone = network(batch.inputs, one, forcings=batch.forcings.at(lead), statics=batch.statics)
        torch.testing.assert_close(alone[:, 0], answer[:, lead], rtol=1e-4, atol=1e-5)
    with pytest.raises(DataError, match="built with 'toa_incident_solar_radiation', but is given no forcings"):
        network(batch.inputs, frame, statics=batch.statics)
    with pytest.raises(DataError, match="are of other times than the target"):
        network(batch.inputs, one, forcings=batch.forcings.at(0), statics=batch.statics)


def test_what_cannot_take_forcings_says_so(store: str) -> None:
    made = data(store, inputs=["temperature"], forcings=[SUN])
    with pytest.raises(RecipeError, match="not of what is reconstructed; leave out forcings"):
        et.PretrainTask(
            lambda layout: et.ClimaX(layout, patch=2, dim=16, depth=1, heads=2, validity=True),
            made.layout,
            made.statistics,
        )


RECIPE = """
data:
  class_path: etesian.ForecastData
  init_args:
    {{stores: [{store}], leads: [6, 12], train: [2001-01-01, 2001-01-08], validate: [2001-01-09, 2001-01-12],
     batch_size: 8, {data}}}
model:
  class_path: etesian.ForecastTask
  init_args:
    network: {{class_path: etesian.UNet, init_args: {{leads: [6], width: 8}}}}
    step_hours: 6
trainer: {{max_epochs: {epochs}, logger: false, enable_progress_bar: false, enable_model_summary: false}}
"""


def fitted(store: str, folder: Path, options: str, epochs: int = 2) -> et.Run:
    recipe = folder / "recipe.yaml"
    recipe.write_text(RECIPE.format(store=store, data=options, epochs=epochs))
    return et.fit(recipe, run=folder / "run")


INIT, LEADS = ("2001-01-10", "2001-01-12"), (6, 12)


def test_a_run_trains_through_roll_outs_and_forecasts_until_the_store_ends(store: str, tmp_path: Path) -> None:
    run = fitted(store, tmp_path, "forcings: [surface_pressure, toa_incident_solar_radiation]")
    assert run.task.layout.forcings == (PRESSURE, SOLAR_RADIATION)
    forecasts = run.forecast(store, INIT, LEADS)
    assert set(forecasts.data_vars) == {"temperature"}
    assert np.isfinite(forecasts["temperature"]).all()
    with pytest.raises(DataError, match=r"'surface_pressure' must be known at 2001-01-16T00:00, but .* does not hold"):
        run.forecast(store, ("2001-01-14", "2001-01-15"), (24,))
    # A scenario that is the store's own says the same; another one does not.
    scenario = to_dataset(store)[["surface_pressure"]]
    same = run.forecast(store, INIT, LEADS, forcings=scenario)
    xr.testing.assert_equal(same, forecasts)
    other = run.forecast(store, INIT, LEADS, forcings=scenario + 3000.0)
    assert float(abs(other - forecasts)["temperature"].max()) > 1e-3
    with pytest.raises(ChannelError, match="the forcings has no channel 'surface_pressure', which the run is to know"):
        run.forecast(store, INIT, LEADS, forcings=scenario.rename(surface_pressure="pressure"))
    out = tmp_path / "out.zarr"
    run.forecast(store, INIT, LEADS, forcings=store, out=out)
    with pytest.raises(DataError, match="forcings"):
        run.forecast(store, INIT, LEADS, out=out)


FAST = """consistency: 0.1
    warmup_steps: 1
    optimizer: {class_path: torch.optim.AdamW, init_args: {lr: 0.02}}"""
MESH = """etesian.WeatherMesh, init_args:
      {patch: [1, 2, 2], dim: 8, heads: 2, window: [1, 3, 3], encoder_depth: 1, decoder_depth: 1, processors: {6: 1},
       surface_width: 4}"""


def test_a_weathermesh_trains_and_forecasts_with_what_is_known(store: str, tmp_path: Path) -> None:
    text = RECIPE.format(store=store, data=f"forcings: [surface_pressure, {SUN}], leads_per_sample: 2", epochs=2)
    text = text.replace("ForecastTask", "LatentForecastTask").replace("step_hours: 6", FAST)
    (tmp_path / "recipe.yaml").write_text(text.replace("etesian.UNet, init_args: {leads: [6], width: 8}", MESH))
    run = et.fit(tmp_path / "recipe.yaml", run=tmp_path / "run")
    scenario = to_dataset(store)[["surface_pressure"]]
    known = run.forecast(store, INIT, (6, 12, 36))
    xr.testing.assert_equal(
        run.forecast(store, INIT, (36, 12), forcings=scenario), known.isel(prediction_timedelta=[1, 2])
    )
    valid, moment = known.time + known.prediction_timedelta, np.datetime64("2001-01-11T12")
    other = scenario + 3000.0 * (scenario.time == moment)
    changed = abs(run.forecast(store, INIT, (6, 12, 36), forcings=other) - known)["temperature"]
    there = changed.max(("latitude", "longitude")) > 0
    assert (there == (valid == moment)).all()
    assert there.sum() == 2 * 2
    assert changed.max() > 1e-3
    with pytest.raises(DataError, match=r"'surface_pressure' must be known at 2001-01-16T00:00, but .* does not hold"):
        run.forecast(store, ("2001-01-14", "2001-01-15"), (24,))


def test_a_scenario_in_other_units_dates_or_places_is_refused(store: str, tmp_path: Path) -> None:
    made = data(store, inputs=["temperature"], forcings=["surface_pressure"])
    task = ForecastTask(lambda layout: Repeats(layout, add=True), made.layout, made.statistics)
    task.provenance = made.provenance
    held = Store(store)
    initial = held.time[held.time >= parse_time("2001-01-10", held.calendar)][:2]

    def forecast(forcings: xr.Dataset | None, task: ForecastTask = task, number: list[int] = [0]) -> xr.Dataset:  # noqa: B006
        number[0] += 1
        given = None if forcings is None else open_forcings(forcings)
        out = tmp_path / f"{number[0]}.zarr"
        predict_to(task, held, str(out), initial, (6, 12), source={}, forcings=given)
        return xr.open_zarr(out).load()

    scenario = to_dataset(store)[["surface_pressure"]]
    expected = forecast(None)
    # North first, 180° W first, and more of the world than is needed.
    turned = scenario.isel(latitude=slice(None, None, -1)).assign_coords(
        longitude=(scenario.longitude + 180) % 360 - 180
    )
    xr.testing.assert_equal(forecast(turned.sortby("longitude")), expected)
    wrong = scenario.copy()
    wrong["surface_pressure"] = scenario["surface_pressure"].assign_attrs(units="hPa")
    with pytest.raises(DataError, match="'surface_pressure' is in hPa in the forcings, but the run knows it in Pa"):
        forecast(wrong)
    noleap = scenario.convert_calendar("noleap", use_cftime=True)
    with pytest.raises(DataError, match="the forcings counts time in the noleap calendar, the initial states in"):
        forecast(noleap)
    with pytest.raises(GridError, match="the forcings lies on"):
        forecast(scenario.isel(longitude=slice(2, None)))
    gappy = scenario.where((scenario.latitude > 0) | (scenario.longitude > 100))
    filled = forecast(gappy)
    assert np.isfinite(filled["temperature"]).all()
    free = ForecastTask(lambda layout: Repeats(layout), replace(made.layout, forcings=()), made.statistics)
    with pytest.raises(RecipeError, match="the run reads nothing of the target times, but the forcings is given"):
        forecast(scenario, free)


class Plug(L.Callback):
    """Stops a run in its second epoch."""

    def on_train_epoch_start(self, trainer: L.Trainer, *_: object) -> None:
        if trainer.current_epoch == 1:
            raise RuntimeError("unplugged")


def test_a_run_goes_on_as_if_it_had_never_stopped(store: str, tmp_path: Path) -> None:
    def train(run: Path, *callbacks: L.Callback) -> None:
        torch.manual_seed(0)
        made = data(store, leads=(6, 12), forcings=["surface_pressure", SUN])
        task = ForecastTask(lambda own: et.UNet(own, (6,), width=8), made.layout, made.statistics, step_hours=6)
        trainer = L.Trainer(
            max_epochs=2, logger=False, enable_progress_bar=False, enable_model_summary=False, accelerator="cpu",
            plugins=[SafeCheckpoints()], callbacks=[*best_and_last(run), *callbacks], use_distributed_sampler=False,
        )  # fmt: skip
        trainer.fit(task, datamodule=made, ckpt_path=str(run / "last") if (run / "last").exists() else None)

    train(tmp_path / "through")
    with pytest.raises(RuntimeError, match="unplugged"):
        train(tmp_path / "stopped", Plug())
    train(tmp_path / "stopped")
    ours, theirs = (load_task(tmp_path / name / "last") for name in ("through", "stopped"))
    weights = theirs.state_dict()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in ours.state_dict().items())
    a, b = (et.load(tmp_path / name / "last").forecast(store, INIT, LEADS) for name in ("through", "stopped"))
    xr.testing.assert_equal(a, b)


@pytest.fixture(scope="module")
def summer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store of the channels and dates of the pages."""
    folder = tmp_path_factory.mktemp("summer")
    time = pd.date_range("2001-05-01", "2001-09-12", freq="D")
    random = np.random.default_rng(0)
    dims = ("time", "latitude", "longitude")
    units = {"2m_temperature": "K", "sea_surface_temperature": "K", "surface_pressure": "Pa"}
    values = {
        name: (dims, random.standard_normal((len(time), 6, 8)).astype("f4") + 280, {"units": own})
        for name, own in units.items()
    }
    place = {"latitude": np.linspace(-75, 75, 6), "longitude": np.arange(8) * 45.0}
    et.prepare(xr.Dataset(values, {"time": time, **place}), folder / "ocean.zarr")
    return folder


def test_the_recipe_of_the_page_is_one(summer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(summer)
    page = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8").split("## What is known ahead")[1]
    written = yaml.safe_load(page.split("```yaml")[1].split("```")[0])["data"]["init_args"]
    made = ForecastData(
        leads=[24], train=("2001-05-01", "2001-06-01"), validate=("2001-06-02", "2001-06-30"), **written
    )
    assert made.layout.forcings == (SOLAR_RADIATION, Channel("sea_surface_temperature"))
    assert [str(channel) for channel in made.layout.targets] == ["2m_temperature", "surface_pressure"]
    assert Channel("sea_surface_temperature") in made.layout.inputs


def test_a_region_is_driven_as_the_page_has_it(summer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(summer)
    store, page = "ocean.zarr", (ROOT / "docs" / "regions.md").read_text(encoding="utf-8")
    text = RECIPE.format(store=store, data='region: "-20,20,90,200", boundary: 1', epochs=1).replace("6, 12", "24, 48")
    text = text.replace("leads: [6]", "leads: [24]").replace("step_hours: 6", "step_hours: 24")
    text = text.replace("2001-01-01, 2001-01-08", "2001-05-01, 2001-06-01").replace("2001-01-09", "2001-06-02")
    Path("recipe.yaml").write_text(text.replace("2001-01-12", "2001-06-30"))
    names: dict[str, Any] = {
        "run": et.fit("recipe.yaml", run="region"),
        "globe": et.baseline("persistence"),
        "store": store,
    }
    code = page.split("### Lateral boundaries")[1].split("```python")[1].split("```")[0]
    assert "2001-09-05" in code
    # From five days, and not from all of two months.
    exec(code.replace("2001-09-05", "2001-07-05"), names)
    assert dict(names["driving"].sizes)["prediction_timedelta"] == 5
    dates, leads = ["--init", "2001-07-01", "2001-07-03"], ["--leads", "24", "72", "120"]
    etesian("forecast", "region", store, "driven.zarr", *dates, *leads, "--forcings", "globe.zarr")
    again = names["run"].forecast(store, ("2001-07-01", "2001-07-03"), [24, 72, 120], forcings="globe.zarr")
    xr.testing.assert_equal(again, xr.open_zarr("driven.zarr", decode_timedelta=True))
    etesian("forecast", "region", store, "driven.zarr", *dates, *leads, "--forcings", "globe.zarr")
    with pytest.raises(AssertionError, match="baseline:persistence"):
        etesian("forecast", "baseline:persistence", store, "other.zarr", *dates, *leads, "--forcings", "globe.zarr")


def test_a_network_without_forcings_can_be_gone_on_with(store: str) -> None:
    size = {"patch": 2, "dim": 16, "depth": 1, "heads": 2}
    before, after = (data(store, inputs=["temperature"], forcings=given).layout for given in ([], [SUN]))
    trained, network = et.ClimaX(before, **size), et.ClimaX(after, **size)
    outcomes = network.adopt(trained).outcomes
    assert outcomes["toa_incident_solar_radiation_ahead"] == "new"
    assert outcomes["blocks.0.attention.qkv.weight"] == "loaded"
    ours, theirs = network.aggregation.token_weight, trained.aggregation.token_weight
    torch.testing.assert_close(ours[:2], theirs[:2])


def test_a_region_is_driven_by_the_forecasts_of_a_larger_one(store: str, tmp_path: Path) -> None:
    run = fitted(store, tmp_path, 'region: "-20,20,90,200", boundary: 1', 1)
    driven = run.forecast(store, INIT, LEADS)
    assert dict(driven.sizes) == {"time": 3, "prediction_timedelta": 2, "level": 2, "latitude": 2, "longitude": 3}
    globe = et.baseline("persistence").forecast(store, INIT, LEADS, out=tmp_path / "globe.zarr")
    ours = run.forecast(store, INIT, LEADS, forcings=tmp_path / "globe.zarr")
    assert float(abs(ours - driven)["temperature"].max()) > 1e-3
    xr.testing.assert_equal(ours, run.forecast(store, INIT, LEADS, forcings=globe))
    # Other forecasts inside of the region change nothing, at its boundary they do.
    inside = xr.where((abs(globe.latitude) < 20) & (globe.longitude > 89) & (globe.longitude < 181), 0.0, 1.0)
    changed = globe + 50 * (1 - inside)
    xr.testing.assert_equal(ours, run.forecast(store, INIT, LEADS, forcings=changed))
    assert float(abs(ours - run.forecast(store, INIT, LEADS, forcings=globe + 5 * inside))["temperature"].max()) > 1e-3
    coarse = globe.isel(longitude=slice(None, None, 2))
    assert np.isfinite(run.forecast(store, INIT, LEADS, forcings=coarse)["temperature"]).all()
    with pytest.raises(DataError, match="must be known at 2001-01-13T06:00, but the forcings does not hold") as told:
        run.forecast(store, "2001-01-13", LEADS, forcings=globe)
    assert "forecasts from 2001-01-13T00:00" in str(told.value)
    with pytest.raises(DataError, match="2001-01-10T18:00, but the forcings does not hold that time"):
        run.forecast(store, INIT, (18,), forcings=globe)
