"""Read torch.save files from anywhere without running code in them.

A pickle is a program: it names callables and calls them. Here the only callables it can name are the few that
tensors and plain containers need. Whatever fairseq, omegaconf and NumPy left in a checkpoint, and values of
Python's own library such as dates and counters, become an inert `StandIn` that keeps what it was given and
imports nothing; any other name is refused. `torch_files` reads the file around the pickle, never torch.
"""

from __future__ import annotations

import builtins
import functools
import itertools
import math
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor
from typing_extensions import override

from distill.checkpoints import torch_files
from distill.checkpoints.bounded_pickle import BoundedUnpickler, PickleError, check_expanded
from distill.checkpoints.torch_files import Storage
from distill.errors import CheckpointError, first_line

_BUILTIN_MODULES = ("builtins", "__builtin__")
_BUILTINS: dict[str, Any] = {
    name: getattr(builtins, name)
    for name in (
        *("bool", "int", "float", "complex", "str", "bytes"),
        *("list", "tuple", "dict", "set", "frozenset"),
    )
} | {"long": int, "unicode": str}  # the last two: names of Python 2, which protocol 2 still writes
# s3prl pickles the learning rate schedules of its module `optimizers` along with the optimiser's state.
_STAND_IN_PACKAGES = (
    *("fairseq", "omegaconf", "numpy", "pathlib", "s3prl", "optimizers", "nemo"),
    *("datetime", "decimal", "fractions", "uuid", "zoneinfo"),  # values that training programs note down
)
_STAND_IN_NAMES = (
    *("argparse.Namespace", "types.SimpleNamespace", "typing.Any", "torch.device"),
    *("collections.Counter", "collections.deque"),
)
_VALUES = (bool, int, float, str)
"""What configurations consist of, beside dicts and lists: nothing whose comparison means something else."""
_STORAGES = {
    f"{kind}Storage": dtype
    for kind, dtype in {
        **{
            "Double": torch.float64,
            "Float": torch.float32,
            "Half": torch.float16,
            "BFloat16": torch.bfloat16,
        },
        **{"Long": torch.int64, "Int": torch.int32, "Short": torch.int16, "Char": torch.int8},
        **{"Byte": torch.uint8, "Bool": torch.bool, "Untyped": torch.uint8},
        **{"ComplexDouble": torch.complex128, "ComplexFloat": torch.complex64},
    }.items()
}
"""The storage classes that pickles name, as the type of number in them."""
_TIMES_THE_FILE, _AND_BYTES = 4, 256 << 20
"""All tensors of a file together, each in full: models share some, and a view may show the same numbers again
and again, but who copies each needs memory for it."""
_MAX_DIMENSIONS = 64  # torch's own limit
_COST_OF_A_CLASS = 100
"""Operations: a stand-in of a new name takes as much memory and time."""
_MAX_PLAIN = 200_000
"""Values of a configuration."""


class StandIn:
    """An object of a package we do not import: keeps its arguments, state and items, does nothing.

    Each name gets its own subclass, a new one for every file.
    """

    name = ""
    """Where the pickle said that the class lives, such as "omegaconf.nodes.AnyNode"."""
    args: tuple[Any, ...]
    state: Any
    items: list[Any]

    def __new__(cls, *args: Any, **kwargs: Any) -> StandIn:
        """Keep everything: pickle does not call `__init__`."""
        self = super().__new__(cls)
        self.args = args
        self.state = None
        self.items = []
        return self

    def __init__(self, *args: Any, **kwargs: Any):
        """Take what `__new__` has kept."""

    def __setitem__(self, key: Any, value: Any) -> None:
        self.items.append((key, value))

    def append(self, value: Any) -> None:
        """What pickle calls on a list."""
        self.items.append(value)

    def extend(self, values: Any) -> None:
        """What pickle calls on a list."""
        self.items.extend(values)


def _tensor(*_: Any) -> Tensor:
    """Stands for torch's function; `_Unpickler` makes the tensor."""
    raise AssertionError


def _parameter(data: Tensor, *_: Any) -> Tensor:
    if not isinstance(data, Tensor):
        raise PickleError("makes a parameter of something that is not a tensor")
    return data


def _encode(text: str, encoding: str = "latin1") -> bytes:
    """How protocol 2 writes bytes (inside NumPy arrays)."""
    if encoding != "latin1":
        raise PickleError(f"encodes text as {ascii(encoding)[:40]}")
    return text.encode("latin1")


def _size(sizes: Sequence[Any]) -> tuple[int, ...]:
    """The size of a tensor."""
    if len(sizes) > _MAX_DIMENSIONS or not all(type(size) is int and size >= 0 for size in sizes):
        raise PickleError("makes a tensor of an impossible size")
    return tuple(sizes)


_ALLOWED: dict[str, Any] = {
    "collections.OrderedDict": OrderedDict,
    "collections.defaultdict": defaultdict,
    "torch.Size": _size,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "_codecs.encode": _encode,
}
_CONTAINERS = (set, frozenset, OrderedDict)
_CALLED = (_size, _parameter, _encode, complex)


class _Unpickler(BoundedUnpickler):
    """`find_class` is the only way for a pickle to reach an existing object, its own storages aside.

    Args:
        stream: the pickle.
        find_storage: finds the storages that it names.
        n_bytes: that all its tensors may have.
    """

    def __init__(self, stream: BinaryIO, find_storage: Callable[[Any], Storage], n_bytes: float = math.inf):
        super().__init__(stream)
        self._find_storage = find_storage
        self._n_bytes = n_bytes
        self._stand_ins: dict[str, type[StandIn]] = {}

    @override
    def persistent_load(self, pid: Any) -> Storage:
        return self._find_storage(pid)

    @override
    def find_class(self, module: str, name: str, /) -> Any:
        full = f"{module}.{name}"
        if full in _ALLOWED:
            return _ALLOWED[full]
        if module in _BUILTIN_MODULES and name in _BUILTINS:
            return _BUILTINS[name]
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        if module in ("torch", "torch.cuda", "torch.storage") and name in _STORAGES:
            return _STORAGES[name]
        if full in _STAND_IN_NAMES or module.partition(".")[0] in _STAND_IN_PACKAGES:
            if full not in self._stand_ins:
                self.spend(_COST_OF_A_CLASS)
                self._stand_ins[full] = type(name, (StandIn,), {"name": full})
            return self._stand_ins[full]
        raise PickleError(f"asks for {ascii(full)[1:-1][:100]}")  # as text that cannot steer a terminal

    @override
    def call(self, function: Any, args: Sequence[Any]) -> Any:
        self.spend(sum(len(arg) for arg in args if isinstance(arg, str | bytes)) // 100)
        if function is _tensor:
            return self._tensor(*args)
        if isinstance(function, type) and issubclass(function, StandIn):
            return function(*args)
        if function is defaultdict:  # what it makes of missing keys is never asked for
            return defaultdict(None)
        if any(function is one for one in _CONTAINERS):
            return self._container(function, *args)
        if any(function is one for one in _CALLED):
            return function(*args)
        if not args and function in (bytes, dict, list, tuple):
            return function()
        raise PickleError(f"calls {ascii(getattr(function, '__name__', type(function).__name__))[1:-1][:40]}")

    def _container(self, function: Any, items: Any = ()) -> Any:
        """A set, frozenset or OrderedDict of a list; of the last, of pairs."""
        if not isinstance(items, list | tuple):
            raise PickleError(f"makes a {function.__name__} of something that is not a list")
        self.spend(len(items))
        if function is OrderedDict:
            if any(not isinstance(pair, list | tuple) or len(pair) != 2 for pair in items):
                raise PickleError("makes a dict of something that is not pairs")
            self.checked_keys(key for key, _ in items)
        else:
            self.checked_keys(items)
        return function(items)

    def _tensor(self, storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> Tensor:
        """A tensor over its storage; requires_grad, hooks and metadata are left out on purpose."""
        if not isinstance(storage, Storage) or not isinstance(size, tuple) or not isinstance(stride, tuple):
            raise PickleError("makes a tensor of something that is not a storage")
        if len(size) != len(stride):
            raise PickleError("makes a tensor of an impossible size")
        (offset,), size, stride = _size([offset]), _size(size), _size(stride)
        itemsize, n_values = storage.dtype.itemsize, math.prod(size)
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) if n_values else 0
        if n_values and (last + 1) * itemsize > storage.untyped.nbytes():
            raise ValueError("a tensor is out of bounds of what is stored")
        self._n_bytes -= n_values * itemsize
        if self._n_bytes < 0:
            raise PickleError("has tensors that are much larger together than the file")
        empty = torch.empty(0, dtype=storage.dtype)
        return empty.set_(storage.untyped, offset, size, stride)  # pyright: ignore[reportArgumentType]

    @override
    def build(self, instance: Any, state: Any) -> None:
        if isinstance(instance, StandIn):
            instance.state = state
        elif isinstance(instance, OrderedDict):  # a state dict: the versions of its modules
            if isinstance(state, dict) and "_metadata" in state:
                instance._metadata = state["_metadata"]  # type: ignore[attr-defined]
        else:
            raise PickleError(f"sets attributes of a {type(instance).__name__}")

    @override
    def may_grow(self, instance: Any) -> bool:
        return isinstance(instance, StandIn)

    @override
    def is_key(self, value: Any) -> bool:
        return isinstance(value, StandIn | torch.dtype)


def _unpickle(stream: BinaryIO, find_storage: Callable[[Any], Storage], n_bytes: float = math.inf) -> Any:
    found = _Unpickler(stream, find_storage, n_bytes).load()
    check_expanded(found, lambda value: list(vars(value).values()) if isinstance(value, StandIn) else None)
    return found


def load(path: str | Path) -> Any:
    """The contents of a torch.save file, of any torch since 0.4, on the CPU.

    Tensors of a zip file are mapped from it, not read: copy what you keep.

    Args:
        path: the file.

    Raises:
        CheckpointError: if the file is missing, no torch file, damaged, TorchScript, or asks for anything but
            tensors, plain containers and values, and objects of fairseq, omegaconf, s3prl, NumPy and argparse
            (see `StandIn`).
    """
    path = Path(path)
    read = torch_files.read_zip if _is_zip(path) else torch_files.read_legacy
    try:
        n_bytes = _TIMES_THE_FILE * path.stat().st_size + _AND_BYTES
        return read(path, functools.partial(_unpickle, n_bytes=n_bytes))
    except CheckpointError:
        raise
    except PickleError as error:
        raise CheckpointError(
            f"{path} {error}, which no checkpoint needs: it was not opened; get it from a source you trust"
        ) from None
    except Exception as error:  # a damaged or hostile stream can make an unpickler raise anything
        raise CheckpointError(
            f"{path} is not a readable torch file (damaged, or a download cut short?): {first_line(error)}"
        ) from error


def matches(path: Path) -> bool:
    """Whether a file starts as those of torch.save do."""
    with path.open("rb") as stream:
        start = stream.read(4)
    return start == torch_files.ZIP_MAGIC or start[:1] == torch_files.PICKLE_MAGIC


def _is_zip(path: Path) -> bool:
    """Which of the two containers a file is by its first bytes.

    Raises:
        CheckpointError: for neither, and if it cannot be read.
    """
    try:
        with path.open("rb") as stream:
            start = stream.read(4)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or first_line(error)}") from error
    if start != torch_files.ZIP_MAGIC and start[:1] != torch_files.PICKLE_MAGIC:
        raise CheckpointError(f"{path} is not a torch file (it starts with {start!r})")
    return start == torch_files.ZIP_MAGIC


def plain(value: Any) -> Any:
    """Configuration objects as the dicts, lists and values they stand for.

    DictConfig, ListConfig, the value nodes of omegaconf and argparse.Namespace are resolved; an enum becomes
    its value; other stand-ins, tensors and the like become their name in angle brackets. Interpolations stay
    as they are written.

    Raises:
        CheckpointError: if the value contains itself, or more than any configuration has.
    """
    left = itertools.repeat(None, _MAX_PLAIN)
    try:
        return _plain(value, left)
    except RecursionError:
        raise CheckpointError("the checkpoint's configuration contains itself") from None
    except StopIteration:
        raise CheckpointError(
            f"the checkpoint's configuration has more than {_MAX_PLAIN:,} values, or contains itself"
        ) from None


def _plain(value: Any, left: Iterator[None]) -> Any:
    """`plain`; each value takes one of `left`."""
    next(left)
    if isinstance(value, StandIn):
        state = value.state if isinstance(value.state, dict) else {}
        for content in ("_content", "_val"):  # omegaconf's containers and its leaves
            if value.name.startswith("omegaconf.") and content in state:
                return _plain(state[content], left)
        if value.name == "argparse.Namespace":
            return _plain(state, left)
        if len(value.args) == 1 and not state:
            return _plain(value.args[0], left)
        return f"<{value.name}>"
    if isinstance(value, dict):
        return {str(_plain(key, left)): _plain(item, left) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return list(map(_plain, value, itertools.repeat(left)))
    return value if value is None or isinstance(value, _VALUES) else f"<{type(value).__name__}>"
