"""Every source of analyses has its encoder; processors and decoder are common, and latents can be blended."""

import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from small_tasks import saved

from etesian.cli.main import main
from etesian.core import Channel, Fields, Frame, Grid, Layout
from etesian.core.errors import CheckpointError, DataError, RecipeError
from etesian.core.recorded import rebuild
from etesian.forecast.data import ForecastData
from etesian.forecast.task import ForecastTask
from etesian.networks.unet import UNet
from etesian.networks.weathermesh import WeatherMesh
from etesian.store.prepare import prepare_dataset
from etesian.store.reader import Store
from etesian.training.checkpoint import SafeCheckpoints, best_and_last, load_task
from etesian.training.finetune import Start

pytestmark = pytest.mark.filterwarnings("ignore")
GLOBE = Grid.equiangular(22.5)
EUROPE = (*(Channel("temperature", level) for level in (300, 500, 850)), Channel("2m_temperature"))
AMERICA = (*(Channel("temperature", level) for level in (300, 400, 700, 850)), Channel("surface_pressure"))
LAYOUT = Layout(tuple(dict.fromkeys(EUROPE + AMERICA)), EUROPE, GLOBE)
NAMES = {"ERA5": tuple(map(str, EUROPE)), "GFS": tuple(map(str, AMERICA))}
SMALL: dict[str, Any] = {
    "levels": (300, 500, 700, 850), "patch": (2, 2, 2), "dim": 16, "heads": 2, "window": (2, 3, 3), "encoder_depth": 1,
    "decoder_depth": 1, "processors": {6: 1}, "surface_width": 4,
}  # fmt: skip


def network(layout: Layout = LAYOUT, seed: int = 0, **options: Any) -> WeatherMesh:
    torch.manual_seed(seed)
    made = WeatherMesh(layout, **(SMALL | {"sources": NAMES} | options))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(std=0.3 if parameter.ndim < 2 else 1 / math.sqrt(parameter[0].numel()))
    return made.eval()


def fields(source: str | None, channels: tuple[Channel, ...] = LAYOUT.inputs, seed: int = 0) -> Fields:
    values = torch.randn(2, 1, len(channels), *GLOBE.shape, generator=torch.Generator().manual_seed(seed))
    return Fields(values, Frame(channels, torch.zeros(2, 1, dtype=torch.int64), GLOBE, source=source))


@torch.no_grad()
def test_fields_enter_by_the_encoder_of_their_source_which_sees_its_own_channels_only() -> None:
    model = network()
    latent = {source: model.encode(fields(source)) for source in NAMES}
    assert latent["ERA5"].shape == latent["GFS"].shape
    assert not torch.allclose(latent["ERA5"], latent["GFS"], atol=0.1)
    for source, own in (("ERA5", EUROPE), ("GFS", AMERICA)):
        assert torch.equal(model.encode(fields(source).select(own)), latent[source])
        for number, channel in enumerate(LAYOUT.inputs):
            other = fields(source)
            other.values[:, :, number] += 1
            assert torch.equal(model.encode(other), latent[source]) is (channel not in own), (source, channel)


@torch.no_grad()
def test_a_blend_is_the_weighted_mean_of_latents_and_one_source_alone_is_that_source_exactly() -> None:
    model = network()
    analyses = [fields("ERA5", EUROPE), fields("GFS", AMERICA, seed=1)]
    first, second = (model.encode(each) for each in analyses)
    assert torch.equal(model.blend(analyses, [1, 0]), first)
    assert torch.equal(model.blend(analyses, [0, 3.0]), second)
    mean = 0.1 * first + 0.9 * second
    expected = (mean - mean.mean(-1, keepdim=True)) / mean.std(-1, keepdim=True, unbiased=False)
    for weights in ([0.1, 0.9], [1, 9]):
        torch.testing.assert_close(model.blend(analyses, weights), expected, rtol=1e-3, atol=1e-4)
    target = Frame(EUROPE, torch.full((2, 1), 6 * 3600), GLOBE)
    ((places, alone),) = model.stream(analyses[1], target)
    assert places == [0]
    ((_, blended),) = model.stream(analyses[0], target, others=analyses[1:], weights=[0, 1])
    assert torch.equal(blended, alone)
    with pytest.raises(RecipeError, match=r"weights \[1, -1\] must be 0 or more"):
        model.blend(analyses, [1, -1])


def test_a_source_that_is_not_named_or_not_known_is_refused() -> None:
    model = network()
    with pytest.raises(DataError, match="has encoders for ERA5, GFS; say which source the inputs come from"):
        model.encode(fields(None))
    with pytest.raises(DataError, match="has no encoder for 'ERA'; did you mean 'ERA5'"):
        model.encode(fields("ERA"))
    one = network(sources=None)
    assert torch.equal(one.encode(fields(None)), one.encode(fields("analysis")))
    with pytest.raises(DataError, match="has no encoder for 'GFS'; known are analysis"):
        one.encode(fields("GFS"))
    for sources, message in (
        ({}, "sources must name at least one"),
        ({"a.b": ("temperature",)}, "'a.b' cannot name a source"),
        ({"ERA5": ("2m_temperature",), "GFS": ("temperature",)}, "but ERA5 gives none"),
    ):
        with pytest.raises(RecipeError, match=message):
            network(sources=sources)
    unet = UNet(replace(LAYOUT, inputs=EUROPE), leads=(6,), width=4)
    with pytest.raises(RecipeError, match="UNet starts from one analysis; it cannot blend several"):
        next(unet.stream(fields(None, EUROPE), fields(None, EUROPE).frame, others=[fields(None, EUROPE)]))
    with pytest.raises(DataError, match="UNet does not tell sources apart; leave out 'ERA5'"):
        unet.layout_of("ERA5")


def test_every_parameter_belongs_to_one_part() -> None:
    model = network()
    parts = model.parts()
    assert list(parts) == ["all", "encoder/ERA5", "encoder/GFS", "processors", "decoder"]
    every = [name for part, names in parts.items() if part != "all" for name in names]
    assert sorted(every) == sorted(parts["all"]) == sorted(name for name, _ in model.named_parameters())
    again = rebuild(model.describe())
    assert again.sources == model.sources
    assert again.state_dict().keys() == model.state_dict().keys()


def test_a_network_takes_over_what_it_shares_and_says_what_is_new() -> None:
    trained = network(replace(LAYOUT, inputs=EUROPE), seed=1, sources={"ERA5": NAMES["ERA5"]})
    model = network()
    transfer = model.adopt(trained)
    assert transfer.new == model.parts()["encoder/GFS"]
    state = fields("ERA5", EUROPE)
    assert torch.equal(model.encode(state), trained.encode(state))
    assert "dropped" in trained.adopt(model).outcomes.values()
    for other, message in (
        (network(dim=32), "is of another size: "),
        (network(replace(LAYOUT, targets=EUROPE[1:])), "has other targets: temperature_300 is not in both"),
        (network(levels=(300, 500, 850)), "has other levels: 700 is not in both"),
        (network(sources=NAMES | {"GFS": NAMES["GFS"][:-1]}), "other inputs of GFS: surface_pressure is not in both"),
        (network(processors={6: 1, 24: 1}), "processors.24.* which this one has not"),
    ):
        with pytest.raises(CheckpointError, match=message):
            model.adopt(other)


def weather(channels: tuple[Channel, ...], bias: float) -> xr.Dataset:
    """Waves that go round the globe within ten days, in all channels."""
    time = pd.date_range("2001-01-01", periods=60, freq="6h")
    phase = np.deg2rad(GLOBE.longitude)[None, None] - 2 * np.pi * np.arange(60)[:, None, None] / 40
    wave = 10 * np.cos(np.deg2rad(GLOBE.latitude))[None, :, None] * np.cos(phase)
    levels = [c.level for c in channels if c.level is not None]
    aloft = 200 + bias + np.array(levels)[None, :, None, None] / 10 + wave[:, None]
    surface = next(c.name for c in channels if c.level is None)
    dims = ("time", "latitude", "longitude")
    return xr.Dataset(
        {
            "temperature": (("time", "level", *dims[1:]), aloft.astype(np.float32), {"units": "K"}),
            surface: (dims, (280 + wave).astype(np.float32), {"units": "K" if surface == "2m_temperature" else "Pa"}),
        },
        {"time": time, "level": levels, "latitude": GLOBE.latitude, "longitude": GLOBE.longitude},
    )


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("sources")
    made = {name: str(folder / f"{name}.store.zarr") for name in NAMES}
    prepare_dataset(weather(EUROPE, 0.0), made["ERA5"])
    # Of another centre: other levels, and two degrees warmer.
    prepare_dataset(weather((*AMERICA[:-1], Channel("2m_temperature")), 2.0), made["GFS"])
    return made


def fit(run: Path, data: ForecastData, task: ForecastTask, steps: int) -> list[float]:
    losses: list[float] = []

    class Listen(L.Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, *_: Any) -> None:
            losses.append(float(outputs["loss"]))

    task.provenance = data.provenance
    trainer = L.Trainer(
        accelerator="cpu", max_steps=steps, max_epochs=steps, logger=False, enable_progress_bar=False,
        default_root_dir=run, enable_model_summary=False, plugins=[SafeCheckpoints()],
        callbacks=[*best_and_last(run / "checkpoints"), Listen()],
    )  # fmt: skip
    trainer.fit(task, datamodule=data)
    return losses


PERIODS: Any = ("2001-01-01", "2001-01-11"), ("2001-01-12", "2001-01-14")


@pytest.fixture(scope="module")
def runs(stores: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Path], list[float]]:
    """A run on one source, and one that adds a second source to it with all else frozen."""
    folder = tmp_path_factory.mktemp("runs")
    optimizer: Any = lambda parameters: torch.optim.AdamW(parameters, lr=1e-2)  # noqa: E731
    names = {"ERA5": NAMES["ERA5"], "GFS": (*NAMES["GFS"][:-1], "2m_temperature")}

    def net(*sources: str) -> Any:
        return lambda layout: WeatherMesh(layout, **(SMALL | {"sources": {name: names[name] for name in sources}}))

    torch.manual_seed(0)
    alone = ForecastData([stores["ERA5"]], *PERIODS, [6], sources=["ERA5"], batch_size=8)
    task = ForecastTask(net("ERA5"), alone.layout, alone.statistics, optimizer=optimizer, warmup_steps=1)
    fit(folder / "first", alone, task, 40)

    both = ForecastData(
        [stores["ERA5"], stores["GFS"]], *PERIODS, [6], targets=[str(c) for c in EUROPE], weights=[0, 1],
        sources=["ERA5", "GFS"], batch_size=8,
    )  # fmt: skip
    start = Start(str(folder / "first"), ["encoder/GFS"], statistics="trained")
    task = ForecastTask(
        net("ERA5", "GFS"), both.layout, both.statistics, optimizer=optimizer, warmup_steps=1, start=start
    )
    losses = fit(folder / "second", both, task, 40)
    return {name: folder / name for name in ("first", "second")}, losses


def test_an_encoder_for_another_source_is_trained_with_all_else_frozen(
    runs: tuple[dict[str, Path], list[float]], stores: dict[str, str]
) -> None:
    paths, losses = runs
    first, second = (load_task(paths[name], which) for name, which in (("first", "best"), ("second", "last")))
    before, after = first.network.state_dict(), second.network.state_dict()
    assert [key for key in before if not torch.equal(before[key], after[key])] == []
    assert {key.split(".")[1] for key in after.keys() - before.keys()} == {"GFS"}
    assert np.mean(losses[-5:]) < 0.3 * np.mean(losses[:2])

    # In the units of the first run, of which the second centre's are two degrees off.
    own = Store(stores["ERA5"]).statistics
    known = second.normalizer.statistics
    for channel, mean in zip(own.channels, own.mean, strict=True):
        assert known.mean[known.channels.index(channel)] == mean


def test_two_analyses_are_blended_into_one_forecast(
    runs: tuple[dict[str, Path], list[float]], stores: dict[str, str], tmp_path: Path
) -> None:
    run, opened = str(runs[0]["second"]), {}
    gfs = f"GFS={stores['GFS']}"
    for name, store, options in (
        ("era", "ERA5", ["--source", "ERA5"]),
        ("gfs", "GFS", ["--source", "GFS"]),
        ("only_era", "ERA5", ["--source", "ERA5", "--blend", f"{gfs}=0"]),
        ("only_gfs", "ERA5", ["--source", "ERA5", "--blend", f"{gfs}=1"]),
        ("blend", "ERA5", ["--source", "ERA5", "--blend", f"{gfs}=0.9"]),
    ):
        out = str(tmp_path / f"{name}.zarr")
        with pytest.raises(SystemExit) as stop:
            main(
                [
                    "forecast",
                    run,
                    stores[store],
                    out,
                    "--init",
                    "2001-01-12",
                    "2001-01-13",
                    "--leads",
                    "6",
                    "24",
                    *options,
                ]
            )
        assert not stop.value.code
        opened[name] = xr.open_zarr(out).load()
    for name in ("temperature", "2m_temperature"):
        era, gfs, blend = (opened[key][name].values for key in ("era", "gfs", "blend"))
        np.testing.assert_array_equal(opened["only_era"][name], era)
        np.testing.assert_array_equal(opened["only_gfs"][name], gfs)
        assert np.nanmax(np.abs(era - gfs)) > 0.1
        assert np.nanmean(np.abs(blend - gfs)) < 0.5 * np.nanmean(np.abs(era - gfs))
        assert np.nanmax(np.abs(blend - gfs)) > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "has encoders for ERA5, GFS; say which source"),
        (
            ["--source", "ERA5", "--blend", "GFS"],
            "--blend takes SOURCE=PATH=WEIGHT, such as .*, not 'GFS'",
        ),
        (["--source", "GFS"], "has no channel 'temperature_400'"),
    ],
)
def test_stores_that_do_not_say_their_source_or_hold_another_are_refused(
    runs: tuple[dict[str, Path], list[float]], stores: dict[str, str], tmp_path: Path, capsys: Any,
    options: list[str], message: str,
) -> None:  # fmt: skip
    command = ["forecast", str(runs[0]["second"]), stores["ERA5"], str(tmp_path / "o.zarr"), "--init", "2001-01-12"]
    with pytest.raises(SystemExit):
        main([*command, "2001-01-13", "--leads", "6", *options])
    assert re.search(message, " ".join(capsys.readouterr().err.split()))
    assert not list(tmp_path.iterdir())


def test_a_start_in_the_units_of_a_run_keeps_its_statistics_and_its_decay_of_persistence(
    stores: dict[str, str], tmp_path: Path
) -> None:
    store = Store(stores["ERA5"])
    layout = Layout(store.channels, store.channels, store.grid)
    warmer = replace(store.statistics, mean=store.statistics.mean + 5, std=2 * store.statistics.std)
    net: Any = lambda layout: WeatherMesh(layout, **(SMALL | {"levels": None}))  # noqa: E731

    def save(name: str, **options: Any) -> str:
        task = ForecastTask(net, layout, store.statistics, **options)
        if options["predict"] == "departure":
            torch.nn.init.constant_(task.decay_rate, 0.7)
        return saved(task, tmp_path / name)

    def begin(run: str, statistics: Any = "trained", **options: Any) -> ForecastTask:
        return ForecastTask(net, layout, warmer, start=Start(run, ["processors"], statistics=statistics), **options)

    run = save("run", predict="departure", anomalies=True)
    kept = begin(run, predict="departure", anomalies=True)
    for name in ("mean", "std", "harmonics", "anomaly_std"):
        np.testing.assert_array_equal(getattr(kept.normalizer.statistics, name), getattr(store.statistics, name))
    assert kept.decay_rate.tolist() == pytest.approx([0.7] * len(layout.targets))
    assert not kept.decay_rate.requires_grad
    trained = {name for name, p in kept.named_parameters() if p.requires_grad}
    assert trained == {f"network.{name}" for name in kept.network.parts()["processors"]}

    own = begin(run, "data", predict="departure")
    np.testing.assert_array_equal(own.normalizer.statistics.mean, warmer.mean)
    assert own.decay_rate.tolist() == [0.0] * len(layout.targets)
    plain = save("plain", predict="state")
    with pytest.raises(RecipeError, match="plain was trained without anomalies; set anomalies: false"):
        begin(plain, anomalies=True)
    with pytest.raises(RecipeError, match="plain did not predict the departure of the same targets"):
        begin(plain, predict="departure")
