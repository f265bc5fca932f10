"""Checkpoints: safetensors for numbers, JSON for what they mean, and no pickled code on loading."""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.fabric.plugins.io.checkpoint_io import CheckpointIO
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

import etesian
from etesian.core.errors import CheckpointError, EtesianError, first_line
from etesian.core.recorded import find_class, from_plain, rebuild, to_plain
from etesian.core.statistics import Statistics
from etesian.networks.network import Network
from etesian.training.task import Task, diverged

FORMAT = 1

WEIGHTS, DESCRIPTION, TRAINING = "weights.safetensors", "description.json", "training.pt"

NETWORK = "network.json"
"""What `etesian import` writes beside the weights: a network by itself, without task and statistics."""

_DESCRIBED = {
    "version": str,
    "task": str,
    "options": dict,
    "network": dict,
    "channels": list,
    "epoch": int,
    "step": int,
    "provenance": dict,
}
"""What a description must hold, and of what kind."""

_RESUMED = {"optimizer_states": list, "lr_schedulers": list, "loops": dict, "callbacks": dict}
"""What the state of training must hold, and of what kind."""

_HANDED_BACK = ".temp.ckpt"
"""What Lightning calls the weights that a forked or spawned process hands back."""

_OTHER_HARMONICS = "statistics.other_harmonics."
"""With the number of one of the layout's other grids, the name of the seasonal cycle on it."""

_ARRAYS = ("mean", "std", "harmonics", "anomaly_std", "log1p_mean", "log1p_std", "observed")


class SafeCheckpoints(CheckpointIO):
    """Writes Lightning's checkpoints as folders that hold weights, their description, and the state of training.

    A folder appears under its name only when it is complete. Bare weights, which a forked process hands back to the
    one that it comes from, stay a file of safetensors.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write a checkpoint folder, replacing an older one of that name."""
        if "etesian" not in checkpoint:
            save_file({name: tensor.contiguous() for name, tensor in checkpoint.items()}, path)
            return
        checkpoint = dict(checkpoint)
        description = checkpoint.pop("etesian")
        statistics = description.pop("statistics")
        description["options"] = to_plain(description["options"])
        tensors = {name: tensor.contiguous() for name, tensor in checkpoint.pop("state_dict").items()}
        tensors |= _statistics_to_tensors(statistics)
        description |= {
            "format": FORMAT,
            "version": etesian.__version__,
            "channels": [to_plain(c) for c in statistics.channels],
            "epoch": checkpoint["epoch"],
            "step": checkpoint["global_step"],
        }
        final = Path(path)
        partial = final.with_name(f".{final.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        save_file(tensors, partial / WEIGHTS)
        (partial / DESCRIPTION).write_text(json.dumps(description, indent=1))
        torch.save(checkpoint, partial / TRAINING)
        replace_folder(partial, final)

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read back everything that training needs to go on.

        Raises:
            CheckpointError: if a file is missing or damaged.
        """
        folder = Path(path)
        if folder.name == _HANDED_BACK:
            return dict(load_file(folder))
        _, tensors = read_checkpoint(folder)
        try:
            checkpoint: dict[str, Any] = torch.load(
                folder / TRAINING, map_location=map_location or "cpu", weights_only=True
            )
        except Exception as error:
            raise _damaged(folder, first_line(error), "resume from another one") from None
        # Earlier versions kept the random numbers of the first process alone.
        random: dict[str, type] = {"random_state": Tensor} if "random_state" in checkpoint else {"random_states": list}
        if fault := _fault(checkpoint, _RESUMED | random):
            raise _damaged(folder, f"{TRAINING} {fault}", "resume from another one")
        checkpoint["state_dict"] = {k: v for k, v in tensors.items() if not k.startswith("statistics.")}
        return checkpoint

    def remove_checkpoint(self, path: str | Path) -> None:
        """Delete a checkpoint folder, or the file of bare weights."""
        if Path(path).name == _HANDED_BACK:
            Path(path).unlink()
        else:
            shutil.rmtree(path, ignore_errors=True)


class _FolderCheckpoint(ModelCheckpoint):
    FILE_EXTENSION = ""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the best that lies in the folder, wherever the run was moved to; its score lies with it."""
        best = Path(str(self.dirpath)) / str(self.filename)
        if self.monitor is None or not (best / DESCRIPTION).exists():
            return
        score = read_description(best).get(self.monitor, state_dict.get("best_model_score"))
        if score is not None:
            self.best_model_path = self.kth_best_model_path = str(best)
            self.best_model_score = self.kth_value = torch.as_tensor(score)
            self.best_k_models = {str(best): self.best_model_score}

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep nothing whose validation loss is no number.

        Raises:
            RecipeError: if it is not finite.
        """
        loss = trainer.callback_metrics.get("val_loss")
        if trainer.state.fn == TrainerFn.FITTING and loss is not None and not torch.isfinite(loss):
            when = "the start" if trainer.sanity_checking else f"the end of epoch {trainer.current_epoch}"
            raise diverged("validation loss", float(loss), when)
        super().on_validation_end(trainer, pl_module)


def best_and_last(folder: str | Path, *, has_best: bool = True) -> list[Callback]:
    """Return the callbacks that keep the checkpoint with the lowest validation loss as `best` and the last as `last`.

    They are two because Lightning's `save_last` leaves out the epochs that were not the best so far, from which a run
    could then not be resumed.

    Args:
        folder: of the checkpoints.
        has_best: whether the validation loss tells which epoch is the best; otherwise only the last is kept.
    """
    last = _FolderCheckpoint(folder, "last", enable_version_counter=False)
    best = _FolderCheckpoint(folder, "best", monitor="val_loss", enable_version_counter=False)
    return [best, last] if has_best else [last]


def replace_folder(new: Path, final: Path) -> None:
    """Put a complete folder in place of another by renaming; `final` is never half of either.

    What somebody else has put into the earlier one stays.
    """
    old = final.with_name(f".{final.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if final.exists():
        os.rename(final, old)
    os.rename(new, final)
    if old.exists():
        for entry in old.iterdir():
            if not (final / entry.name).exists():
                os.rename(entry, final / entry.name)
    shutil.rmtree(old, ignore_errors=True)


def find_checkpoint(run: str | Path, which: str | None = None) -> Path:
    """Return the checkpoint folder of a run: the best, else the last, or the one named.

    Args:
        run: a run directory, or a checkpoint folder itself.
        which: name of a checkpoint, such as `last`.

    Raises:
        CheckpointError: if there is none.
    """
    folder = Path(run)
    if folder.is_file():
        raise _no_folder(folder)
    if (folder / DESCRIPTION).exists():
        return folder
    if (folder / NETWORK).exists():
        raise CheckpointError(
            f"{run} holds a network without statistics; name it as `start` in a recipe, and take those of the data"
        )
    for name in (which,) if which else ("best", "last"):
        if (folder / "checkpoints" / name / DESCRIPTION).exists():
            return folder / "checkpoints" / name
    what = "exist" if not folder.exists() else f"hold a checkpoint{f' named {which!r}' if which else ''}"
    raise CheckpointError(f"{run} does not {what}; train one with `etesian fit -c RECIPE.yaml`")


def load_task(run: str | Path, which: str | None = None) -> Task:
    """Rebuild a trained task from a run directory or a checkpoint folder, ready to predict.

    Raises:
        CheckpointError: if there is none, it is damaged, or its keys do not match the network one by one.
    """
    folder = find_checkpoint(run, which)
    description, tensors = read_checkpoint(folder)
    try:
        network: Network = rebuild(description["network"])
        task: Task = find_class(Task, description["task"])(
            network=lambda _: network,
            layout=network.layout,
            statistics=_statistics_from_tensors(description, tensors),
            **from_plain(description["options"]),
        )
    except EtesianError:
        raise
    except Exception as error:
        raise _damaged(folder, f"{DESCRIPTION}: {type(error).__name__} {first_line(error)}") from error
    task.provenance = description["provenance"]
    load_strictly(task, {k: v for k, v in tensors.items() if not k.startswith("statistics.")}, str(folder / WEIGHTS))
    return task.eval()


def load_network(path: str | Path) -> Network:
    """Rebuild a trained network from a run directory, a checkpoint folder, or what `etesian import` wrote.

    Raises:
        CheckpointError: if there is none, it is damaged, or its keys do not match one by one.
    """
    folder = Path(path)
    if not (folder / NETWORK).exists():
        return load_task(folder).network
    try:
        network: Network = rebuild(json.loads((folder / NETWORK).read_text()))
        tensors = load_file(folder / WEIGHTS)
        refuse_not_finite(tensors, str(folder / WEIGHTS))
    except EtesianError:
        raise
    except Exception as error:
        raise CheckpointError(f"the network in {folder} is damaged ({first_line(error)}); import it again") from error
    load_strictly(network, tensors, str(folder / WEIGHTS))
    return network


def read_checkpoint(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return description and tensors of a checkpoint folder.

    Raises:
        CheckpointError: if a file is damaged or of another format, or a weight is not finite.
    """
    description = read_description(folder)
    try:
        tensors = load_file(folder / WEIGHTS)
    except (OSError, ValueError, SafetensorError) as error:
        raise _damaged(folder, first_line(error)) from None
    refuse_not_finite(tensors, str(folder / WEIGHTS))
    return description, tensors


def read_description(folder: Path) -> dict[str, Any]:
    """Return the description of a checkpoint folder.

    Raises:
        CheckpointError: if it is damaged or of another format.
    """
    if folder.is_file():
        raise _no_folder(folder)
    try:
        description: Any = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise _damaged(folder, first_line(error)) from None
    if isinstance(description, dict) and description.get("format") != FORMAT:
        raise CheckpointError(
            f"the checkpoint {folder} has format {description.get('format')}, this version reads {FORMAT}; "
            f"it was written by etesian {description.get('version')}"
        )
    if fault := _fault(description, _DESCRIBED):
        raise _damaged(folder, f"{DESCRIPTION} {fault}")
    return dict(description)


def _fault(content: Any, kinds: dict[str, type]) -> str:
    """Say what a file of a checkpoint holds other than it must; nothing if it is as it must be."""
    if not isinstance(content, dict):
        return f"is a {type(content).__name__}"
    if missing := [f"'{name}'" for name in kinds if name not in content]:
        return f"lacks {', '.join(missing)}"
    for name, kind in kinds.items():
        if not isinstance(content[name], kind):
            return f"has a {type(content[name]).__name__} as '{name}'"
    return ""


def _damaged(folder: Path, why: str, remedy: str = "use another one") -> CheckpointError:
    return CheckpointError(f"the checkpoint {folder} is damaged ({why}); {remedy}")


def _no_folder(file: Path) -> CheckpointError:
    return CheckpointError(
        f"{file} is a file, but a checkpoint here is a folder: give L.Trainer plugins=[SafeCheckpoints()] and "
        "callbacks=best_and_last(FOLDER) from etesian.training.checkpoint, or read an original's with `etesian import`"
    )


def refuse_not_finite(tensors: Mapping[str, Tensor], source: str) -> None:
    """Refuse weights that are no numbers, which a loss that was NaN leaves behind.

    Args:
        tensors: by name.
        source: file or whatever else they are from.

    Raises:
        CheckpointError: naming the first one that holds NaN or infinite values.
    """
    for name, tensor in tensors.items():
        # A seasonal cycle has none where nothing was ever observed.
        if name.startswith(("statistics.harmonics", _OTHER_HARMONICS)) or not tensor.is_floating_point():
            continue
        wrong = int((~torch.isfinite(tensor)).sum())
        if wrong:
            raise CheckpointError(
                f"{source} cannot be used: {name} is not finite in {wrong} of its {tensor.numel()} values; use "
                "another checkpoint, or train again with a lower learning rate"
            )


def load_strictly(module: torch.nn.Module, tensors: dict[str, Tensor], source: str) -> None:
    """Load a state dict, saying key by key what does not match.

    Raises:
        CheckpointError: if a key is missing, unknown or of another shape.
    """
    own = module.state_dict()
    faults = [f"{key} is missing" for key in own.keys() - tensors.keys()]
    faults += [f"{key} is unknown" for key in tensors.keys() - own.keys()]
    faults += [
        f"{key} has shape {tuple(tensors[key].shape)}, not {tuple(own[key].shape)}"
        for key in own.keys() & tensors.keys()
        if own[key].shape != tensors[key].shape
    ]
    if faults:
        raise CheckpointError(f"{source} does not fit the network: {'; '.join(sorted(faults))}")
    module.load_state_dict(tensors)


def _statistics_to_tensors(statistics: Statistics) -> dict[str, Tensor]:
    arrays = {name: getattr(statistics, name) for name in _ARRAYS}
    named = {f"statistics.{name}": array for name, array in arrays.items() if array is not None}
    named |= {f"{_OTHER_HARMONICS}{number}": cycle for number, cycle in enumerate(statistics.other_harmonics or ())}
    return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in named.items()}


def _statistics_from_tensors(description: dict[str, Any], tensors: dict[str, Tensor]) -> Statistics:
    arrays = {name: tensors[f"statistics.{name}"].numpy() for name in _ARRAYS if f"statistics.{name}" in tensors}
    count = sum(name.startswith(_OTHER_HARMONICS) for name in tensors)
    cycles = tuple(tensors[f"{_OTHER_HARMONICS}{number}"].numpy() for number in range(count))
    channels = tuple(from_plain(channel) for channel in description["channels"])
    return Statistics(channels, **arrays, other_harmonics=cycles or None)
