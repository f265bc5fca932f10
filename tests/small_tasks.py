"""Every network and task, small, each with a batch: to be sent through a step of training and a prediction."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor, nn

import etesian as et
from etesian.core import Batch, Channel, Fields, Frame, Grid, Layout
from etesian.core.clock import month_start, parse_time
from etesian.core.constants import SECONDS_PER_DAY as DAY
from etesian.core.constants import SECONDS_PER_HOUR as HOUR
from etesian.core.statistics import Statistics
from etesian.fill.task import LAND
from etesian.nn.normalizer import Normalizer
from etesian.samples.windows import WindowReader
from etesian.training.checkpoint import SafeCheckpoints
from etesian.training.task import Task

STATE = (
    *(Channel(name, level) for name in ("geopotential", "temperature") for level in (500, 850)),
    Channel("2m_temperature"),
)
FIXED = (Channel("orography"), Channel("land_sea_mask"))
RAIN = Channel("total_precipitation_6hr")
"""Is bounded, since it cannot be negative."""
GLOBE = Grid.equiangular(22.5)
START = parse_time("2001-03-05", "proleptic_gregorian")

Case = tuple[Task, Batch]


def saved(task: Task, path: Path) -> str:
    """Write a checkpoint as a trainer does that has not begun."""
    checkpoint: dict[str, Any] = {"state_dict": task.state_dict(), "epoch": 0, "global_step": 0}
    task.on_save_checkpoint(checkpoint)
    SafeCheckpoints().save_checkpoint(checkpoint, path)
    return str(path)


def answered(task: Task, reader: WindowReader, initial: NDArray[np.int64], leads: tuple[int, ...]) -> Fields:
    """What a task says of some leads, all at once, for states of a store."""
    batch = reader.start(initial)
    return task.eval().predict(batch, task.target_frame(batch, leads)).inside(task.layout.boundary)


def statistics(channels: tuple[Channel, ...], grid: Grid, *, log1p: bool = False) -> Statistics:
    random, count = np.random.default_rng(0), len(channels)
    cycle = 0.2 * random.standard_normal((5, count, *grid.shape)).astype(np.float32)
    more = (np.zeros(count), np.full(count, 0.2)) if log1p else (None, None)
    return Statistics(channels, random.standard_normal(count), 1 + random.random(count), cycle, np.ones(count), *more)


def fields(channels: tuple[Channel, ...], time: Tensor, grid: Grid, *, gaps: float = 0.0) -> Fields:
    random = torch.Generator().manual_seed(len(channels) + time.shape[1])
    values = torch.randn((*time.shape, len(channels), *grid.shape), generator=random)
    if not gaps:
        return Fields(values, Frame(channels, time, grid))
    valid = torch.rand(values.shape, generator=random) > gaps
    return Fields(values.masked_fill(~valid, 0.0), Frame(channels, time, grid), valid)


def weather(layout: Layout, leads: tuple[int, ...] = (6, 24), *, gaps: float = 0.0, differ: bool = False) -> Batch:
    """Two samples; where they differ, the second one's leads are 6 h longer."""
    start = START + DAY * torch.arange(2)[:, None]
    later = start + HOUR * torch.tensor(leads) + (6 * HOUR * torch.arange(2)[:, None] if differ else 0)
    return Batch(
        fields(layout.inputs, start + HOUR * torch.tensor(layout.history), layout.grid, gaps=gaps),
        fields(layout.targets, later, layout.output_grid, gaps=gaps),
        forcings=fields(layout.forcings, later, layout.grid, gaps=gaps) if layout.forcings else None,
        statics=fields(layout.statics, start, layout.output_grid) if layout.statics else None,
    )


def known(layout: Layout) -> Statistics:
    named = (*layout.inputs, *layout.targets, *layout.forcings, *layout.statics)
    return statistics(tuple(dict.fromkeys(named)), layout.grid)


def stirred(network: nn.Module, size: float = 0.03) -> nn.Module:
    """Give layers that begin as zero something to say."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(size * torch.randn_like(parameter))
    return network


def drawn(task: Any) -> Any:
    """Return a task, to answer, with weights drawn, so that noise has a say."""
    torch.manual_seed(1)
    stirred(task.network, 0.1)
    return task.eval()


def climax(layout: Layout, task: type[Task] = et.ForecastTask, *, network: Any = None, **options: Any) -> Task:
    given = {"patch": 4, "dim": 16, "depth": 1, "heads": 2, "dropout": 0.0, "drop_path": 0.0} | (network or {})
    return task(lambda own: stirred(et.ClimaX(own, **given)), layout, known(layout), **options)


ALL = Layout(STATE, (*STATE, RAIN), GLOBE, statics=FIXED)
SAME = Layout(STATE, STATE, GLOBE, statics=FIXED)


def climax_plain() -> Case:
    return climax(ALL, lead_weights={6: 1.0, 24: 0.5}, channel_weights={"temperature": 2.0}), weather(ALL)


def climax_local() -> Case:
    return climax(ALL, network={"local_width": 4, "validity": True}, roll_longitude=True), weather(ALL, gaps=0.3)


def climax_departure() -> Case:
    return climax(ALL, network={"any_grid": True}, predict="departure", anomalies=True, loss="l1"), weather(ALL)


def climax_history() -> Case:
    layout = replace(SAME, history=(-12, -6, 0))
    network = {"history": "attention", "validity": True, "lora_rank": 2, "checkpoint_blocks": True}
    return climax(layout, network=network), weather(layout, gaps=0.3)


def climax_iterated() -> Case:
    layout = replace(SAME, history=(-6, 0))
    return climax(layout, step_hours=6, predict="change", conserve=["2m_temperature"]), weather(layout, (6, 12))


SUN = Channel("toa_incident_solar_radiation")
AHEAD = replace(SAME, inputs=(*STATE, RAIN), forcings=(SUN, RAIN))


def climax_forced() -> Case:
    return climax(AHEAD, network={"validity": True, "local_width": 4}, members=2), weather(AHEAD, gaps=0.3)


def unet_forced() -> Case:
    """A roll-out that is given something at each step, in a region whose edges are known."""
    region = Grid(GLOBE.latitude[1:7], GLOBE.longitude[:7])
    layout = replace(AHEAD, grid=region, forcings=(SUN, RAIN, *STATE), boundary=1)
    task = et.ForecastTask(
        lambda own: stirred(et.UNet(own, (6,), width=8, dropout=0.0, noise=0.0)), layout, known(layout), step_hours=6
    )
    batch = weather(layout, (6, 12))
    assert batch.forcings is not None
    valid = torch.ones_like(batch.forcings.values, dtype=torch.bool)
    valid[:, :, 2:, 1:-1, 1:-1] = False
    return task, replace(batch, forcings=replace(batch.forcings, valid=valid))


def climax_members() -> Case:
    return climax(SAME, members=2), weather(SAME)


def climax_pretrained() -> Case:
    return climax(SAME, et.PretrainTask, network={"validity": True}, mask_variables=0.3), weather(SAME, gaps=0.2)


def climax_content() -> Case:
    task, distance = climax(SAME), _distance()
    task.content = lambda *both: distance.to(both[0].values.device)(*both).mean()
    return task, weather(SAME)


def _distance() -> et.AtmoDistance:
    network = et.AtmoDist(Layout(STATE[:2], (), Grid(GLOBE.latitude, GLOBE.longitude[:8])), lags=4)
    return et.AtmoDistance(network, Normalizer(statistics(STATE[:2], GLOBE)), scale=1.3, layer="2.3")


def unet() -> Case:
    layout = replace(SAME, history=(-24, 0))
    made = et.ForecastTask(
        lambda own: stirred(et.UNet(own, (6, 24), width=8, dropout=0.0, noise=0.0)),
        layout,
        known(layout),
        anomalies=True,
        members=2,
    )
    return made, weather(layout)


def mesh(layout: Layout, *, network: Any = None, **options: Any) -> Task:
    given = {"patch": (2, 2, 2), "dim": 32, "heads": 2, "window": (2, 3, 3), "encoder_depth": 1, "decoder_depth": 1,
             "processors": {6: 1}, "surface_width": 8} | (network or {})  # fmt: skip
    return et.LatentForecastTask(lambda own: stirred(et.WeatherMesh(own, **given)), layout, known(layout), **options)


def mesh_flex() -> Case:
    return mesh(ALL, network={"seamless": True}), weather(ALL, (6,), differ=True)


def mesh_tiled() -> Case:
    network = {"dim": 24, "position": "sincos", "levels": (500, 700, 850)}
    options = {"consistency": 0.1, "spread": 2.0, "recompute": True, "level_weights": {500: 2.0}, "anomalies": True}
    return mesh(SAME, network=network, **options), weather(SAME, (6, 12), gaps=0.2)


def mesh_members() -> Case:
    return mesh(AHEAD, members=2, consistency=0.1, recompute=True), weather(AHEAD, (6, 12), gaps=0.2)


SST = Channel("sea_surface_temperature")
SEA = Grid(30 + 0.25 * np.arange(16), 10 + 0.25 * np.arange(16))


def gaps(
    network: Callable[..., nn.Module], *, days: int = 32, daily: bool = False, loss: str = "nll", **options: Any
) -> Case:
    layout = Layout((SST,), (SST,), SEA, statics=(LAND,))
    task = et.GapFillTask(lambda own: stirred(network(own, **options)), layout, statistics((SST, LAND), SEA), loss=loss)
    time = (START + DAY * torch.arange(days)).expand(2, -1).clone()
    months = torch.from_numpy(np.unique(month_start(time[0].numpy(), "proleptic_gregorian"))).expand(2, -1).clone()
    land = torch.zeros(2, 1, 1, *SEA.shape)
    land[..., :2] = 1
    inputs, targets = fields((SST,), time, SEA, gaps=0.7), fields((SST,), time if daily else months, SEA, gaps=0.2)
    return task, Batch(inputs, targets, statics=Fields(land, Frame((LAND,), time[:, :1], SEA)))


FILLER = {"dim": 16, "heads": 2, "depth": 1, "hidden": 8, "pooling_heads": 2, "refine": 4, "variance": True}


def fill_monthly() -> Case:
    return gaps(et.GapFiller, **FILLER)


def fill_daily() -> Case:
    return gaps(partial(et.GapFiller, daily=True), daily=True, window=3, **FILLER)


def fill_mean() -> Case:
    return gaps(et.GapFiller, loss="l1", **FILLER | {"residual": "mean", "harmonics": 0, "calendar": False})


def fill_kriging() -> Case:
    task, batch = gaps(partial(et.GapFiller, daily=True), daily=True, days=3, residual="kriging", **FILLER)
    task.network.kriging.fitted.fill_(True)
    return task, batch


def gappy_sea(path: Path) -> tuple[Task, et.Store]:
    """A task that fills days, and a month of a sea for it."""
    task, _ = fill_kriging()
    task.provenance = {"gap_filling": {"target": "daily", "months": 1, "margin": 0, "tile": [16, 16], "overlap": 0}}
    time = np.arange("2001-03-01", "2001-04-01", dtype="datetime64[D]").astype("datetime64[ns]")
    random = np.random.default_rng(0)
    values = np.where(random.random((31, *SEA.shape)) < 0.05, 290 + random.standard_normal((31, *SEA.shape)), np.nan)
    dims = ("time", "latitude", "longitude")
    fields = {SST.name: (dims, values, {"units": "K"}), "land_sea_mask": (dims[1:], np.zeros(SEA.shape))}
    sea = xr.Dataset(fields, {"time": time, "latitude": SEA.latitude, "longitude": SEA.longitude})
    return task, et.prepare(sea, path)


def fill_dincae() -> Case:
    return gaps(et.GapFillUNet, days=8, daily=True, width=8, levels=2)


WIND = (Channel("vorticity", 850), Channel("divergence", 850))
PATCH = Grid(np.linspace(-15, 15, 16), np.arange(16.0) * 2)


def lagged() -> Batch:
    lag = torch.arange(4) + 1
    return Batch(fields(WIND, torch.stack([0 * lag, lag * 6 * HOUR], 1), PATCH))


def lags() -> Case:
    known_wind = statistics(WIND, PATCH, log1p=True)
    layout = Layout(WIND, (), PATCH)
    return et.TimeLagTask(lambda own: et.AtmoDist(own, lags=4), layout, known_wind, step_hours=6), lagged()


def inpaint() -> Case:
    known_wind = statistics(WIND, PATCH, log1p=True)
    task = et.InpaintTask(et.Autoencoder, Layout(WIND, (), PATCH), known_wind, step_hours=6, lags=4, hole=0.5)
    return task, lagged()


def finer(**options: Any) -> Case:
    coarse, fine = Grid(np.arange(4) * 4.0 + 1.5, np.arange(4) * 4.0 + 1.5), Grid(np.arange(16.0), np.arange(16.0))
    layout = Layout(WIND, WIND, coarse, target_grid=fine)
    task = et.SuperResolutionTask(
        lambda own: et.SRGenerator(own, width=8, blocks=1), layout, statistics(WIND, fine, log1p=True), **options
    )
    time = torch.zeros(3, 1, dtype=torch.int64)
    return task, Batch(fields(WIND, time, coarse), fields(WIND, time, fine))


def super_resolved() -> Case:
    return finer(consistent=True)


def adversarial() -> Case:
    return finer(adversarial=1e-3, discriminator_width=8)


def adversarial_members() -> Case:
    return finer(adversarial=1e-3, discriminator_width=8, members=2)


def downscaled() -> Case:
    fine = GLOBE.refined(2)
    layout = Layout(STATE, STATE[:3], GLOBE, statics=FIXED, target_grid=fine)
    inside = {"patch": 4, "dim": 16, "depth": 1, "heads": 2, "dropout": 0.0, "drop_path": 0.0, "validity": True}
    task = et.DownscaleTask(
        lambda own: stirred(et.Downscaler(own, lambda deep: et.ClimaX(deep, **inside))), layout, known(layout)
    )
    return task, weather(layout, (0,), gaps=0.05)


def regressed() -> Case:
    layout = Layout(STATE, STATE[:3], GLOBE, target_grid=GLOBE.refined(2))
    task = et.DownscaleTask(
        lambda own: et.Downscaler(own, lambda deep: et.UNet(deep, leads=(0,), width=4), interpolation="regression"),
        layout, known(layout),
    )  # fmt: skip
    torch.nn.init.normal_(task.network.interpolation.weights, std=0.1)
    return task, weather(layout, (0,))


def projected() -> Case:
    forcings = tuple(map(Channel, ("CO2", "SO2", "CH4", "BC")))
    layout = Layout(forcings, (Channel("tas"),), GLOBE, history=(-17520, -8760, 0))
    task = et.ProjectionTask(
        lambda own: et.ClimaXProjection(own, patch=4, dim=16, depth=1, heads=2, dropout=0.0, drop_path=0.0), layout,
        known(layout),
    )  # fmt: skip
    return task, weather(layout, (0,))


CASES = [
    climax_plain, climax_local, climax_departure, climax_history, climax_iterated, climax_forced, climax_members,
    climax_pretrained, climax_content, unet, unet_forced, mesh_flex, mesh_tiled, mesh_members,
    fill_monthly, fill_daily, fill_mean, fill_kriging, fill_dincae, lags, inpaint, super_resolved, adversarial,
    adversarial_members, downscaled, regressed, projected,
]  # fmt: skip


def quiet(task: Task) -> Task:
    """Let a task train without a trainer."""
    object.__setattr__(task, "log", lambda *_, **__: None)
    object.__setattr__(task, "log_dict", lambda *_, **__: None)
    object.__setattr__(task, "manual_backward", lambda loss: loss.backward())
    return task


def trained(task: Task, batch: Batch) -> Tensor:
    """Make a step of training up to the gradients and return the loss."""
    torch.manual_seed(5)
    task.train()
    if getattr(task, "discriminator", None) is not None:
        both = [torch.optim.SGD(part.parameters(), lr=1e-3) for part in (task.network, task.discriminator)]
        object.__setattr__(task, "optimizers", lambda: both)
        losses: dict[str, Tensor] = {}
        object.__setattr__(task, "log_dict", lambda values, **_: losses.update(values))
        task.training_step(batch, 0)
        return losses["train_content"]
    loss = task.training_step(batch, 0)
    loss.backward()
    return loss.detach()


def validated(task: Task, batch: Batch) -> None:
    task.eval()
    task.on_validation_epoch_start()
    with torch.no_grad():
        task.validation_step(batch, 0)


def predicted(task: Task, batch: Batch) -> Tensor:
    task.eval()
    if isinstance(task, et.TimeLagTask):
        return torch.zeros(())
    if isinstance(task, et.InpaintTask):
        return task.predict(batch, batch.inputs.frame).values
    if isinstance(task, et.ForecastTask):
        leads = (batch.targets.frame.time[0] - batch.inputs.frame.time[0, -1]) // HOUR
        return torch.cat([part.values for part in task.forecast(batch, leads.tolist())], 1)
    return task.predict(batch, batch.targets.frame).values


def apart(one: Tensor, other: Tensor) -> float:
    """Return the largest difference over the largest number."""
    one, other = (each.detach().float().cpu().nan_to_num() for each in (one, other))
    return float((one - other).abs().max() / other.abs().max().clamp(min=1e-9))
