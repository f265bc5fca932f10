"""Laws of WeatherMesh: what a latent, a step and a lead are, on any grid and any levels."""

import math
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import jaxtyping
import lightning as L
import numpy as np
import pytest
import torch
from torch import Tensor

from etesian.core import Channel, Fields, Frame, Grid, Layout
from etesian.core.errors import ChannelError, DataError, EtesianError, GridError, RecipeError
from etesian.core.recorded import rebuild
from etesian.forecast.data import ForecastData
from etesian.forecast.task import ForecastTask
from etesian.networks.weathermesh import WeatherMesh
from etesian.networks.weathermesh_parts import LevelInterpolation, clock_features, strides
from etesian.networks.weathermesh_sizes import SIZES, WM2_LEVELS
from etesian.training.checkpoint import SafeCheckpoints, best_and_last, load_task

HOUR = 3600
LEVELS = (100, 300, 500, 700, 850)
GLOBE = Grid.equiangular(22.5)
ALOFT = tuple(Channel(name, level) for name in ("temperature", "geopotential") for level in LEVELS)
SURFACE = (Channel("2m_temperature"), Channel("surface_pressure"))
OROGRAPHY = Channel("orography")
LAYOUT = Layout(ALOFT + SURFACE, ALOFT + SURFACE, GLOBE, statics=(OROGRAPHY,))
SMALL: dict[str, Any] = {
    "patch": (2, 2, 2), "dim": 16, "heads": 2, "window": (3, 3, 3), "encoder_depth": 1, "decoder_depth": 1,
    "processors": {1: 1, 6: 1}, "surface_width": 8,
}  # fmt: skip


def network(layout: Layout = LAYOUT, **options: Any) -> WeatherMesh:
    """Return a small network whose weights are all drawn, so that nothing is zero by chance of initialisation."""
    torch.manual_seed(1)
    made = WeatherMesh(layout, **(SMALL | options))
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if "norm" not in name:
                parameter.normal_(std=0.3 if parameter.ndim < 2 else 1 / math.sqrt(parameter[0].numel()))
    return made.eval()


def fields(
    channels: tuple[Channel, ...], grid: Grid = GLOBE, *, batch: int = 2, times: tuple[int, ...] = (0,), seed: int = 0
) -> Fields:
    values = torch.randn(batch, len(times), len(channels), *grid.shape, generator=torch.Generator().manual_seed(seed))
    return Fields(values, Frame(channels, HOUR * torch.tensor(times).expand(batch, -1), grid))


def ask(channels: tuple[Channel, ...], hours: list[list[int]], grid: Grid = GLOBE) -> Frame:
    return Frame(channels, HOUR * torch.tensor(hours), grid)


def close(a: Tensor, b: Tensor, tolerance: float = 1e-5) -> bool:
    return bool(torch.allclose(a, b, rtol=0, atol=tolerance * float(b.detach().abs().max())))


STATE, STATIC = fields(ALOFT + SURFACE), fields((OROGRAPHY,), batch=1, seed=1)


@torch.no_grad()
def test_the_latent_has_a_layer_for_every_patch_of_levels_and_one_for_the_surface() -> None:
    model = network()
    latent = model.encode(STATE, STATIC)
    assert latent.shape == (2, 3 + 1, 4, 8, 16)
    assert latent.mean(-1).abs().max() < 1e-5
    torch.testing.assert_close(latent.var(-1, unbiased=False), torch.ones(2, 4, 4, 8), rtol=1e-3, atol=0)

    # With windows of one token in depth, the surface touches the last layer only.
    model = network(window=(1, 3, 3))
    warmer = Fields(STATE.values.clone(), STATE.frame)
    warmer.values[:, :, -2:] += 1
    changed = (model.encode(warmer, STATIC) - model.encode(STATE, STATIC)).abs().amax((0, 2, 3, 4))
    assert (changed > 0).tolist() == [False, False, False, True]


@torch.no_grad()
def test_a_lead_is_reached_by_the_longest_steps_first() -> None:
    model = network()
    assert model.plan(5) == (1,) * 5
    assert model.plan(13) == (6, 6, 1)
    assert model.plan(336) == (6,) * 56
    assert model.plan(0) == ()
    latent = model.encode(STATE, STATIC)
    for lead, steps in ((5, [1] * 5), (13, [6, 6, 1])):
        reached = latent
        for hours in steps:
            reached = model.step(reached, hours)
        out = model(STATE, ask(LAYOUT.targets, [[lead], [lead]]), statics=STATIC)
        assert close(out[:, 0], model.decode(reached))


@torch.no_grad()
def test_leads_share_the_steps_they_begin_with_and_only_what_is_asked_for_is_decoded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = network()
    stepped: list[tuple[int, int]] = []
    decoded: list[int] = []
    step, decode = model.step, model.decode
    monkeypatch.setattr(model, "step", lambda latent, *how: stepped.append((how[0], len(latent))) or step(latent, *how))
    monkeypatch.setattr(model, "decode", lambda latent, *how: decoded.append(len(latent)) or decode(latent, *how))
    model(STATE, ask(SURFACE, [[24, 13, 6], [24, 13, 6]]), statics=STATIC)
    assert sorted(stepped) == [(1, 2)] + [(6, 2)] * 4
    assert decoded == [2, 2, 2]

    # The second sample is only stepped as far as it is wanted.
    stepped.clear(), decoded.clear()
    model(STATE, ask(SURFACE, [[12, 24], [1, 6]]), statics=STATIC)
    assert sorted(stepped) == [(1, 1), (6, 1), (6, 1), (6, 1), (6, 2)]
    assert sum(decoded) == 4


@torch.no_grad()
def test_a_forecast_comes_lead_by_lead_and_holds_few_latents(monkeypatch: pytest.MonkeyPatch) -> None:
    model = network()
    leads = [13, 6, 336, *range(12, 336, 12)]
    alive: list[weakref.ref[Tensor]] = []
    step = model.step

    def watched(latent: Tensor, *how: Any) -> Tensor:
        after = step(latent, *how)
        alive.append(weakref.ref(after))
        return after

    monkeypatch.setattr(model, "step", watched)
    given, most = [], 0
    for (place,), values in model.stream(STATE, ask(LAYOUT.targets, [leads, leads]), statics=STATIC):
        lead = leads[place]
        given.append(lead)
        most = max(most, sum(reference() is not None for reference in alive))
        if lead in (13, 36):
            expected = model(STATE, ask(LAYOUT.targets, [[lead], [lead]]), statics=STATIC)
            assert close(values, expected)
            alive.clear()
    assert given == sorted(leads)
    assert len(alive) == 56 - 6
    assert most <= 3


@torch.no_grad()
def test_samples_of_a_batch_and_target_times_do_not_influence_one_another() -> None:
    model = network()
    leads = [[13, 6, 6], [2, 24, 0]]
    together = model(STATE, ask(SURFACE, leads), statics=STATIC)
    for sample, row in enumerate(leads):
        alone = Fields(STATE.values[sample : sample + 1], replace(STATE.frame, time=STATE.frame.time[:1]))
        for column, lead in enumerate(row):
            assert close(model(alone, ask(SURFACE, [[lead]]), statics=STATIC)[0, 0], together[sample, column])


@torch.no_grad()
def test_any_targets_are_given_in_any_order_and_inputs_are_found_by_name() -> None:
    model = network()
    every = model(STATE, ask(LAYOUT.targets, [[6], [6]]), statics=STATIC)
    wanted = (SURFACE[1], ALOFT[7], ALOFT[2])
    index = [LAYOUT.targets.index(c) for c in wanted]
    assert torch.equal(model(STATE, ask(wanted, [[6], [6]]), statics=STATIC), every[:, :, index])
    mixed = (SURFACE[0], *ALOFT[::-1], SURFACE[1])
    assert torch.equal(model(STATE.select(mixed), ask(LAYOUT.targets, [[6], [6]]), statics=STATIC), every)
    shuffled = network(replace(LAYOUT, targets=wanted))
    assert shuffled(STATE, ask(wanted, [[6], [6]]), statics=STATIC).shape == (2, 1, 3, 8, 16)


@torch.no_grad()
@pytest.mark.parametrize("position", ["rotary", "sincos"])
def test_the_same_globe_cut_at_another_meridian_gives_the_same_forecast(position: str) -> None:
    model = network(position=position)
    moved = Grid(GLOBE.latitude, np.arange(6, 22) * 22.5)
    there = network(replace(LAYOUT, grid=moved), position=position)
    state = Fields(STATE.values.roll(-6, dims=-1), replace(STATE.frame, grid=moved))
    static = Fields(STATIC.values.roll(-6, dims=-1), replace(STATIC.frame, grid=moved))
    here = model(STATE, ask(SURFACE, [[13], [6]]), statics=STATIC).roll(-6, dims=-1)
    # Sines and cosines number the columns, so they know where the globe is cut; rotary positions do not.
    same = close(there(state, ask(SURFACE, [[13], [6]], moved), statics=static), here)
    assert same is (position == "rotary")


@torch.no_grad()
@pytest.mark.parametrize(
    ("grid", "patch"),
    [
        (Grid.equiangular(22.5, poles=True), (2, 2, 2)),
        (Grid(np.linspace(-85, 85, 18), np.arange(33) * 360 / 33), (4, 4, 8)),
        (Grid.gaussian(6), (3, 3, 5)),
        (GLOBE, (1, 1, 2)),
        (GLOBE, (8, 8, 8)),
    ],
)
def test_levels_and_grids_that_patches_do_not_divide_are_padded_and_cropped(
    grid: Grid, patch: tuple[int, int, int]
) -> None:
    model = network(replace(LAYOUT, grid=grid), patch=patch)
    out = model(
        fields(ALOFT + SURFACE, grid), ask(LAYOUT.targets, [[6], [1]], grid), statics=fields((OROGRAPHY,), grid)
    )
    assert out.shape == (2, 1, 12, *grid.shape)
    assert out.isfinite().all()
    assert out.std(dim=(0, 1, 3, 4)).min() > 0.01


@torch.no_grad()
def test_every_argument_has_an_effect() -> None:
    target = ask(LAYOUT.targets, [[7], [6]])
    model = network()
    out = model(STATE, target, statics=STATIC)
    counts = {name: tuple(p.shape) for name, p in model.named_parameters()}
    changes: dict[str, Any] = {
        "levels": (100, 250, 450, 850), "patch": (2, 4, 2), "dim": 32, "heads": 4, "window": (3, 5, 3),
        "encoder_depth": 2, "decoder_depth": 0, "processors": {1: 1, 6: 2}, "mlp_ratio": 2.0, "surface_width": 4,
        "position": "sincos", "seamless": True,
    }  # fmt: skip
    for name, value in changes.items():
        other = network(**{name: value})
        assert not close(other(STATE, target, statics=STATIC), out, 1e-2), name
        reshaped = {n: tuple(p.shape) for n, p in other.named_parameters()} != counts
        assert reshaped is (name not in ("levels", "heads", "window", "position")), name
    assert not close(network(dropout=0.5).train()(STATE, target, statics=STATIC), out, 1e-2)
    # The rest has tests of its own.
    assert set(changes) | {"layout", "dropout", "continue_levels", "sources"} == set(model._call)


def test_every_parameter_gets_a_gradient_also_that_of_each_processor() -> None:
    model = network()
    model(STATE, ask(LAYOUT.targets, [[7], [6]]), statics=STATIC).square().sum().backward()
    assert {name.split(".")[1] for name, _ in model.named_parameters() if name.startswith("processors")} == {"1", "6"}
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


@torch.no_grad()
def test_a_step_that_changes_nothing_leaves_the_latent_and_any_step_keeps_it_bounded() -> None:
    model = network()
    latent = model.encode(STATE, STATIC)
    for _ in range(56):
        latent = model.step(latent, 6)
    assert latent.square().mean() == pytest.approx(1, rel=1e-3)
    for block in model.processors["6"]:
        for layer in (block.attention.out, block.mlp.contract):
            layer.weight.zero_(), layer.bias.zero_()
    assert close(model.step(latent, 6), latent)


@torch.no_grad()
def test_the_hour_and_the_season_matter_and_the_history_is_seen() -> None:
    model = network()
    target = ask(SURFACE, [[6], [6]])
    out = model(STATE, target, statics=STATIC)
    for shift in (6 * HOUR, 180 * 24 * HOUR):
        later = Fields(STATE.values, replace(STATE.frame, time=STATE.frame.time + shift))
        assert not close(model(later, replace(target, time=target.time + shift), statics=STATIC), out, 1e-2)

    layout = replace(LAYOUT, history=(-6, 0))
    model, state = network(layout), fields(ALOFT + SURFACE, times=(-6, 0))
    out = model(state, target, statics=STATIC)
    earlier = Fields(state.values.clone(), state.frame)
    earlier.values[:, 0] += 1
    assert not close(model(earlier, target, statics=STATIC), out, 1e-2)
    with pytest.raises(DataError, match="the inputs have 1 times"):
        model(STATE, target, statics=STATIC)


def test_the_clock_tells_sun_hour_and_season() -> None:
    time = torch.tensor([[np.datetime64("2001-03-20T12", "s").astype(np.int64)], [0]])
    features = clock_features(Frame((), time, GLOBE), torch.zeros(()))
    assert features.shape == (2, 7, 8, 16)
    sun = features[0, 0]
    expected = np.cos(np.radians(GLOBE.latitude))[:, None] * np.cos(np.radians(GLOBE.longitude))
    assert np.abs(sun.numpy() - expected).max() < 0.05
    assert features[0, 1:3, 0, 0].tolist() == pytest.approx([-1, 0], abs=1e-6)
    assert features[1, :, 3, 5].tolist()[1:] == pytest.approx([1, 0, 1, 0, 1, 0], abs=1e-6)


def test_a_level_to_predict_beyond_the_levels_of_the_network_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"temperature at 100 hPa lies beyond the levels to .* from, 200 to 800 hPa"):
        network(levels=(200, 500, 800), continue_levels=True)


def test_profiles_linear_in_the_logarithm_of_pressure_are_interpolated_exactly_and_kept_beyond() -> None:
    given = [Channel("t", level) for level in (850, 300, 500)] + [Channel("z", 500)]
    wanted = [Channel("z", 700), Channel("t", 500), Channel("t", 400), Channel("t", 1000), Channel("t", 100)]
    values = torch.tensor([*np.log([850, 300, 500]), 9.0]).float().view(1, 4, 1, 1)
    out = LevelInterpolation(given, wanted, continued=True)(values).flatten()
    assert out.tolist() == pytest.approx([9, *np.log([500, 400, 850, 300])], rel=1e-6)
    same = LevelInterpolation(given, given)
    assert same.exact
    assert torch.equal(same(values), values)


@torch.no_grad()
def test_levels_of_the_layout_are_taken_to_those_of_the_network_and_back() -> None:
    layout = replace(LAYOUT, inputs=(*ALOFT[:3], *ALOFT[6:9], SURFACE[1]), targets=(*ALOFT[1:4], SURFACE[0]))
    with pytest.raises(RecipeError, match=r"temperature at 50 hPa lies beyond the levels to .* from, 100 to 500 hPa"):
        network(layout, levels=WM2_LEVELS)
    model = network(layout, levels=WM2_LEVELS, patch=(4, 2, 2), continue_levels=True)
    assert model.latent_shape == (8, 4, 8)
    out = model(fields(layout.inputs), ask(layout.targets, [[6], [1]]), statics=STATIC)
    assert out.shape == (2, 1, 4, 8, 16)
    assert not close(out[:, :, 0], out[:, :, 1], 1e-2)


@torch.no_grad()
def test_missing_values_enter_as_zero_and_never_as_nan() -> None:
    model = network()
    holes = torch.rand(STATE.values.shape, generator=torch.Generator().manual_seed(2)) < 0.3
    gappy = Fields(STATE.values.masked_fill(holes, torch.nan), STATE.frame, ~holes)
    filled = Fields(STATE.values.masked_fill(holes, 0.0), STATE.frame)
    target = ask(SURFACE, [[6], [1]])
    assert torch.equal(model(gappy, target, statics=STATIC), model(filled, target, statics=STATIC))


@torch.no_grad()
def test_an_untrained_network_predicts_the_mean() -> None:
    model = WeatherMesh(LAYOUT, **SMALL)
    assert model(STATE, ask(LAYOUT.targets, [[6], [1]]), statics=STATIC).abs().max() == 0


def test_a_network_is_rebuilt_from_its_description_and_its_weights() -> None:
    model = network(levels=(100, 500, 850), patch=(1, 2, 4))
    again = rebuild(model.describe())
    again.load_state_dict(model.state_dict())
    target = ask(LAYOUT.targets, [[7], [6]])
    assert torch.equal(again.eval()(STATE, target, statics=STATIC), model(STATE, target, statics=STATIC))
    assert model.no_decay() == {n for n, p in model.named_parameters() if p.ndim == 1}


def test_full_sizes_are_built_without_memory() -> None:
    names = ("geopotential", "temperature", "u_component_of_wind", "v_component_of_wind", "specific_humidity")
    surface = tuple(Channel(n) for n in ("2m_temperature", "2m_dewpoint", "10m_u", "10m_v", "mean_sea_level_pressure"))
    channels = tuple(Channel(n, level) for n in names for level in WM2_LEVELS) + surface
    layout = Layout(channels, channels, Grid(-89.875 + 0.25 * np.arange(720), np.arange(1440) * 0.25))
    with torch.device("meta"):
        second, third = (WeatherMesh(layout, **SIZES[size]) for size in ("WM-2", "WM-3"))
    assert second.latent_shape == (8, 90, 180)
    assert sum(p.numel() for p in second.parameters()) / 1e6 == pytest.approx(177, rel=0.001)
    assert sum(p.numel() for p in third.parameters()) / 1e6 == pytest.approx(159, rel=0.002)
    assert {str(p.device) for p in second.parameters()} == {"meta"}
    assert WeatherMesh(LAYOUT, **SIZES["tiny"]).latent_shape == (4, 4, 8)


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({"target_grid": Grid.equiangular(11.25)}, {}, "predicts on the grid of its inputs"),
        ({"grid": Grid(np.linspace(20, 60, 8), np.arange(16) * 22.5)}, {}, "needs a whole globe"),
        ({"grid": Grid(GLOBE.latitude, np.arange(16) * 5.0)}, {}, "needs a whole globe"),
        ({"inputs": SURFACE}, {}, "needs variables on pressure levels"),
        ({}, {"heads": 3}, "dim=16 must be a multiple of heads=3"),
        ({}, {"processors": {}}, "needs processors of whole hours"),
    ],
)
def test_what_the_network_cannot_do_is_refused_when_it_is_built(
    change: dict[str, object], options: dict[str, object], message: str
) -> None:
    with pytest.raises(EtesianError, match=message) as caught:
        network(replace(LAYOUT, **change), **options)  # type: ignore[arg-type]
    assert caught.type is RecipeError


def test_a_misspelt_position_is_refused_with_the_right_one(monkeypatch: pytest.MonkeyPatch) -> None:
    # As it is outside of tests, where nothing checks annotations.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(RecipeError, match="there is no position 'rotery'; did you mean 'rotary'"):
        network(position="rotery")


def test_what_the_network_cannot_do_is_refused_when_it_is_asked() -> None:
    model, target = network(), ask(SURFACE, [[6], [6]])
    with pytest.raises(DataError, match=r"a lead of 3\.5 h is no sum of steps of \[6, 1\] h"):
        model.plan(3.5)
    with pytest.raises(DataError, match=r"a lead of 8 h is no sum of steps of \[6\] h"):
        network(processors={6: 1})(STATE, ask(SURFACE, [[6], [8]]), statics=STATIC)
    with pytest.raises(DataError, match="a lead of -6 h"):
        model(STATE, ask(SURFACE, [[6], [-6]]), statics=STATIC)
    with pytest.raises(DataError, match="no processor of 3 h"):
        model.step(model.encode(STATE, STATIC), 3)
    with pytest.raises(DataError, match="built with 'orography', but is given no static fields"):
        model(STATE, target)
    with pytest.raises(ChannelError, match="no channel 'temperature_100'"):
        model(STATE.select(ALOFT[1:] + SURFACE), target, statics=STATIC)
    with pytest.raises(ChannelError, match="no channel 'temperature_400'"):
        model(STATE, ask((Channel("temperature", 400),), [[6], [6]]), statics=STATIC)
    fine = Grid.equiangular(11.25)
    with pytest.raises(GridError, match="was built for 8×16"):
        model(fields(ALOFT + SURFACE, fine), target, statics=STATIC)
    with pytest.raises(GridError, match="was built for 8×16"):
        model(STATE, target, statics=fields((OROGRAPHY,), fine))
    with pytest.raises(GridError, match=r"was built for 8×16 .*, not for 16×32"):
        model(STATE, ask(SURFACE, [[6], [6]], fine), statics=STATIC)


def make(layout: Layout) -> WeatherMesh:
    return WeatherMesh(layout, **(SMALL | {"processors": {6: 1}}))


@pytest.mark.filterwarnings("ignore")
def test_the_network_is_trained_validated_saved_and_loaded_by_the_forecast_task(
    gappy_store: str, tmp_path: Path
) -> None:
    periods = ("2001-01-01", "2001-01-08"), ("2001-01-09", "2001-01-12")
    data = ForecastData([gappy_store], *periods, [6, 12], batch_size=8)
    torch.manual_seed(0)
    task = ForecastTask(make, data.layout, data.statistics, predict="change", warmup_steps=1)
    trainer = L.Trainer(
        accelerator="cpu", max_epochs=2, default_root_dir=tmp_path, logger=False, enable_progress_bar=False,
        enable_model_summary=False, plugins=[SafeCheckpoints()], callbacks=best_and_last(tmp_path / "checkpoints"),
    )  # fmt: skip
    trainer.fit(task, datamodule=data)
    assert trainer.global_step == 8
    again = load_task(tmp_path, "last").eval()
    batch = next(iter(data.val_dataloader()))
    assert batch.targets is not None
    expected = task.eval().predict(batch, batch.targets.frame).values
    assert torch.equal(again.predict(batch, batch.targets.frame).values, expected)


def test_a_change_of_the_weather_is_learned() -> None:
    torch.manual_seed(0)
    model = WeatherMesh(LAYOUT, **SMALL)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    target = ask(LAYOUT.targets, [[6, 12], [6, 12]])
    truth = torch.stack([STATE.values[:, 0].roll(shift, -1) for shift in (1, 2)], dim=1)
    losses = []
    for _ in range(60):
        loss = (model(STATE, target, statics=STATIC) - truth).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(1, rel=0.1)
    assert losses[-1] < 0.5


def test_patches_are_halved_step_by_step() -> None:
    assert strides((8, 4)) == [(2, 2), (2, 2), (2, 1)]
    assert strides((6, 5)) == [(2, 5), (3, 1)]
    assert strides((1, 1)) == []
