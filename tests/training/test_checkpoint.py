"""A checkpoint gives back the same task, runs no code, and says key by key what does not fit."""

import json
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from safetensors.torch import load_file, save_file

from etesian.core import Layout
from etesian.core.errors import CheckpointError
from etesian.forecast.data import ForecastData
from etesian.forecast.task import ForecastTask
from etesian.networks.climax import ClimaX
from etesian.training.checkpoint import (
    SafeCheckpoints,
    best_and_last,
    find_checkpoint,
    load_network,
    load_task,
    replace_folder,
)

pytestmark = pytest.mark.filterwarnings("ignore")


def data_of(store: str) -> ForecastData:
    return ForecastData(
        [store],
        ("2001-01-01", "2001-01-08"),
        ("2001-01-09", "2001-01-12"),
        [6, 12],
        batch_size=8,
        region="-50,50,0,315",
    )


def network(layout: Layout) -> ClimaX:
    return ClimaX(layout, dim=16, depth=1, heads=2, dropout=0.0, drop_path=0.0)


def task_for(data: ForecastData, **options: Any) -> ForecastTask:
    torch.manual_seed(0)
    chosen: dict[str, Any] = {"channel_weights": {"temperature": 2.0}, "anomalies": True, "warmup_steps": 2} | options
    task = ForecastTask(network, data.layout, data.statistics, **chosen)
    task.provenance = data.provenance
    return task


def fit(store: str, run: Path, epochs: int, total: int = 3, resume: Path | None = None) -> ForecastTask:
    data = data_of(store)
    task = task_for(data)
    # The schedule needs to know how long the whole run is, also where it is cut short.
    stop = [Stop(epochs)] if epochs < total else []
    trainer = L.Trainer(
        accelerator="cpu", max_epochs=total, default_root_dir=run, logger=False, enable_progress_bar=False,
        enable_model_summary=False, use_distributed_sampler=False, plugins=[SafeCheckpoints()], num_sanity_val_steps=0,
        callbacks=[
            *best_and_last(run / "checkpoints"),
            *stop,
        ],
    )  # fmt: skip
    trainer.fit(task, datamodule=data, ckpt_path=resume)
    return task


class Stop(L.Callback):
    """Ends a run early, as an interruption does."""

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.current_epoch == self.epochs:
            raise InterruptedError


@pytest.fixture(scope="module")
def trained(gappy_store: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[ForecastTask, Path]:
    run = tmp_path_factory.mktemp("run")
    return fit(gappy_store, run, 3), run


@pytest.fixture
def copied(trained: tuple[ForecastTask, Path], tmp_path: Path) -> Path:
    """The last checkpoint, to be damaged."""
    folder = tmp_path / "last"
    folder.mkdir()
    for file in find_checkpoint(trained[1], "last").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def test_a_run_keeps_its_best_and_last_checkpoint(trained: tuple[ForecastTask, Path]) -> None:
    best, last = find_checkpoint(trained[1], "best"), find_checkpoint(trained[1], "last")
    assert find_checkpoint(trained[1]) == best
    assert sorted(path.name for path in best.parent.iterdir()) == sorted({best.name, last.name})
    for folder in (best, last):
        assert sorted(f.name for f in folder.iterdir()) == ["description.json", "training.pt", "weights.safetensors"]
    steps = [json.loads((folder / "description.json").read_text())["step"] for folder in (best, last)]
    assert steps[0] <= steps[1] == 12


def test_a_loaded_task_predicts_the_same_without_any_pickle(
    trained: tuple[ForecastTask, Path], copied: Path, gappy_store: str
) -> None:
    (copied / "training.pt").unlink()
    data = data_of(gappy_store)
    batch = next(iter(data.val_dataloader()))
    task, loaded = trained[0].eval(), load_task(copied)
    assert batch.targets is not None
    expected = task.predict(batch, batch.targets.frame)
    assert torch.equal(loaded.predict(batch, batch.targets.frame).values, expected.values)
    assert torch.equal(loaded.loss(batch)[0], task.loss(batch)[0])
    assert loaded.options() == task.options()
    assert loaded.provenance == json.loads(json.dumps(data.provenance))
    assert loaded.provenance["stores"] == {gappy_store: data.stores[0].fingerprint}


def test_what_somebody_put_beside_the_weights_stays_when_they_are_replaced(tmp_path: Path) -> None:
    for name, text in (("best", "old"), (".best.partial", "new")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "weights.safetensors").write_text(text)
    (tmp_path / "best" / "notes.txt").write_text("mine")
    replace_folder(tmp_path / ".best.partial", tmp_path / "best")
    assert {path.name: path.read_text() for path in (tmp_path / "best").iterdir()} == {
        "weights.safetensors": "new", "notes.txt": "mine",
    }  # fmt: skip
    assert [path.name for path in tmp_path.iterdir()] == ["best"]


def test_what_training_needs_holds_no_code(trained: tuple[ForecastTask, Path]) -> None:
    for name in ("best", "last"):
        state = torch.load(find_checkpoint(trained[1], name) / "training.pt", weights_only=True)
        assert {"optimizer_states", "lr_schedulers", "loops", "global_step"} <= state.keys()
        assert "state_dict" not in state


def test_an_interrupted_run_ends_with_the_weights_of_an_undisturbed_one(
    trained: tuple[ForecastTask, Path], gappy_store: str, tmp_path: Path
) -> None:
    with pytest.raises(InterruptedError):
        fit(gappy_store, tmp_path, 2)
    resumed = fit(gappy_store, tmp_path, 3, resume=find_checkpoint(tmp_path, "last"))
    for (name, expected), found in zip(trained[0].state_dict().items(), resumed.state_dict().values(), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=0, msg=name)


def test_a_forked_process_hands_its_weights_back(store: str, tmp_path: Path) -> None:
    data = data_of(store)
    task = ForecastTask(network, data.layout, data.statistics)
    before = {name: value.clone() for name, value in task.state_dict().items()}
    trainer = L.Trainer(
        max_steps=2, accelerator="cpu", devices=1, strategy="ddp_fork", logger=False, enable_progress_bar=False,
        enable_model_summary=False, limit_val_batches=0, plugins=[SafeCheckpoints()], default_root_dir=tmp_path,
        enable_checkpointing=False, use_distributed_sampler=False,
    )  # fmt: skip
    trainer.fit(task, data)
    after = task.state_dict()
    assert not torch.equal(after["network.head.2.weight"], before["network.head.2.weight"])


def test_every_key_that_does_not_fit_is_named(copied: Path) -> None:
    tensors = load_file(copied / "weights.safetensors")
    names = [name for name in tensors if name.startswith("network.")]
    missing, reshaped = names[0], next(n for n in names if tensors[n].ndim == 2)
    del tensors[missing]
    tensors[reshaped] = tensors[reshaped][:1].clone()
    save_file(tensors | {"network.other": torch.zeros(1)}, copied / "weights.safetensors")
    with pytest.raises(CheckpointError) as caught:
        load_task(copied)
    message = str(caught.value)
    assert f"{missing} is missing" in message
    assert "network.other is unknown" in message
    assert f"{reshaped} has shape {tuple(tensors[reshaped].shape)}, not" in message
    assert "\n" not in message


@pytest.mark.parametrize("file", ["weights.safetensors", "description.json"])
@pytest.mark.parametrize("size", [0, 40])
def test_a_truncated_file_is_refused(copied: Path, file: str, size: int) -> None:
    (copied / file).write_bytes((copied / file).read_bytes()[:size])
    with pytest.raises(CheckpointError, match=r"the checkpoint .* is damaged .*; use another one"):
        load_task(copied)


@pytest.mark.parametrize("size", [None, 0, 1000])
def test_a_run_does_not_resume_from_a_damaged_checkpoint(copied: Path, size: int | None) -> None:
    if size is None:
        (copied / "training.pt").unlink()
    else:
        (copied / "training.pt").write_bytes((copied / "training.pt").read_bytes()[:size])
    with pytest.raises(CheckpointError, match=r"the checkpoint .*last is damaged"):
        SafeCheckpoints().load_checkpoint(copied)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[1]", "description.json is a list"),
        ('"words"', "description.json is a str"),
        ("[" * 100_000, "recursion"),
        ('{"format": 1}', "description.json lacks 'version', 'task', 'options'"),
    ],
)
def test_a_description_that_is_none_is_refused(copied: Path, text: str, said: str) -> None:
    (copied / "description.json").write_text(text)
    with pytest.raises(CheckpointError, match=rf"the checkpoint .*last is damaged \(.*{said}.*\); use another one"):
        load_task(copied)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("step", None, "lacks 'step'"),
        ("provenance", None, "lacks 'provenance'"),
        ("step", "many", "has a str as 'step'"),
        ("network", {}, "KeyError 'class'"),
        ("network", {"class": 7, "arguments": {}}, ""),
        (
            "network",
            {"class": "etesian.networks.climax.ClimaX", "arguments": {"layout": {"mapping": [1]}}},
            "TypeError",
        ),
        ("channels", [{"channel": "temperature"}], "KeyError 'level'"),
        ("options", {"mapping": [["loss"]]}, "ValueError"),
    ],
)
def test_a_description_with_a_fault_is_refused(copied: Path, name: str, value: object, said: str) -> None:
    file = copied / "description.json"
    description = json.loads(file.read_text())
    changed = description | {name: value} if value is not None else {k: v for k, v in description.items() if k != name}
    file.write_text(json.dumps(changed))
    with pytest.raises(
        CheckpointError, match=rf"the checkpoint .*last is damaged \(description.json:? {said}"
    ) as caught:
        load_task(copied)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(copied: Path, number: float) -> None:
    tensors = load_file(copied / "weights.safetensors")
    name = next(name for name in tensors if name.startswith("network."))
    tensors[name].view(-1)[0] = number
    save_file(tensors, copied / "weights.safetensors")
    said = rf"last/weights.safetensors cannot be used: {name} is not finite in 1 of its {tensors[name].numel()} values"
    with pytest.raises(CheckpointError, match=said):
        load_task(copied)
    with pytest.raises(CheckpointError, match=said):
        SafeCheckpoints().load_checkpoint(copied)


@pytest.mark.parametrize(
    ("state", "said"),
    [([1, 2], "training.pt is a list"), ({"loops": {}}, "training.pt lacks 'optimizer_states', 'lr_schedulers'")],
)
def test_a_state_of_training_that_is_none_is_refused(copied: Path, state: object, said: str) -> None:
    torch.save(state, copied / "training.pt")
    with pytest.raises(CheckpointError, match=rf"last is damaged \({said}.*; resume from another one"):
        SafeCheckpoints().load_checkpoint(copied)


def test_code_in_the_state_of_training_is_not_run(copied: Path, tmp_path: Path) -> None:
    class Touch:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "ran",)

    torch.save({"loops": Touch()}, copied / "training.pt")
    with pytest.raises(CheckpointError, match="last is damaged"):
        SafeCheckpoints().load_checkpoint(copied)
    assert not (tmp_path / "ran").exists()


def test_a_file_of_lightnings_is_told_apart_from_a_damaged_checkpoint(tmp_path: Path) -> None:
    torch.save({"state_dict": {}}, tmp_path / "x.ckpt")
    for read in (load_task, load_network, SafeCheckpoints().load_checkpoint):
        with pytest.raises(
            CheckpointError, match=r"x.ckpt is a file, but a checkpoint here is a folder: give L.Trainer"
        ):
            read(tmp_path / "x.ckpt")


def test_checkpoints_that_are_not_there_or_of_another_format_are_refused(copied: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"nothing does not exist; train one with `etesian fit"):
        load_task(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="empty does not hold a checkpoint named 'first'"):
        load_task(tmp_path / "empty", "first")
    description = json.loads((copied / "description.json").read_text())
    for change, message in (
        ({"format": 99}, "has format 99, this version reads 1"),
        ({"task": "os.path.join"}, "names os.path.join, which is no task"),
        ({"task": "etesian.training.Nothing"}, "needs etesian.training.Nothing, which is not installed"),
    ):
        (copied / "description.json").write_text(json.dumps(description | change))
        with pytest.raises(CheckpointError, match=message):
            load_task(copied)
