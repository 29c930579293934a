"""A dress rehearsal for the GPU without one: code run on torch's `meta` device, which stands for it.

    with rehearsal() as seen:
        step(batch.to("meta"))
    assert seen.launches < 300

It raises `HiddenWait` where the host would wait for the device (values read back, results whose shape depends
on values, copies from memory that is not pinned: Python lists as indices, `torch.tensor(..., device=...)`,
`.to(device)` without `non_blocking`), and `MixedDevices` where an operation takes tensors of two devices. A
CPU tensor without dimensions is a number that the host hands over, as on CUDA. What it takes for a launch is
an operator that is no view: some of CUDA's operators launch several kernels, a few launch none. Autocast
cannot be rehearsed: it is left out.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from typing_extensions import override

aten = torch.ops.aten


class HiddenWait(AssertionError):
    """The host would wait for the device."""


class MixedDevices(AssertionError):
    """An operation takes tensors of the device and of the host."""


class Seen:
    """What ran on the device during a rehearsal."""

    def __init__(self) -> None:
        self.operators: Counter[str] = Counter()
        """Launches by operator, copies from the host apart."""
        self.copies = 0
        """Copies from the host that need no wait."""
        self.fft_sizes: set[tuple[str, tuple[int, ...]]] = set()
        """Kinds and lengths of Fourier transforms."""
        self.fft_plans: set[tuple[str, tuple[int, ...], tuple[int, ...]]] = set()
        """The same with the shape of the input: what cuFFT makes a plan for, and keeps it by."""

    @property
    def launches(self) -> int:
        """Operators that are no views, copies from the host apart."""
        return self.operators.total()


@contextlib.contextmanager
def rehearsal() -> Iterator[Seen]:
    """Run the body's code for `meta` tensors as if they were a GPU's; see above."""
    seen = Seen()
    with (
        mock.patch("torch.autocast", _without_meta(torch.autocast)),
        _Operators(seen),
        _Calls(seen),
    ):
        yield seen


def _without_meta(autocast: Callable[..., Any]) -> Callable[..., Any]:
    """Autocast knows no `meta` device: nothing happens on it."""

    def on_known_devices(device_type: str, *args: Any, **kwargs: Any) -> Any:
        return contextlib.nullcontext() if device_type == "meta" else autocast(device_type, *args, **kwargs)

    return on_known_devices


_READS = {
    aten._local_scalar_dense.default: "a value is read by the host",
    aten.equal.default: "a comparison is read by the host",
    aten.allclose.default: "a comparison is read by the host",
}
_VALUES_DECIDE_SHAPES = {
    aten.nonzero.default,
    aten.masked_select.default,
    aten._unique2.default,
    aten.unique_dim.default,
    aten.unique_consecutive.default,
    aten.bincount.default,
}
_COPIES = {aten._to_copy.default: 0, aten.copy_.default: 1}
"""Position of the source."""
_SEVERAL_ON_ONE_DEVICE = {aten.cat.default, aten.stack.default}
"""These take no CPU tensors beside the device's, not even without dimensions."""
_NO_KERNEL = ("empty", "new_empty", "lift_fresh", "detach", "alias", "_unsafe_view", "resize_", "set_")


class _Operators(TorchDispatchMode):
    """Looks at every operator before it runs."""

    def __init__(self, seen: Seen) -> None:
        super().__init__()
        self.seen = seen

    @override
    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if func in _COPIES:
            from_host = self._copy(func, args, kwargs)
            result = func(*args, **kwargs)
            if from_host:
                self.seen.copies += 1
            elif result.is_meta:
                self.seen.operators[_name(func)] += 1
            return result
        if any(x.is_meta for x in tensors):
            _check_waits(func, args, kwargs)
            _check_mixing(func, tensors)
        result = func(*args, **kwargs)
        made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        if any(x.is_meta for x in (*tensors, *made)):
            self._record(func, args)
        return result

    def _copy(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
        """Refuse copies that wait; whether this one comes from the host."""
        source = args[_COPIES[func]]
        if func is aten.copy_.default:
            target, free = args[0].device, kwargs.get("non_blocking", len(args) > 2 and args[2])
        else:
            target = torch.device(kwargs.get("device") or source.device)
            free = kwargs.get("non_blocking", False)
        if source.is_meta and target.type != "meta":
            raise HiddenWait(f"{func}: copies {_shape(source)} from the device to the host")
        if source.is_meta or target.type != "meta":
            return False
        if not free:
            raise HiddenWait(f"{func}: copies {_shape(source)} to the device without non_blocking=True")
        return True

    def _record(self, func: Any, args: Sequence[Any]) -> None:
        name = _name(func)
        if func.is_view or name in _NO_KERNEL:
            return
        if name == "scalar_tensor" and _Calls.setting_a_number:  # on CUDA it stays on the host
            return
        self.seen.operators[name] += 1
        if name in ("_fft_r2c", "_fft_c2c", "_fft_c2r"):
            x, dims = args[0], args[1]
            lengths = [args[3] if name == "_fft_c2r" and dim == dims[-1] else x.shape[dim] for dim in dims]
            self.seen.fft_sizes.add((name, tuple(lengths)))
            self.seen.fft_plans.add((name, tuple(lengths), tuple(x.shape)))


def _check_waits(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Refuse operators whose result the host has to see."""
    if func in _READS:
        raise HiddenWait(f"{func}: {_READS[func]}")
    if func in _VALUES_DECIDE_SHAPES:
        raise HiddenWait(f"{func}: the shape of its result depends on values")
    if func is aten.repeat_interleave.Tensor and kwargs.get("output_size") is None:
        raise HiddenWait(f"{func}: without output_size the shape of its result depends on values")
    if _name(func).rstrip("_") in ("index", "index_put", "_index_put_impl"):
        masks = [x for x in args[1] if x is not None and x.dtype in (torch.bool, torch.uint8)]
        # CUDA too fills with one number without looking where.
        filled = _name(func) != "index" and len(args[1]) == 1 and args[2].numel() == 1
        if masks and not filled:
            raise HiddenWait(f"{func}: a mask as index is turned into positions, whose number must be known")
        if any(x is not None and not x.is_meta for x in args[1]):
            raise HiddenWait(f"{func}: an index on the host is copied to the device")


def _check_mixing(func: Any, tensors: Sequence[Tensor]) -> None:
    """Refuse tensors of the host beside the device's, numbers apart."""
    wrong = [x for x in tensors if not x.is_meta and (x.ndim or func in _SEVERAL_ON_ONE_DEVICE)]
    if wrong:
        raise MixedDevices(f"{func}: takes {_shape(wrong[0])} on the host beside tensors on the device")


class _Calls(TorchFunctionMode):
    """Looks at calls whose operators do not show on `meta` what they would do on a GPU."""

    setting_a_number = False

    def __init__(self, seen: Seen) -> None:
        super().__init__()
        self.seen = seen

    @override
    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func in (torch.tensor, torch.as_tensor, torch.asarray):
            _check_factory(func, args[0] if args else kwargs.get("data"), kwargs.get("device"))
        elif func is Tensor.new_tensor:
            _check_factory(func, args[1], kwargs.get("device") or args[0].device)
        elif func in _READERS and args[0].is_meta:
            raise HiddenWait(f"Tensor.{func.__name__}: values are read by the host")
        elif func in (Tensor.__getitem__, Tensor.__setitem__) and args[0].is_meta:
            _check_index(args[1])
            if func is Tensor.__setitem__ and isinstance(args[2], (int, float)):
                return self._set_number(args)
        return func(*args, **kwargs)

    @staticmethod
    def _set_number(args: Sequence[Any]) -> None:
        _Calls.setting_a_number = True
        try:
            Tensor.__setitem__(*args)
        finally:
            _Calls.setting_a_number = False


_READERS = (
    Tensor.item,
    Tensor.tolist,
    Tensor.numpy,
    Tensor.__array__,
    Tensor.__index__,
    Tensor.__int__,
    Tensor.__float__,
    Tensor.__bool__,
    Tensor.__repr__,
    Tensor.__format__,
    Tensor.__contains__,
)


def _check_factory(func: Any, values: Any, device: Any) -> None:
    """Refuse to build a tensor of the device from values of the host: that copies from pageable memory."""
    on_device = device is not None and torch.device(device).type == "meta"
    if on_device and not (isinstance(values, Tensor) and values.is_meta):
        raise HiddenWait(f"torch.{func.__name__}(..., device=...): copies values of the host to the device")


def _check_index(index: Any) -> None:
    """Refuse positions on the host, which are copied to the device."""
    for part in index if isinstance(index, tuple) else (index,):
        host_tensor = isinstance(part, Tensor) and not part.is_meta and part.ndim
        if host_tensor or isinstance(part, (list, tuple, range, np.ndarray)):
            raise HiddenWait(f"a {type(part).__name__} on the host as index is copied to the device")


def _name(func: Any) -> str:
    return func.overloadpacket.__name__


def _shape(x: Tensor) -> str:
    return f"a tensor of shape {tuple(x.shape)}"
