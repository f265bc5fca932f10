"""Ensembles: networks that noise has a say in, trained by their CRPS, forecast the same however the work is divided."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from running import interrupted_after
from small_tasks import drawn, saved

from etesian import Batch, ClimaX, ForecastTask, Layout, Persistence, UNet, WeatherMesh
from etesian.core.errors import RecipeError
from etesian.forecast.latent import LatentForecastTask
from etesian.forecast.pretrain import PretrainTask
from etesian.forecast.run import predict_to
from etesian.networks.weathermesh_sizes import SIZES
from etesian.nn.noise import NORMALS, between
from etesian.scores import sums
from etesian.scores.ensembles import ensemble_crps
from etesian.store.reader import Store
from etesian.training.checkpoint import load_task
from etesian.training.members import ALMOST_FAIR, MemberNoise, repeated
from etesian.training.recipes import told_of_chance

pytestmark = pytest.mark.filterwarnings("ignore::zarr.errors.ZarrUserWarning")
SMALL = {"patch": 2, "dim": 16, "depth": 1, "heads": 2, "head_depth": 0, "dropout": 0.0, "drop_path": 0.0}
NETWORKS: dict[str, Any] = {
    "patches": partial(ClimaX, **SMALL),
    "points": partial(ClimaX, local_width=4, **SMALL),
    "unet": partial(UNet, leads=(6, 12), width=8, dropout=0.0, noise=0.0),
    "mesh": partial(WeatherMesh, **SIZES["tiny"] | {"dim": 16, "surface_width": 4, "processors": {6: 1}}),
}


def task_of(store: str, network: str = "points", kind: type[ForecastTask] = ForecastTask, **options: Any) -> Any:
    given = Store(store)
    torch.manual_seed(0)
    chosen = {"members": 2, "anomalies": True, "predict": "change"} | options
    layout = Layout(given.channels, given.channels, given.grid)
    kind = LatentForecastTask if network == "mesh" else kind
    return kind(NETWORKS.get(network, network), layout, given.statistics, **chosen)


def batch_of(store: str, leads: tuple[int, ...] = (6, 12)) -> Batch:
    from etesian.samples.windows import WindowPick, WindowReader

    given = Store(store)
    reader = WindowReader(given, Layout(given.channels, given.channels, given.grid))
    return reader.batch([WindowPick(0, 4, leads), WindowPick(0, 9, leads), WindowPick(0, 20, leads)])


@pytest.mark.parametrize("network", NETWORKS)
def test_members_begin_as_one_forecast_and_part_when_they_are_trained(store: str, network: str) -> None:
    task, batch = task_of(store, network), batch_of(store)
    prepared = task.normalized(batch)
    alone = task_of(store, network, members=None)
    known = alone.state_dict()
    task.load_state_dict(known, strict=False)
    members = task._ensemble(prepared, 3)
    assert torch.equal(members[0], members[1])
    assert batch.targets is not None
    torch.testing.assert_close(members[0], alone(prepared, batch.targets.frame))

    optimizer = torch.optim.Adam(task.parameters(), lr=3e-3)
    for _ in range(20):
        optimizer.zero_grad()
        task.loss(batch)[0].backward()
        optimizer.step()
    assert all(p.grad is not None for name, p in task.named_parameters() if "modulation" in name or "noise_" in name)
    assert task._ensemble(prepared, 3).std(0).mean() > 0.01


def test_the_loss_is_the_almost_fair_crps_with_the_weights_of_any_other(gappy_store: str) -> None:
    task = task_of(gappy_store, channel_weights={"temperature": 2.0}, lead_weights={6: 3.0, 12: 1.0}, band_weight=0.5)
    drawn(task)
    batch = task.normalized(batch_of(gappy_store))
    torch.manual_seed(5)
    found = task.loss(batch_of(gappy_store))[0]
    torch.manual_seed(5)
    normals = torch.randn(6, 3, 4, NORMALS)
    assert batch.targets is not None
    assert batch.targets.valid is not None
    each = [
        task(batch, batch.targets.frame, lambda *_, member=member: normals[3 * member : 3 * member + 3])
        for member in range(2)
    ]
    score = ensemble_crps(torch.stack(each), batch.targets.values, ALMOST_FAIR)
    channels = torch.tensor([2.0 if c.name == "temperature" else 1.0 for c in batch.targets.frame.channels])
    area = torch.from_numpy(batch.targets.frame.grid.area_weights).float()
    weight = torch.tensor([3.0, 1.0])[:, None, None, None] * channels[:, None, None] * area[:, None]
    weight = weight * batch.targets.valid
    points = (score * weight).sum() / weight.sum()
    bands, share = [], []
    for rows in np.array_split(np.arange(len(area)), 4):
        band = weight[..., rows, :]
        known = torch.where(batch.targets.valid, batch.targets.values, 0)[..., rows, :]
        means = [(field[..., rows, :] * band).sum((-2, -1)) / band.sum((-2, -1)) for field in each]
        truth = (known * band).sum((-2, -1)) / band.sum((-2, -1))
        bands.append(ensemble_crps(torch.stack(means), truth, ALMOST_FAIR)), share.append(band.sum((-2, -1)))
    expected = (torch.stack(bands) * torch.stack(share)).sum() / weight.sum()
    assert expected > 0.01
    torch.testing.assert_close(found, points + 0.5 * expected)


def test_validation_is_the_fair_crps_of_the_same_members_each_time(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    task, batch, logged = drawn(task_of(store)), batch_of(store), []
    monkeypatch.setattr(task, "log", lambda name, value, **_: logged.append((name, value.item())))
    for _ in range(2):
        task.validation_step(batch, 0)
    assert logged[0] == logged[1]
    normalized = task.normalized(batch)
    members = task._ensemble(normalized, 4)
    assert logged[0] == ("val_loss", pytest.approx(task._crps(members, normalized, 1.0).item()))
    channel = Store(store).channels[0]
    scores = {name: task.sums.score(name, lambda total: total)[channel][0, 0].item() for name in task.logged_scores}
    assert batch.targets is not None
    physical = torch.stack([task._physical(one, batch.targets.frame).values for one in members])[:, :, 0, 0].double()
    truth = batch.targets.values[:, 0, 0].double()
    weight = torch.from_numpy(batch.targets.frame.grid.area_weights)[:, None].expand_as(truth)

    def mean(values: torch.Tensor) -> float:
        return ((values * weight).sum() / weight.sum()).item()

    rmse = mean((physical.mean(0) - truth).square()) ** 0.5
    assert scores["rmse"] == pytest.approx(rmse, rel=1e-5)
    assert scores["crps"] == pytest.approx(mean(ensemble_crps(physical, truth)), rel=1e-5)
    assert scores["spread_skill"] == pytest.approx((1.25 * mean(physical.var(0))) ** 0.5 / rmse, rel=1e-5)


def test_only_the_error_of_a_wind_vector_is_logged(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sums, "WIND_PAIRS", {"temperature": ("temperature", "wind_vector")})
    task, logged = drawn(task_of(store)), {}
    alone = SimpleNamespace(strategy=SimpleNamespace(reduce=lambda total, reduce_op: total))
    monkeypatch.setattr(type(task), "trainer", alone)
    monkeypatch.setattr(task, "log", lambda name, value, **_: logged.update({name: value.item()}))
    task.validation_step(batch_of(store), 0)
    task.on_validation_epoch_end()
    assert {name for name in logged if "wind_vector_500" in name} == {f"val_rmse/wind_vector_500/{h}h" for h in (6, 12)}
    assert np.isfinite(list(logged.values())).all()


def test_noise_follows_from_what_it_is_for() -> None:
    noise, shape = MemberNoise(3, [-86400, 0], [1, 2]), (2, 3)
    assert torch.equal(noise(4, shape)[1], MemberNoise(3, [0], [2])(4, shape)[0])
    others = [MemberNoise(2, [0], [2]), MemberNoise(3, [6], [2]), MemberNoise(3, [0], [1])]
    drawn = [*(other(4, shape)[0] for other in others), noise(5, shape)[1]]
    assert all(not torch.equal(other, noise(4, shape)[1]) for other in drawn)
    assert torch.equal(MemberNoise(3, [0], [2], 1.5)(4, shape)[0], 1.5 * noise(4, shape)[1])
    many = MemberNoise(0, [0] * 500, range(500))(1, shape)
    assert many.mean().abs() < 0.05
    assert many.std() == pytest.approx(1, abs=0.05)


def test_noise_between_its_places_is_linear_and_goes_round_the_circle() -> None:
    noise = torch.randn(2, 3, 4, 5)
    fine = between(noise, (6, 16), periodic=True)
    turned = between(noise.roll(1, 2), (6, 16), periodic=True)
    torch.testing.assert_close(turned, fine.roll(4, 2))
    # Four points to a place: the middle of its sides is an eighth of the way to the next.
    torch.testing.assert_close(fine[:, 0, 2], noise[:, 0, 0] + (noise[:, 0, 1] - noise[:, 0, 0]) / 8)
    assert between(noise, (6, 16), periodic=False).shape == fine.shape


@pytest.mark.parametrize(
    ("network", "steps"), [("points", 6), ("patches", None), ("unet", 6), ("unet", None), ("mesh", None)]
)
def test_forecasts_do_not_depend_on_batches_and_go_on_to_the_last_bit(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, network: str, steps: int | None
) -> None:
    given = Store(store)
    task = drawn(task_of(store, network, step_hours=steps))
    initial, leads = given.time[[2, 7, 12]], (6, 12)

    def write(name: str, **options: Any) -> xr.Dataset:
        chosen = {"members": 3, "seed": 5} | options
        predict_to(task, given, str(tmp_path / name), initial, leads, source={}, **chosen)
        return xr.open_zarr(tmp_path / name, decode_timedelta=True).load()

    whole = write("whole")
    assert whole.temperature.dims == ("time", "number", "prediction_timedelta", "level", "latitude", "longitude")
    assert whole.number.attrs["standard_name"] == "realization"
    assert whole.surface_pressure.std("number").min() > 0
    # The noise is the same to the last bit; sums of another number of samples are rounded differently.
    for size in (1, 2, 5):
        xr.testing.assert_allclose(write(f"by{size}", batch_size=size), whole, rtol=1e-4, atol=1e-3)
    xr.testing.assert_allclose(write("fewer", members=2), whole.isel(number=slice(0, 2)), rtol=1e-4, atol=1e-3)
    assert not np.allclose(write("other", seed=6).temperature, whole.temperature, rtol=1e-4, atol=1e-3)
    assert write("inflated", inflation=1.5).temperature.std("number").mean() > whole.temperature.std("number").mean()

    with interrupted_after(2) as written:
        write("again", batch_size=2)
    assert written == [[0, 1], [2, 3]]
    again, once = write("again", batch_size=2), xr.open_zarr(tmp_path / "by2", decode_timedelta=True)
    xr.testing.assert_identical(again, once)


def test_each_member_goes_on_from_its_own_state(store: str) -> None:
    task, given = drawn(task_of(store, step_hours=6)), batch_of(store)
    batch = task.normalized(replace(given, targets=None))
    several = repeated(batch, 2)
    noise = MemberNoise(0, several.inputs.frame.time[:, -1].tolist(), [0] * 3 + [1] * 3)
    together = task(several, task.target_frame(several, [6, 12]), noise)
    state = together[3:, :1]
    frame = replace(batch.inputs.frame, time=batch.inputs.frame.time + 6 * 3600)
    onward = replace(batch, inputs=replace(batch.inputs, values=state, frame=frame))
    second = task(onward, task.target_frame(onward, [6]), lambda _, shape: noise(2, shape)[3:])
    torch.testing.assert_close(second, together[3:, 1:], rtol=1e-4, atol=1e-5)


def test_a_checkpoint_keeps_its_members(store: str, tmp_path: Path) -> None:
    task = drawn(task_of(store, band_weight=0.2))
    again = load_task(saved(task, tmp_path / "best.ckpt"))
    assert isinstance(again, ForecastTask)
    assert (again.members, again.band_weight) == (2, 0.2)
    batch = task.normalized(batch_of(store))
    assert torch.equal(again._ensemble(batch, 2), task._ensemble(batch, 2))


def test_members_learn_from_a_network_that_had_none(store: str) -> None:
    task, alone = task_of(store), task_of(store, members=None)
    transfer = task.network.adopt(alone.network)
    assert {name for name, outcome in transfer.outcomes.items() if outcome == "new"} == task.network.parts()["noise"]


def test_what_has_no_members_says_what_to_do(store: str, tmp_path: Path) -> None:
    given = Store(store)
    for options, message in (
        ({"members": 1}, "members: 1 cannot differ; train with members: 2"),
        ({"members": None, "band_weight": 0.2}, r"band_weight: 0\.2 is for members, and 0 or more"),
        ({"band_weight": -1.0}, "band_weight: -1 is for members, and 0 or more"),
        ({"loss": "l1"}, "trained by their CRPS, not by loss: l1"),
        ({"network": Persistence, "predict": "state"}, "Persistence takes no noise, so it has no members"),
        ({"network": "mesh", "spread": 1.0}, "as far apart as their CRPS asks for; leave out spread"),
        ({"network": NETWORKS["mesh"], "step_hours": 6}, "WeatherMesh makes steps of its own; leave out step_hours"),
        ({"network": partial(ClimaX, validity=True, **SMALL), "kind": PretrainTask, "predict": "state"}, "fine-tune"),
    ):
        with pytest.raises(RecipeError, match=message):
            task_of(store, **options)
    alone = task_of(store, members=None).eval()
    with pytest.raises(RecipeError, match="8 members are asked for, but the run was trained without"):
        predict_to(alone, given, str(tmp_path / "f"), given.time[:2], (6,), source={}, members=8)
    with pytest.raises(RecipeError, match=r"inflation = 1\.1 is of the noise of a run that was trained for members"):
        predict_to(alone, given, str(tmp_path / "f"), given.time[:2], (6,), source={}, inflation=1.1)
    both = {6: alone, 12: task_of(store).eval()}
    with pytest.raises(RecipeError, match="some have members and some do not"):
        predict_to(both, given, str(tmp_path / "f"), given.time[:2], (6, 12), source={})
    assert not list(tmp_path.iterdir())


def test_what_differs_in_training_alone_is_told(store: str) -> None:
    said = "make members differ in training only, so that forecasts spread too little"
    for options in ({"dropout": 0.1, "noise": 0.0}, {"dropout": 0.0, "noise": 0.1}):
        network = partial(UNet, leads=(6, 12), width=8, **options)
        assert said in told_of_chance(task_of(store, network))
        assert told_of_chance(task_of(store, network, members=None)) == ""
    assert said in told_of_chance(task_of(store, partial(ClimaX, **SMALL | {"drop_path": 0.2, "depth": 2})))
    for name in NETWORKS:
        assert told_of_chance(task_of(store, name)) == ""
