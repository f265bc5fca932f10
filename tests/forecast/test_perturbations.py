"""Members by initial states that differ: as large and as far correlated as asked for, and the same however divided."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from running import interrupted_after
from small_tasks import stirred

from etesian import ClimaX, ForecastTask, Layout, WeatherMesh
from etesian.core import Channel, Fields, Frame, Grid
from etesian.core.constants import EARTH_RADIUS
from etesian.core.errors import DataError, RecipeError
from etesian.forecast.driving import open_forcings
from etesian.forecast.latent import LatentForecastTask
from etesian.forecast.perturbations import Perturbation, Perturbed, anomaly_std, asked_for, correlated_noise
from etesian.forecast.run import predict_to
from etesian.networks.network import Network
from etesian.networks.weathermesh_sizes import SIZES
from etesian.samples.windows import WindowReader
from etesian.store.format import to_dataset
from etesian.store.reader import Store

pytestmark = pytest.mark.filterwarnings("ignore::zarr.errors.ZarrUserWarning")
SMALL = {"patch": 2, "dim": 16, "depth": 1, "heads": 2, "head_depth": 0, "dropout": 0.0, "drop_path": 0.0}


def task_of(store: str, **options: Any) -> ForecastTask:
    """Return a run that steps by 6 h, with weights drawn."""
    given = Store(store)
    layout = Layout(given.channels, given.channels, given.grid)
    torch.manual_seed(0)
    task = ForecastTask(
        partial(ClimaX, **SMALL), layout, given.statistics, **({"step_hours": 6, "predict": "change"} | options)
    )
    task.provenance = {"leads": [6, 12]}
    stirred(task.network, 0.1)
    return task.eval()


def perturbed(store: str, perturbation: Perturbation, seed: int = 0) -> Perturbed:
    task = task_of(store)
    reader = WindowReader(Store(store), task.layout)
    std = anomaly_std(task, reader.store)
    return Perturbed(perturbation.settled(task), seed, task, lambda times, _: reader.start(times), std)


def changes(states: Perturbed, times: Any, numbers: list[int]) -> torch.Tensor:
    """Return what is added to the states, in standard deviations of the anomalies."""
    added = states.start(times, numbers, [6]).inputs.values - states.read(times, [6]).inputs.values
    return added / torch.tensor(list(states.std.values()))[:, None, None]


def test_noise_is_as_large_as_asked_for_and_the_control_is_left_alone(store: str) -> None:
    given = Store(store)
    states = perturbed(store, Perturbation("gaussian", amplitude=0.2))
    numbers = list(range(60))
    added = changes(states, given.time[[20] * 60], numbers)
    assert (added[0] == 0).all()
    assert added[1:].std() == pytest.approx(0.2, rel=0.02)
    assert abs(added[1:].mean()) < 0.01
    assert np.corrcoef(added[1:, 0, 0].flatten(), added[1:, 0, 1].flatten())[0, 1] == pytest.approx(0, abs=0.08)
    # By what it is for, not by its place in a batch.
    again = changes(states, given.time[[9, 20]], [3, 7])
    torch.testing.assert_close(again[1], added[7], rtol=1e-4, atol=1e-5)
    for other in (
        again[0],
        changes(states, given.time[[20]], [6])[0],
        changes(replace(states, seed=1), given.time[[20]], [7])[0],
    ):
        assert abs(np.corrcoef(other.flatten(), added[7].flatten())[0, 1]) < 0.3


@pytest.mark.parametrize("length", [800.0, 2000.0])
def test_correlated_noise_has_the_correlation_that_is_asked_for(length: float) -> None:
    grid = Grid.equiangular(5.625)
    maps = correlated_noise(grid, length, [np.random.default_rng(number) for number in range(300)])
    area = np.repeat(grid.area_weights[:, None], grid.shape[1], 1)
    assert np.average((maps**2).mean(0), weights=area) == pytest.approx(1, rel=0.06)
    north = int(np.abs(grid.latitude).argmin())
    # Along a meridian, from the equator.
    for rows in (1, 2, 4):
        distance = np.radians(5.625 * rows) * EARTH_RADIUS / 1000
        one, other = maps[:, north], maps[:, north + rows]
        found = (one * other).mean() / np.sqrt((one**2).mean() * (other**2).mean())
        assert found == pytest.approx(np.exp(-(distance**2) / (2 * length**2)), abs=0.05)


def test_a_length_that_the_grid_does_not_resolve_and_a_region_are_refused() -> None:
    each = [np.random.default_rng(0)]
    with pytest.raises(RecipeError, match=r"length = 100 km is less than .* resolves, 496 km"):
        correlated_noise(Grid.equiangular(5.625), 100.0, each)
    with pytest.raises(RecipeError, match="perturb: correlated needs a whole globe"):
        correlated_noise(Grid(np.arange(10.0), np.arange(10.0)), 1000.0, each)


def test_bred_vectors_have_the_size_that_is_asked_for_and_the_run_has_made_them(store: str) -> None:
    given = Store(store)
    states = perturbed(store, Perturbation("bred", amplitude=0.3, cycles=2))
    assert states.perturbation.interval == 6
    times = given.time[[20] * 4]
    found = changes(states, times, [0, 1, 2, 5])
    assert (found[0] == 0).all()
    area = torch.from_numpy(given.grid.area_weights)[:, None]
    sizes = (found.double().square() * area).mean((1, 2, 3, 4)) / area.mean()
    torch.testing.assert_close(sizes[1:].sqrt(), torch.full((3,), 0.3).double(), rtol=1e-3, atol=0)
    assert (found[1] - found[2]).abs().max() > 0.01

    # By hand: noise that is forecast, scaled and put on the next state, twice.
    begin = given.time[[18]]
    std = torch.tensor(list(states.std.values()))[:, None, None]
    change = states._scaled(states._drawn(states.read(begin, [6]).inputs, begin, [5]), states.read(begin, [6]).inputs)
    for place in (18, 19):
        batch = states.read(given.time[[place]], [6])
        ahead = [
            next(iter(states.task.forecast(replace(batch, inputs=replace(batch.inputs, values=values)), [6]))).values
            for values in (batch.inputs.values, batch.inputs.values + change)
        ]
        change = ahead[1] - ahead[0]
        change = 0.3 * change / (((change / std).double().square() * area).mean() / area.mean()).sqrt().float()
    torch.testing.assert_close((change / std)[0], found[3], rtol=1e-2, atol=1e-3)


def test_holes_stay_holes_and_limits_hold(gappy_store: str) -> None:
    states = perturbed(gappy_store, Perturbation("gaussian", amplitude=5.0))
    times = Store(gappy_store).time[[20, 20]]
    plain, found = states.read(times, [6]).inputs, states.start(times, [0, 1], [6]).inputs
    assert plain.valid is not None
    assert found.valid is not None
    assert torch.equal(found.valid, plain.valid)
    assert (found.values[~found.valid] == 0).all()
    assert (found.values[1] != plain.values[1])[plain.valid[1]].all()
    humidity = Channel("specific_humidity", 850)
    frame = replace(plain.frame, channels=(humidity,))
    dry = replace(states, std={humidity: 1e-3})
    batch = replace(states.read(times, [6]), inputs=Fields(torch.full_like(plain.values[:, :, :1], -1e-9), frame))
    change = torch.zeros_like(batch.inputs.values)
    change[1] = -1e-3
    values = dry._added(batch, change).inputs.values
    assert (values[0] == -1e-9).all()
    assert (values[1] == 0).all()


KINDS = {
    "gaussian": Perturbation("gaussian"), "correlated": Perturbation("correlated", length=6000.0),
    "bred": Perturbation("bred", cycles=2), "lagged": Perturbation("lagged"),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_forecasts_do_not_depend_on_batches_and_go_on_to_the_last_bit(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    given, task = Store(store), task_of(store)
    initial, leads = given.time[[16, 20]], (6, 12)

    def write(name: str, **options: Any) -> xr.Dataset:
        chosen = {"members": 3, "seed": 5, "perturbation": KINDS[kind]} | options
        predict_to(task, given, str(tmp_path / name), initial, leads, source={}, **chosen)
        return xr.open_zarr(tmp_path / name, decode_timedelta=True).load()

    whole, control = write("whole"), write("control", members=None, perturbation=None)
    assert whole.temperature.dims == ("time", "number", "prediction_timedelta", "level", "latitude", "longitude")
    xr.testing.assert_allclose(whole.isel(number=0, drop=True), control, rtol=1e-6, atol=1e-3)
    assert whole.surface_pressure.std("number").min() > 0
    for size in (1, 4):
        xr.testing.assert_allclose(write(f"by{size}", batch_size=size), whole, rtol=1e-4, atol=1e-2)
    xr.testing.assert_allclose(write("fewer", members=2), whole.isel(number=slice(0, 2)), rtol=1e-4, atol=1e-2)
    assert np.allclose(write("other", seed=6).temperature, whole.temperature) is (kind == "lagged")

    with interrupted_after(2):
        write("again", batch_size=1)
    again, once = write("again", batch_size=1), xr.open_zarr(tmp_path / "by1", decode_timedelta=True)
    xr.testing.assert_identical(again, once)


def test_lagged_members_are_plain_forecasts_from_earlier_times(store: str, tmp_path: Path) -> None:
    given, task = Store(store), task_of(store)
    lagged = Perturbation("lagged", interval=12)
    predict_to(
        task, given, str(tmp_path / "l"), given.time[[16, 20]], (6, 18), source={}, members=3, perturbation=lagged
    )
    members = xr.open_zarr(tmp_path / "l", decode_timedelta=True)
    for number in range(3):
        earlier = given.time[[16 - 2 * number, 20 - 2 * number]]
        path = str(tmp_path / f"p{number}")
        predict_to(task, given, path, earlier, (6 + 12 * number, 18 + 12 * number), source={})
        plain = xr.open_zarr(path, decode_timedelta=True)
        for name in members:
            assert np.array_equal(members[name].isel(number=number), plain[name]), (name, number)


def test_a_network_with_a_latent_and_one_with_noise_are_perturbed_too(store: str, tmp_path: Path) -> None:
    given = Store(store)
    layout = Layout(given.channels, given.channels, given.grid)
    mesh = partial(WeatherMesh, **SIZES["tiny"] | {"dim": 16, "surface_width": 4, "processors": {6: 1}})
    latent = LatentForecastTask(mesh, layout, given.statistics, predict="change").eval()
    latent.provenance = {"leads": [6]}
    noisy = task_of(store, members=2)
    for name, task in (("latent", latent), ("noisy", noisy)):
        made = str(tmp_path / name)
        predict_to(
            task,
            given,
            made,
            given.time[[16]],
            (6, 12),
            source={},
            members=2,
            perturbation=Perturbation("bred", cycles=1),
        )
        spread = xr.open_zarr(made, decode_timedelta=True).surface_pressure.std("number")
        assert spread.min() > 0


class Driven(Network):
    """Adds what it knows of the target time to the state that it starts from."""

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        self.layout = layout

    def forward(
        self, inputs: Fields, target: Frame, *, forcings: Fields | None = None, statics: Fields | None = None
    ) -> torch.Tensor:
        assert forcings is not None
        return forcings.filled()[:, :, :1] + inputs.at(-1).select(target.channels).filled()


@pytest.mark.parametrize("kind", ["bred", "lagged"])
def test_what_is_known_at_target_times_is_known_to_earlier_and_perturbed_states_too(
    store: str, tmp_path: Path, kind: Any
) -> None:
    given = Store(store)
    warm = tuple(c for c in given.channels if c.name == "temperature")
    layout = Layout(warm, warm, given.grid, forcings=(Channel("surface_pressure"),))
    task = ForecastTask(Driven, layout, given.statistics, step_hours=6)

    def write(name: str, shift: int = 0, **options: Any) -> xr.Dataset:
        initial, leads = given.time[[20, 24]] - shift * 3600, (6 + shift, 12 + shift)
        predict_to(task, given, str(tmp_path / name), initial, leads, source={}, **options)
        return xr.open_zarr(tmp_path / name, decode_timedelta=True).load()

    found = write("members", members=2, perturbation=Perturbation(kind)).temperature
    np.testing.assert_array_equal(found.isel(number=0), write("control").temperature)
    if kind == "lagged":
        np.testing.assert_array_equal(found.isel(number=1), write("earlier", shift=6).temperature)
    else:
        # The forcings are the same with and without what was added, which goes on as it is.
        apart = found.isel(number=1) - found.isel(number=0)
        np.testing.assert_allclose(apart[:, 1], apart[:, 0], atol=1e-3)
        assert float(abs(apart).mean()) > 0.1
    # What members need and the control does not is asked for before anything is written.
    late = open_forcings(to_dataset(store).isel(time=slice(21, None)))
    write("alone", forcings=late)
    with pytest.raises(DataError, match="'surface_pressure' must be known at 2001-01-0"):
        write("none", members=2, perturbation=Perturbation(kind), forcings=late)
    assert not list(tmp_path.glob("none*"))


def test_what_makes_no_sense_says_what_to_do(store: str, tmp_path: Path) -> None:
    for options, message in (
        ({"kind": "gausian"}, "no perturb: gausian; did you mean 'gaussian'"),
        ({"kind": "gaussian", "length": 500.0}, "length is for perturb: correlated, not for gaussian"),
        ({"kind": "lagged", "amplitude": 0.1}, "amplitude is for perturb: gaussian and correlated and bred"),
        ({"kind": "bred", "amplitude": float("nan")}, "amplitude = nan must be above 0"),
        ({"kind": "bred", "cycles": 0}, "cycles = 0 must be above 0"),
    ):
        with pytest.raises(RecipeError, match=message):
            Perturbation(**options)
    assert asked_for(None, amplitude=None) is None
    with pytest.raises(RecipeError, match="cycles is for perturbed states; give perturb as well"):
        asked_for(None, amplitude=None, cycles=3)
    given, task = Store(store), task_of(store)

    def write(perturbation: Perturbation, place: int = 20, task: Any = task, states: Any = given) -> None:
        predict_to(
            task,
            states,
            str(tmp_path / "f"),
            given.time[[place]],
            (6,),
            source={},
            members=3,
            perturbation=perturbation,
        )

    with pytest.raises(DataError, match=r"need the state of 2000-12-31T18:00, which .* does not hold; begin"):
        write(Perturbation("lagged"), place=1)
    with pytest.raises(DataError, match="need the state of 2000-12-31T"):
        write(Perturbation("bred", cycles=3), place=1)
    with pytest.raises(RecipeError, match="7 h is no whole number of the steps of 6 h"):
        write(Perturbation("bred", interval=7))
    direct = task_of(store, step_hours=None)
    with pytest.raises(RecipeError, match="trained for leads of 6 to 12 h, not for 18 h"):
        write(Perturbation("lagged"), task=direct)
    assert not list(tmp_path.iterdir())
