"""Fine-tuning begins with what was trained, says so tensor by tensor, and trains what it is asked to."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from golden_arrays import GOLDEN, read, weights_of
from small_tasks import saved

from etesian.cli.main import main
from etesian.core import Channel, Fields, Frame, Grid, Layout
from etesian.core.errors import CheckpointError, RecipeError
from etesian.core.statistics import Statistics
from etesian.forecast.task import ForecastTask
from etesian.networks.climax import ClimaX
from etesian.networks.unet import UNet
from etesian.nn.attention import LowRank, SelfAttention
from etesian.nn.tokens import interpolate_position
from etesian.training.checkpoint import load_task
from etesian.training.finetune import Start

OLD = (Channel("temperature", 850), Channel("geopotential", 500), Channel("2m_temperature"))
NEW = (Channel("geopotential", 500), Channel("surface_pressure"), Channel("temperature", 850))
COARSE, FINE = Grid.equiangular(30), Grid.equiangular(15)


def network(channels: tuple[Channel, ...], grid: Grid = COARSE, seed: int = 0, **options: Any) -> ClimaX:
    torch.manual_seed(seed)
    sizes = {"patch": 2, "dim": 16, "depth": 2, "heads": 2, "dropout": 0.0, "drop_path": 0.0} | options
    history = sizes.pop("hours", (0,))
    made = ClimaX(Layout(channels, channels, grid, history=history), **sizes)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    for module in made.modules():
        if isinstance(module, LowRank):
            module.reset()
    return made.eval()


def ask(model: ClimaX, channels: tuple[Channel, ...], values: torch.Tensor) -> torch.Tensor:
    frame = Frame(channels, torch.zeros(2, 1, dtype=torch.int64), model.layout.grid)
    later = Frame(channels, frame.time + 24 * 3600, frame.grid)
    return model(Fields(values, frame), later)


def test_shared_variables_forecast_as_the_trained_network_does() -> None:
    trained, fresh = network(OLD), network(NEW, seed=1)
    before = {name: tensor.clone() for name, tensor in fresh.state_dict().items()}
    transfer = fresh.adopt(trained)
    shared = (OLD[1], OLD[0])
    values = torch.randn(2, 1, 2, *COARSE.shape)
    torch.testing.assert_close(ask(fresh, shared, values), ask(trained, shared, values))
    number = NEW.index(Channel("surface_pressure"))
    assert torch.equal(fresh.aggregation.token_weight[number], before["aggregation.token_weight"][number])
    assert transfer.outcomes["aggregation.token_weight"] == "67% loaded, the rest new"
    assert transfer.outcomes["surface_pressure"] == "new"
    assert transfer.outcomes["2m_temperature"] == "dropped"
    assert transfer.outcomes["blocks.0.mlp.expand.weight"] == "loaded"
    assert "to_pixels.weight" in transfer.new
    assert "position" not in transfer.new


def test_positions_are_interpolated_to_another_grid() -> None:
    trained, fresh = network(OLD), network(OLD, FINE, seed=1)
    transfer = fresh.adopt(trained)
    expected = interpolate_position(trained.position.detach(), COARSE, FINE, (2, 2), (2, 2))
    torch.testing.assert_close(fresh.position.detach(), expected)
    assert transfer.outcomes["position"].startswith("interpolated from 6×12")


def test_a_neck_goes_on_with_the_weights_of_a_trained_one_and_is_new_without() -> None:
    trained = network(OLD, history="attention", hours=(-6, 0))
    fresh = network(OLD, seed=1, history="attention", hours=(-12, -6, 0))
    transfer = fresh.adopt(trained)
    names = [name for name in trained.state_dict() if name.startswith("neck.")]
    assert names
    for name in names:
        assert torch.equal(fresh.state_dict()[name], trained.state_dict()[name])
        assert transfer.outcomes[name] == "loaded"
    assert not transfer.new

    without = network(OLD)
    transfer = network(OLD, seed=1, history="attention", hours=(-6, 0)).adopt(without)
    assert transfer.new == set(names)
    assert network(OLD, seed=1).adopt(trained).outcomes["neck.query"] == "dropped"


def test_streams_of_a_history_go_by_age_and_older_ones_are_new() -> None:
    trained, fresh = network(OLD), network(OLD, seed=1, hours=(-6, 0))
    before = fresh.aggregation.token_weight.detach().clone()
    transfer = fresh.adopt(trained)
    assert torch.equal(fresh.aggregation.token_weight[:3], trained.aggregation.token_weight)
    assert torch.equal(fresh.aggregation.token_weight[3:], before[3:])
    assert transfer.outcomes["aggregation.token_weight"] == "50% loaded, the rest new"


def test_patches_of_another_size_make_pixels_new_and_keep_the_transformer() -> None:
    trained, fresh = network(OLD), network(OLD, seed=1, patch=3)
    transfer = fresh.adopt(trained)
    assert {"aggregation.token_weight", "to_pixels.weight", "to_pixels.bias"} == transfer.new
    assert torch.equal(fresh.blocks[1].attention.qkv.weight, trained.blocks[1].attention.qkv.weight)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: network(OLD, dim=32), "the trained ClimaX is of another size: .* there and .* here"),
        (lambda: network(OLD, depth=3), "smaller: it has no blocks.2.*; give the network the same depth"),
    ],
)
def test_transformers_of_another_size_are_refused(make: Callable[[], ClimaX], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        make().adopt(network(OLD))


def test_a_network_of_another_kind_is_refused() -> None:
    with pytest.raises(CheckpointError, match="a ClimaX cannot begin with the weights of a UNet"):
        network(OLD).adopt(UNet(Layout(OLD, OLD, COARSE), (24,)))


def test_lora_begins_as_nothing_and_adds_a_product_of_low_rank() -> None:
    torch.manual_seed(0)
    plain, lora = SelfAttention(8, 2).eval(), SelfAttention(8, 2, lora_rank=3).eval()
    lora.load_state_dict(plain.state_dict(), strict=False)
    tokens = torch.randn(2, 5, 8)
    assert torch.equal(lora(tokens), plain(tokens))
    for part in (lora.lora_qkv, lora.lora_out):
        torch.nn.init.normal_(part.up.weight)
    with torch.no_grad():
        plain.qkv.weight += lora.lora_qkv.up.weight @ lora.lora_qkv.down.weight
        plain.out.weight += lora.lora_out.up.weight @ lora.lora_out.down.weight
    torch.testing.assert_close(lora(tokens), plain(tokens))


def task(channels: tuple[Channel, ...], start: Start | None = None, **options: Any) -> ForecastTask:
    layout = Layout(channels, channels, COARSE)
    statistics = Statistics(channels, np.zeros(3), np.ones(3))
    sizes = {"patch": 2, "dim": 16, "depth": 2, "heads": 2, "dropout": 0.0, "drop_path": 0.0} | options
    return ForecastTask(lambda layout: ClimaX(layout, **sizes), layout, statistics, start=start)


@pytest.fixture
def trained(tmp_path: Path) -> str:
    torch.manual_seed(5)
    return saved(task(OLD), tmp_path / "trained")


@pytest.mark.parametrize(
    ("train", "expected"),
    [
        (["head"], {"head", "to_pixels"}),
        (["norms"], {"norm", "norm1", "norm2"}),
        (["attention", "embeddings"], {"qkv", "out", "aggregation", "position", "lead_time"}),
        (["lora"], {"lora_qkv", "lora_out"}),
    ],
)
def test_only_what_is_named_is_trained(train: list[str], expected: set[str], trained: str) -> None:
    chosen = task(OLD, Start(trained, train), lora_rank=2)
    batch = torch.randn(2, 1, 3, *COARSE.shape)
    ask(chosen.network, OLD, batch).square().sum().backward()  # type: ignore[arg-type]
    for name, parameter in chosen.network.named_parameters():
        is_named = bool(expected & set(name.split(".")))
        if "lora" in name and "lora" not in train:
            is_named = False
        if name.startswith("aggregation"):
            is_named = "embeddings" in train
        assert parameter.requires_grad == is_named, name
        assert (parameter.grad is not None) == is_named or not is_named, name
    given = {id(p) for group in chosen.parameter_groups() for p in group["params"]}
    assert given == {id(p) for p in chosen.parameters() if p.requires_grad}


def test_what_is_new_learns_at_its_own_rate_through_the_schedule(trained: str) -> None:
    chosen = task(NEW, Start(trained, new_rate=10.0))
    chosen.trainer = type("Trainer", (), {"estimated_stepping_batches": 300})()  # type: ignore[assignment]
    made = chosen.configure_optimizers()
    schedule, optimizer = made["lr_scheduler"]["scheduler"], made["optimizer"]
    for _ in range(150):
        optimizer.step()
        schedule.step()
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    network = chosen.network
    new, old = rates[id(network.get_parameter("to_pixels.weight"))], rates[id(network.get_parameter("norm.weight"))]
    assert 0 < old < 5e-4
    assert new == pytest.approx(10 * old)
    assert rates[id(network.get_parameter("aggregation.variable_embed"))] == pytest.approx(10 * old)


def test_a_fine_tuned_checkpoint_loads_without_the_one_it_began_with(trained: str, tmp_path: Path) -> None:
    chosen = task(NEW, Start(trained, ["head"]))
    saved(chosen, tmp_path / "tuned")
    (tmp_path / "trained").rename(tmp_path / "elsewhere")
    again = load_task(tmp_path / "tuned")
    for name, tensor in chosen.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name


def test_parts_that_are_not_there_are_named(trained: str) -> None:
    with pytest.raises(RecipeError, match="ClimaX has no part 'haed' to train; did you mean 'head'"):
        task(OLD, Start(trained, ["haed"]))
    with pytest.raises(RecipeError, match="nothing under 'lora' to train; see its arguments"):
        task(OLD, Start(trained, ["lora"]))
    with pytest.raises(CheckpointError, match="does not exist"):
        task(OLD, Start(f"{trained}x"))


def test_an_imported_original_is_a_start(tmp_path: Path) -> None:
    golden = read(GOLDEN / "climax_global.npz")
    weights = weights_of(golden)
    torch.save({"state_dict": weights}, tmp_path / "original.ckpt")
    variables = [str(name) for name in golden["default_variables"]]
    with pytest.raises(SystemExit):
        main(
            [
                "import",
                str(tmp_path / "original.ckpt"),
                str(tmp_path / "imported"),
                "--num-heads",
                "4",
                "--variables",
                *variables,
            ]
        )
    chosen = task(OLD, Start(str(tmp_path / "imported"), ["norms"]), dim=16, heads=4, head_depth=2)
    assert chosen.transfer is not None
    assert torch.equal(chosen.network.blocks[1].mlp.expand.weight, weights["net.blocks.1.mlp.fc1.weight"])
    assert chosen.transfer.outcomes["position"].startswith("interpolated from 16×32")
    assert {p.requires_grad for name, p in chosen.network.named_parameters() if "mlp" in name} == {False}
    (tmp_path / "imported" / "weights.safetensors").write_bytes(b"short")
    with pytest.raises(CheckpointError, match=r"is damaged .*; import it again"):
        task(OLD, Start(str(tmp_path / "imported")), dim=16, heads=4)
