"""Every command of docs/climax_weights.md runs as it is printed, with 48 variables at 5.625° and a narrow network."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from running import commands, etesian
from safetensors.torch import load_file
from torch import Tensor

from etesian.cli.main import main
from etesian.core.constants import STANDARD_GRAVITY
from etesian.core.errors import CheckpointError
from etesian.core.grid import Grid
from etesian.core.statistics import Statistics
from etesian.interop.climax import ORIGINAL_VARIABLES
from etesian.interop.climax import load as load_original
from etesian.store.reader import Store
from etesian.training.checkpoint import read_checkpoint
from etesian.training.finetune import Start, kept_statistics

PAGE = Path(__file__).parents[2] / "docs" / "climax_weights.md"
GRID = Grid.equiangular(5.625)
LEVELS = (50, 250, 500, 600, 700, 850, 925)
WIDTH, DEPTH, HEADS = 16, 2, 2
SMALL = [
    f"--model.network.dim={WIDTH}", f"--model.network.depth={DEPTH}", f"--model.network.heads={HEADS}", "--epochs=1",
    "--data.leads=[72, 120]", "--data.workers=0", "--model.warmup_steps=0", "--trainer.callbacks=null",
    "--trainer.precision=32-true", "--trainer.enable_model_summary=false", "--trainer.num_sanity_val_steps=0",
]  # fmt: skip


def original_weights() -> dict[str, Tensor]:
    """Random weights under the original's keys, as narrow as a test needs."""
    torch.manual_seed(0)
    shapes: dict[str, tuple[int, ...]] = {"var_embed": (1, 48, WIDTH), "var_query": (1, 1, WIDTH)}
    shapes |= {"pos_embed": (1, 512, WIDTH), "var_agg.in_proj_weight": (3 * WIDTH, WIDTH)}
    shapes["var_agg.in_proj_bias"] = (3 * WIDTH,)
    layers = {f"token_embeds.{i}.proj": (WIDTH, 1, 2, 2) for i in range(48)}
    layers |= {"var_agg.out_proj": (WIDTH, WIDTH), "lead_time_embed": (WIDTH, 1), "norm": (WIDTH,)}
    for i in range(DEPTH):
        layers |= {f"blocks.{i}.norm{j}": (WIDTH,) for j in (1, 2)}
        layers |= {f"blocks.{i}.attn.qkv": (3 * WIDTH, WIDTH), f"blocks.{i}.attn.proj": (WIDTH, WIDTH)}
        layers |= {f"blocks.{i}.mlp.fc1": (4 * WIDTH, WIDTH), f"blocks.{i}.mlp.fc2": (WIDTH, 4 * WIDTH)}
    layers |= {"head.0": (WIDTH, WIDTH), "head.2": (WIDTH, WIDTH), "head.4": (48 * 4, WIDTH)}
    for name, shape in layers.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    return {f"net.{name}": 0.1 * torch.randn(shape) for name, shape in shapes.items()}


def reanalysis() -> xr.Dataset:
    """Random fields in WeatherBench 2's layout, a level more than is needed, without orography and latitudes."""
    random = np.random.default_rng(0)
    time = np.concatenate([pd.date_range(f"{y}-12-25", periods=22, freq="6h") for y in (2015, 2016, 2017)])
    levels = [*LEVELS, 1000]
    dims = ("time", "level", "longitude", "latitude")

    def field(*sizes: int) -> np.ndarray:
        return random.standard_normal((*sizes, 64, 32), dtype=np.float32)

    fields: dict[str, object] = {
        name: (("time", *dims[2:]), field(66) + mean, {"units": units})
        for name, mean, units in (
            ("2m_temperature", 280, "K"),
            ("10m_u_component_of_wind", 0, "m s-1"),
            ("10m_v_component_of_wind", 0, "m s-1"),
        )
    }
    for name, mean, size, units in (
        ("geopotential", 68600 * np.log(1013 / np.array(levels))[:, None, None], 100, "m2 s-2"),
        ("u_component_of_wind", 5, 1, "m s-1"),
        ("v_component_of_wind", 0, 1, "m s-1"),
        ("temperature", 260, 1, "K"),
        ("relative_humidity", 50, 1, "%"),
        ("specific_humidity", 0.01, 1e-4, "kg kg-1"),
    ):
        fields[name] = (dims, field(66, 8) * np.float32(size) + np.float32(mean), {"units": units})
    fields["geopotential_at_surface"] = (dims[2:], 1000 * field() ** 2, {"units": "m2 s-2"})
    fields["land_sea_mask"] = (dims[2:], (field() > 0).astype(np.float32), {"units": "1"})
    axes = {"time": time, "level": levels, "latitude": GRID.latitude, "longitude": GRID.longitude}
    return xr.Dataset(fields, axes)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where the commands of the page have run, with the checkpoint and the reanalysis that they start from."""
    place = tmp_path_factory.mktemp("weights")
    torch.save({"state_dict": original_weights(), "epoch": 99}, place / "5.625deg.ckpt")
    (place / "era5").mkdir()
    reanalysis().to_netcdf(place / "era5" / "era5.nc")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        # Other tests look at the report; its pictures would take most of the time.
        patch.setattr("etesian.scores.report._figures", lambda scores: iter(()))
        patch.setattr("etesian.scores.report.render", lambda scores, pictures: "")

        for line in commands(PAGE):
            verb, *words = shlex.split(line)
            more = {"import": ["--num-heads", str(HEADS)], "fit": SMALL}.get(verb, [])
            etesian(verb, *words, *more)
        yield place


def test_the_store_holds_the_48_variables_of_the_weights(folder: Path) -> None:
    store = Store(str(folder / "runs/data/era5_5.625.zarr"))
    assert {*store.channels, *store.static_channels} >= set(ORIGINAL_VARIABLES)
    assert len(store.channels) == 45
    statics = dict(zip(map(str, store.static_channels), store.statics, strict=True))
    np.testing.assert_allclose(statics["latitude_field"], np.tile(GRID.latitude[:, None], 64), rtol=1e-6)
    np.testing.assert_allclose(statics["orography"], statics["geopotential_at_surface"] / STANDARD_GRAVITY, rtol=1e-5)
    table = PAGE.read_text(encoding="utf-8").split("| static |")[1].split("\n\n")[0]
    named = set(re.findall(r"`(\w+)`", table))
    assert named == {channel.name for channel in ORIGINAL_VARIABLES}


@pytest.mark.parametrize(
    ("run", "trained"),
    [
        ("all", lambda name: True),
        ("frozen", lambda name: re.search(r"aggregation|position|lead_time|norm|head|to_pixels", name)),
        ("head", lambda name: name.startswith(("head", "to_pixels"))),
        ("lora", lambda name: name.startswith(("head", "to_pixels"))),
    ],
)
def test_each_way_of_fine_tuning_changes_what_it_trains_and_nothing_else(
    folder: Path, run: str, trained: object
) -> None:
    description, tensors = read_checkpoint(folder / "runs" / run / "checkpoints" / "last")
    before = load_file(folder / "runs/original/weights.safetensors")
    after = {name.removeprefix("network."): value for name, value in tensors.items() if name.startswith("network.")}
    # The order of variables is the recipe's here and the original's there.
    shared = [name for name in before if after[name].shape == before[name].shape and "to_pixels" not in name]
    shared = [name for name in shared if "aggregation.token" not in name and name != "aggregation.variable_embed"]
    changed = {name for name in shared if not torch.equal(after[name], before[name])}
    expected = {name for name in shared if trained(name)}  # type: ignore[operator]
    # A query that starts from nothing known may stay where it is in one step; everything else has to move.
    assert changed == expected
    outcomes = description["provenance"]["transfer"]
    new = {name for name, outcome in outcomes.items() if outcome != "loaded"}
    assert new == {name for name in after if "lora" in name}


def test_forecasts_are_scored_beside_persistence(folder: Path) -> None:
    scores = xr.open_dataset(folder / "evaluation" / "scores.nc")
    rmse = scores["rmse"].sel(forecast=["all", "head"], channel="temperature_850").squeeze()
    # Random fields of unit variance: the best that there is to say is their mean.
    np.testing.assert_allclose(
        rmse / scores["rmse"].sel(forecast="persistence", channel="temperature_850").squeeze(), np.sqrt(0.5), rtol=0.2
    )


def test_the_report_names_families_of_keys_in_a_line(folder: Path) -> None:
    _, report = load_original(folder / "5.625deg.ckpt", num_heads=HEADS)
    lines = str(report).splitlines()
    assert len(lines) == 27
    assert "net.token_embeds.0…47.proj.bias    loaded as aggregation.token_bias[0…47]" in lines
    assert len(report.keys) == len(original_weights())


def test_imported_weights_are_no_run_and_have_no_statistics_to_keep(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = "original holds a network without statistics; name it as `start` in a recipe, and take those of the data"
    with pytest.raises(CheckpointError, match=said):
        kept_statistics(Start(str(folder / "runs/original")), Statistics(ORIGINAL_VARIABLES, np.zeros(48), np.ones(48)))
    with pytest.raises(SystemExit) as stop:
        main(
            [
                "forecast",
                str(folder / "runs/original"),
                "store.zarr",
                "out.zarr",
                "--leads",
                "72",
                "--init",
                "2017",
                "2018",
            ]
        )
    assert stop.value.code == 1
    assert said in capsys.readouterr().err
