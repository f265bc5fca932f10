"""A CUDA device that is pretended: what runs on it is refused, cast and counted as there, and computed on the CPU.

A tensor of it holds a tensor of the CPU and says that it is on `cuda:0`. Every operation comes through `_dispatch`,
which refuses tensors of both devices together as CUDA does, takes data across only where that is asked for, and notes
what would make the host wait for the device, with the line of the library that asked. Autocast follows CUDA's lists,
which are read from PyTorch's own header. Kernels are the CPU's: nothing here tells how fast, or how exact, a GPU is.

To PyTorch's own code the tensors are on `meta`, a device that any build of it can send gradients through.
"""

from __future__ import annotations

import re
import sys
import traceback
import warnings
import weakref
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map_only, tree_unflatten

CUDA, INSIDE = torch.device("cuda", 0), torch.device("meta")

aten: Any = torch.ops.aten

_AUTOCAST = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastCUDA)

_WAITS = {
    aten._local_scalar_dense.default: "item",
    aten.equal.default: "equal",
    aten.is_nonzero.default: "bool",
    aten.nonzero.default: "nonzero",
    aten.masked_select.default: "masked_select",
    aten._unique2.default: "unique",
    aten.unique_dim.default: "unique",
    aten.unique_consecutive.default: "unique",
    aten.bincount.default: "bincount",
    aten.repeat_interleave.Tensor: "repeat_interleave",
    aten._linalg_eigh.default: "eigh",
    aten._linalg_svd.default: "svd",
    aten._linalg_check_errors.default: "cholesky",
}
"""What makes the host wait whatever it is given."""

_INDEXING = {
    aten.index.Tensor, aten._unsafe_index.Tensor, aten.index_put.default, aten.index_put_.default,
    aten._index_put_impl_.default, aten._unsafe_index_put.default,
}  # fmt: skip
"""What takes indices of the CPU beside values of the device, and copies them there."""

_COPIES = {aten.copy_.default, aten.copy.default, aten._to_copy.default}

_TAKES_NUMBERS = {
    aten.masked_fill.Tensor, aten.masked_fill_.Tensor, aten.where.self, aten.index_fill.int_Tensor,
    aten.index_fill_.int_Tensor, aten.clamp.Tensor, aten.fill_.Tensor, aten.fill.Tensor,
}  # fmt: skip
"""What takes a scalar tensor of the CPU as a number, beside everything that goes point by point."""

_SAME_TYPES = {
    aten.index_copy.default: (0, 3), aten.index_copy_.default: (0, 3), aten.index_add.default: (0, 3),
    aten.index_add_.default: (0, 3), aten.masked_scatter.default: (0, 2), aten.masked_scatter_.default: (0, 2),
    aten.scatter.src: (0, 3), aten.scatter_.src: (0, 3), aten.scatter_add.default: (0, 3),
    aten.scatter_add_.default: (0, 3), aten.mm.default: (0, 1), aten.bmm.default: (0, 1), aten.addmm.default: (1, 2),
    aten.baddbmm.default: (1, 2), aten.convolution.default: (0, 1),
}  # fmt: skip
"""Arguments that CUDA wants of one type, also where the CPU does not say so."""


class PretendedError(RuntimeError):
    """What a CUDA device would refuse."""


@dataclass
class Log:
    """What the host waited for, by kind and place."""

    waits: Counter[tuple[str, str]] = field(default_factory=Counter)
    operations: int = 0

    @property
    def count(self) -> int:
        """How often it waited."""
        return sum(self.waits.values())

    def __str__(self) -> str:
        lines = [f"{count} × {kind} at {place}" for (kind, place), count in self.waits.most_common()]
        return f"{self.count} waits in {self.operations} operations" + "".join(f"\n    {line}" for line in lines)


class Pretended(Tensor):
    """A tensor that says that it is on the device."""

    inner: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, inner: Tensor) -> Pretended:
        """Wrap a tensor of the CPU."""
        made = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, inner.size(), strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype,
            device=INSIDE, _extra_dispatch_keys=_AUTOCAST,
        )  # fmt: skip
        made.inner = inner
        return made  # type: ignore[no-any-return]

    @property
    def device(self) -> torch.device:
        """The pretended one."""
        return CUDA

    is_cuda, is_cpu, is_meta = (property(lambda self, said=said: said) for said in (True, False, False))

    def __repr__(self, **options: Any) -> str:
        return f"Pretended({self.inner!r})"

    def __deepcopy__(self, memo: dict[int, Any]) -> Pretended:
        copy = type(self)(self.inner.clone()).requires_grad_(self.requires_grad)
        memo[id(self)] = copy
        return copy

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Be kept in files as what can be read back without a device."""
        return self.inner.__reduce_ex__(protocol)

    def tolist(self) -> Any:
        """Return the numbers, for which the host waits."""
        return self.cpu().tolist()

    def numpy(self, **_: Any) -> Any:
        """Refuse, as a device does."""
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy the tensor to host")

    __array__ = numpy

    def new_tensor(self, data: Any, *, dtype: torch.dtype | None = None, device: Any = CUDA, **_: Any) -> Tensor:
        """Make a tensor of numbers of the host."""
        return torch.tensor(data, dtype=dtype or self.dtype, device=device)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Work outside of `pretend`, uncounted."""
        return _dispatch(func, args, kwargs or {}, Log())


def real(value: Any) -> Any:
    """Return the tensors of the CPU in place of pretended ones."""
    return tree_map_only(Pretended, lambda tensor: tensor.inner, value)


@contextmanager
def pretend() -> Iterator[Log]:
    """Let `cuda` be a device as long as the context lasts, and give a log of what the host waits for."""
    log = Log()
    with ExitStack() as stack:
        generator = torch.Generator()
        quiet = SimpleNamespace(
            current_device=lambda: 0,
            device_count=lambda: 1,
            is_available=lambda: True,
            is_bf16_supported=lambda *_: True,
            get_rng_state=lambda _: generator.get_state(),
            set_rng_state=lambda state, _: generator.set_state(state),
            _lazy_init=lambda: None,
        )
        for name, value in vars(quiet).items():
            stack.enter_context(mock.patch.object(torch.cuda, name, value))
        stack.enter_context(mock.patch("torch.cuda.amp.common.amp_definitely_not_available", return_value=False))
        stack.enter_context(mock.patch.object(Tensor, "pin_memory", _pinned))
        stack.enter_context(_autocast())
        before = torch._C._only_lift_cpu_tensors()
        stack.callback(torch._C._set_only_lift_cpu_tensors, before)
        torch._C._set_only_lift_cpu_tensors(True)
        stack.enter_context(_Made())
        stack.enter_context(_Counted(log))
        yield log


class _Made(TorchFunctionMode):
    """Sends to `meta` what is asked for on CUDA; what is made from numbers of the host is made there first."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in (torch.tensor, torch.as_tensor, torch.asarray) and _is_cuda(kwargs.get("device")):
            del kwargs["device"]
            return func(*args, **kwargs).to(INSIDE)
        if func is Tensor.cuda:
            return args[0].to(INSIDE)
        if func in (Tensor.__getitem__, Tensor.__setitem__):
            args = (args[0], _index(args[1]), *args[2:])
        if func is Tensor.to and len(args) > 1 and isinstance(args[1], str | torch.device):
            args = (args[0], _inside(args[1]), *args[2:])
        if "device" in kwargs:
            kwargs["device"] = _inside(kwargs["device"])
        return func(*args, **kwargs)


def _index(index: Any) -> Any:
    """Return an index whose lists are tensors of the host, as which PyTorch copies them to the device."""
    if isinstance(index, tuple):
        return tuple(_index(each) for each in index)
    return torch.tensor(index) if isinstance(index, list | np.ndarray) else index


def _inside(device: Any) -> Any:
    return INSIDE if _is_cuda(device) else device


_PINNED: set[int] = set()


def _pinned(tensor: Tensor) -> Tensor:
    copy = tensor.clone()
    _PINNED.add(id(copy))
    weakref.finalize(copy, _PINNED.discard, id(copy))
    return copy


class _Counted(TorchDispatchMode):
    def __init__(self, log: Log) -> None:
        super().__init__()
        self.log = log

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _dispatch(func, args, kwargs or {}, self.log)


def _dispatch(func: Any, args: Any, kwargs: Any, log: Log) -> Any:
    flat, spec = tree_flatten((args, kwargs))
    asked = kwargs.get("device")
    here = any(isinstance(each, Pretended) for each in flat)
    to_device = _is_cuda(asked) if asked is not None else here
    if here or to_device:
        log.operations += 1
        _refuse(func, args, flat)
        if kind := _wait(func, args, kwargs, to_device):
            log.waits[kind, _place()] += 1
    given, options = tree_unflatten([each.inner if isinstance(each, Pretended) else each for each in flat], spec)
    if asked is not None:
        options["device"] = torch.device("cpu") if to_device else asked
    options.pop("pin_memory", None)
    with torch._C.DisableTorchFunctionSubclass():
        answer = func(*given, **options)
    if func is aten.copy_.default:
        return args[0]
    if not to_device or not isinstance(answer, Tensor | tuple | list):
        return answer
    if func is aten._to_copy.default and answer is given[0]:
        answer = answer.clone()
    wrapped = _wrapped(answer) if isinstance(answer, Tensor) else tree_map_only(Tensor, _wrapped, answer)
    return return_and_correct_aliasing(func, args, kwargs, wrapped) if here else wrapped


def _wrapped(tensor: Tensor) -> Pretended:
    return tensor if isinstance(tensor, Pretended) else Pretended(tensor)


def _is_cuda(device: Any) -> bool:
    return device is not None and torch.device(device).type in (CUDA.type, INSIDE.type)


def _refuse(func: Any, args: Any, flat: list[Any]) -> None:
    """Refuse what CUDA refuses: tensors of both devices, and of two types where it wants one."""
    if func in _COPIES:
        return
    if func in _SAME_TYPES:
        kinds = {args[place].dtype for place in _SAME_TYPES[func] if place < len(args)}
        if len(kinds) > 1:
            raise PretendedError(f"{func} takes one type, not {kinds}")
    tensors = [each for each in flat if isinstance(each, Tensor)]
    there = [each for each in tensors if not isinstance(each, Pretended)]
    if len(there) == len(tensors) or not there:
        return
    if func in _INDEXING and isinstance(args[0], Pretended):
        there = [each for each in there if each.is_floating_point() and each.dim()]
    elif torch.Tag.pointwise in func.tags or func in _TAKES_NUMBERS:
        there = [each for each in there if each.dim()]
    if there:
        shapes = [(str(each.device), tuple(each.shape), each.dtype) for each in tensors]
        raise PretendedError(f"{func} takes tensors of one device, not {shapes}")


def _wait(func: Any, args: Any, kwargs: Any, to_device: bool) -> str:
    """Return what the host waits for, nothing if it does not."""
    if func in _WAITS:
        return _WAITS[func]
    if func in _INDEXING:
        index = [each for each in args[1] if each is not None]
        if any(each.dtype in (torch.bool, torch.uint8) for each in index):
            return "index by a mask"
        return "index of the host" if any(each.dim() and not isinstance(each, Pretended) for each in index) else ""
    if func not in _COPIES:
        return ""
    source, target = (
        (args[0], to_device) if func is aten._to_copy.default else (args[1], isinstance(args[0], Pretended))
    )
    if isinstance(source, Pretended) == target or (target and not source.dim() and func is aten.copy_.default):
        return ""
    if not target:
        return "to the host"
    asynchronous = kwargs.get("non_blocking") or (func is not aten._to_copy.default and len(args) > 2 and args[2])
    return "" if asynchronous and id(source) in _PINNED else "to the device"


def _place() -> str:
    """Return the innermost line that asked, of the library if one of it did."""
    frames = [(f.f_code.co_filename, line) for f, line in traceback.walk_stack(sys._getframe(1))]
    others = [each for each in frames if each[0] != __file__]
    own = [each for each in others if "/src/etesian/" in each[0]] or [e for e in others if "/torch/" not in e[0]]
    return f"{own[0][0].partition('/src/etesian/')[2] or own[0][0]}:{own[0][1]}"


@contextmanager
def _autocast() -> Iterator[None]:
    """Cast as CUDA does, by the lists of PyTorch's header: its own kernels cast only what is on a real device."""
    library = torch.library.Library("aten", "IMPL")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, kind in _lists().items():
            packet, _, overload = name.partition(".")
            try:
                function = getattr(getattr(aten, packet), overload or "default")
            except AttributeError:
                continue
            library.impl(name, _casting(function, kind), "AutocastCUDA")
    try:
        yield
    finally:
        library._destroy()  # type: ignore[attr-defined]


@cache
def _lists() -> dict[str, str]:
    header = Path(torch.__file__).parent / "include/ATen/autocast_mode.h"
    lists: dict[str, str] = {}
    for name, body in re.findall(r"#define AT_FORALL_(\w+)\(_\)((?:.*\\\n)*.*)", header.read_text()):
        kind = {"LOWER_PRECISION_FP": "half", "FP32": "single", "FP32_SET_OPT_DTYPE": "single", "PROMOTE": "widest"}
        for function, overload in re.findall(r"_\((\w+)(?:, *(\w+))?\)", body):
            if name in kind:
                lists[f"{function}.{overload}" if overload else function] = kind[name]
    return lists


def _casting(function: Any, kind: str) -> Any:
    def cast(*args: Any, **kwargs: Any) -> Any:
        flat, spec = tree_flatten((args, kwargs))
        floats = [x for x in flat if isinstance(x, Pretended) and x.is_floating_point() and x.dtype != torch.float64]
        half = torch.get_autocast_dtype("cuda")
        widest = torch.float32 if any(x.dtype == torch.float32 for x in floats) else half
        target = {"half": half, "single": torch.float32, "widest": widest}[kind]
        with torch._C._ExcludeDispatchKeyGuard(_AUTOCAST):
            moved = [x.to(target) if any(x is each for each in floats) else x for x in flat]
            args, kwargs = tree_unflatten(moved, spec)
            return function(*args, **kwargs)

    return cast
