"""Exported runs as files: torch.export's .pt2, and ONNX."""

import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

import torch
from torch import Tensor

from etesian.core.errors import EtesianError, RecipeError, first_line
from etesian.exporting.network import ExportedRun

TOLERANCE = 1e-5
"""How far an exported run may be off the run, over the largest number of a channel."""

METADATA = "etesian.json"
"""Name of what is said of the function: of a file inside a .pt2, and of a property in ONNX."""

_TRIALS = ("2001-03-05T06", "2004-12-30T18")
"""Initial times at which a function is held against the run, one in a leap year."""


def write_pt2(run: ExportedRun, path: Path) -> None:
    """Write what `torch.export.load` reads back as a function.

    Raises:
        RecipeError: if the network cannot be traced, or the function gives other numbers than the run.
    """
    program = _traced(run)
    # It wants a name that ends in .pt2.
    whole = io.BytesIO()
    with _quiet():
        torch.export.save(program, whole, extra_files={METADATA: json.dumps(run.described())})
        whole.seek(0)
        back = torch.export.load(whole).module()
    _check(run, back, "torch.export")
    path.write_bytes(whole.getvalue())


def write_onnx(run: ExportedRun, path: Path) -> None:
    """Write an ONNX model; where onnxruntime is installed, it is held against the run.

    Raises:
        RecipeError: if the extra `export` is not installed, the network has operations that ONNX does not, or the model
            gives other numbers than the run.
    """
    try:
        import onnx
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise RecipeError(f"ONNX needs a package that is missing ({error}): pip install 'etesian[export]'") from None
    inputs = run.tensors(_TRIALS[0], 0)
    names = [each.name for each in run.given]
    try:
        with _quiet():
            made = torch.onnx.export(
                _traced(run), inputs, input_names=names, output_names=["fields"], dynamo=True, verbose=False
            )
            assert made is not None
            model = made.model_proto
    except EtesianError:
        raise
    except Exception as error:
        raise _not_possible(run, "ONNX", error) from None
    model.metadata_props.add(key="etesian", value=json.dumps(run.described()))
    whole = model.SerializeToString()
    onnx.checker.check_model(whole)
    try:
        import onnxruntime
    except ImportError:
        pass
    else:
        session = onnxruntime.InferenceSession(whole, providers=["CPUExecutionProvider"])
        taken = {each.name for each in session.get_inputs()}

        def answer(*tensors: Tensor) -> Tensor:
            fed = {name: tensor.numpy() for name, tensor in zip(names, tensors, strict=True) if name in taken}
            return torch.from_numpy(session.run(None, fed)[0])

        _check(run, answer, "ONNX")
    path.write_bytes(whole)


def _traced(run: ExportedRun) -> torch.export.ExportedProgram:
    inputs = run.tensors(_TRIALS[0], 0)
    try:
        with _quiet(), torch.no_grad():
            return torch.export.export(run, inputs, strict=False)
    except EtesianError:
        raise
    except Exception as error:
        raise _not_possible(run, "torch.export", error) from None


def _check(run: ExportedRun, function: Callable[..., Tensor], how: str) -> None:
    """See that a function answers as the run does.

    Raises:
        RecipeError: if it does not.
    """
    for seed, date in enumerate(_TRIALS):
        inputs, expected = run.trial(date, seed)
        with torch.no_grad():
            answer = function(*inputs)
        size = expected.nan_to_num().abs().amax(dim=(0, 1, 3, 4), keepdim=True)
        off = ((answer - expected).abs() / size.clamp(min=torch.finfo(size.dtype).tiny)).nan_to_num()
        if not torch.equal(answer.isnan(), expected.isnan()) or float(off.max()) > TOLERANCE:
            raise RecipeError(
                f"{how} gives numbers that are {float(off.max()):.2g} off those of the run, of the largest, so nothing "
                f"was written; export its forecasts instead"
            )


def _not_possible(run: ExportedRun, how: str, error: Exception) -> RecipeError:
    name, other = type(run.task.network).__name__, "; try a name that ends in .pt2" if how == "ONNX" else ""
    return RecipeError(f"{how} cannot express this {name} ({first_line(error)[:200]}){other}")


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the tracers' notes off the terminal: what goes wrong is raised."""
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        before = logging.root.manager.disable
        logging.disable(max(before, logging.WARNING))
        try:
            yield
        finally:
            logging.disable(before)
