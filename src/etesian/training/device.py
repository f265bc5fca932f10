"""On which device a trained run answers, and in which precision."""

import torch

from etesian.core.errors import RecipeError
from etesian.training.task import FLOAT32, PRECISIONS, Precision


def choose_device(name: str | None) -> torch.device:
    """Return a device by its name, the first GPU of CUDA or ROCm by default, or the CPU where there is none.

    Args:
        name: as PyTorch has it, such as `cpu`, `cuda` or `cuda:1`.

    Raises:
        RecipeError: if there is no such device.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    known = available_devices()
    try:
        device = torch.device(name)
    except RuntimeError:
        raise RecipeError(f"'{name}' names no device; take one of {', '.join(known)}, or leave it out") from None
    if str(device) not in (*known, known[-1].partition(":")[0]):
        raise RecipeError(
            f"PyTorch {torch.__version__} finds no device '{name}' here; take one of {', '.join(known)}, or leave it "
            "out"
        )
    return device


def available_devices() -> list[str]:
    """Return the names of the CPU and of every accelerator that PyTorch can use here."""
    if not torch.accelerator.is_available():
        return ["cpu"]
    kind = torch.accelerator.current_accelerator()
    assert kind is not None
    return ["cpu", *(f"{kind.type}:{number}" for number in range(torch.accelerator.device_count()))]


def choose_precision(name: str | None, device: torch.device, trained: str) -> Precision:
    """Return in which precision a run answers: by default that of its training on a GPU, single precision on a CPU.

    Args:
        name: as recipes have it, such as `bf16-mixed`; None for the default.
        device: to answer on.
        trained: precision of the training.

    Raises:
        RecipeError: if there is no such precision.
    """
    asked = name or (FLOAT32 if device.type == "cpu" else trained)
    for precision in PRECISIONS:
        if asked == precision:
            return precision
    raise RecipeError(f"there is no precision '{asked}'; take {', '.join(PRECISIONS)}, or leave it out")
