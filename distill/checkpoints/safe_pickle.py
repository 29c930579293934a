"""Read torch.save files from anywhere without running code in them.

A pickle is a program: it names callables and calls them. Here the only callables it can name are the few that
tensors and plain containers need. Whatever fairseq, omegaconf and NumPy left in a checkpoint, and values of
Python's own library such as dates and counters, become an inert `StandIn` that keeps what it was given and
imports nothing; any other name is refused. `torch_files` reads the file around the pickle, never torch.
"""

from __future__ import annotations

import builtins
import pickle
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import torch
from torch import Tensor

from distill.checkpoints import torch_files
from distill.checkpoints.torch_files import Storage
from distill.errors import CheckpointError, first_line

_BUILTIN_MODULES = ("builtins", "__builtin__")
_BUILTINS: dict[str, Any] = {
    name: getattr(builtins, name)
    for name in ("bool", "int", "float", "complex", "str", "list", "tuple", "dict", "set", "frozenset")
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


class _Refused(pickle.UnpicklingError):
    """The pickle names something that is not on the list."""


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

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        self.items.append((key, value))

    def append(self, value: Any) -> None:
        """What pickle calls on a list."""
        self.items.append(value)

    def extend(self, values: Any) -> None:
        """What pickle calls on a list."""
        self.items.extend(values)


class _Function:
    """A function that a pickle may call and do nothing else with (functions have attributes to set)."""

    __slots__ = ("_function",)

    def __init__(self, function: Any):
        object.__setattr__(self, "_function", function)

    def __call__(self, *args: Any) -> Any:
        return self._function(*args)

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        raise _Refused(f"sets the attribute {name!r} of a function")


def _tensor(storage: Any, offset: int, size: Any, stride: Any, *_: Any) -> Tensor:
    """A tensor over its storage; requires_grad, hooks and metadata of the pickle are left out on purpose."""
    if not isinstance(storage, Storage):
        raise _Refused("makes a tensor of something that is not a storage")
    empty = torch.empty(0, dtype=storage.dtype)
    return empty.set_(storage.untyped, offset, size, stride)  # pyright: ignore[reportArgumentType]


def _parameter(data: Tensor, *_: Any) -> Tensor:
    if not isinstance(data, Tensor):
        raise _Refused("makes a parameter of something that is not a tensor")
    return data


def _encode(text: str, encoding: str = "latin1") -> bytes:
    """How protocol 2 writes bytes (inside NumPy arrays)."""
    if encoding != "latin1":
        raise _Refused(f"encodes text as {encoding!r}")
    return text.encode("latin1")


_ALLOWED: dict[str, Any] = {
    "collections.OrderedDict": OrderedDict,
    "collections.defaultdict": defaultdict,
    "torch.Size": tuple,
    "torch._utils._rebuild_tensor": _Function(_tensor),
    "torch._utils._rebuild_tensor_v2": _Function(_tensor),
    "torch._utils._rebuild_parameter": _Function(_parameter),
    "_codecs.encode": _Function(_encode),
}


class _Unpickler(pickle.Unpickler):
    """`find_class` is the only way for a pickle to reach an existing object, its own storages aside."""

    def __init__(self, stream: BinaryIO, find_storage: Callable[[Any], Storage]):
        super().__init__(stream, encoding="utf-8")  # of texts that Python 2 wrote
        self._find_storage = find_storage

    def persistent_load(self, pid: Any) -> Storage:
        return self._find_storage(pid)

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        full = f"{module_name}.{global_name}"
        if full in _ALLOWED:
            return _ALLOWED[full]
        if module_name in _BUILTIN_MODULES and global_name in _BUILTINS:
            return _BUILTINS[global_name]
        if module_name == "torch" and isinstance(getattr(torch, global_name, None), torch.dtype):
            return getattr(torch, global_name)
        if module_name in ("torch", "torch.cuda", "torch.storage") and global_name in _STORAGES:
            return _STORAGES[global_name]
        if full in _STAND_IN_NAMES or module_name.partition(".")[0] in _STAND_IN_PACKAGES:
            return type(global_name, (StandIn,), {"name": full})
        raise _Refused(f"asks for {ascii(full)[1:-1][:100]}")  # as text that cannot steer a terminal


def _unpickle(stream: BinaryIO, find_storage: Callable[[Any], Storage]) -> Any:
    return _Unpickler(stream, find_storage).load()


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
        return read(path, _unpickle)
    except CheckpointError:
        raise
    except _Refused as error:
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
        CheckpointError: if the value contains itself.
    """
    try:
        return _plain(value)
    except RecursionError:
        raise CheckpointError("the checkpoint's configuration contains itself") from None


def _plain(value: Any) -> Any:
    if isinstance(value, StandIn):
        state = value.state if isinstance(value.state, dict) else {}
        for content in ("_content", "_val"):  # omegaconf's containers and its leaves
            if value.name.startswith("omegaconf.") and content in state:
                return _plain(state[content])
        if value.name == "argparse.Namespace":
            return _plain(state)
        if len(value.args) == 1 and not state:
            return _plain(value.args[0])
        return f"<{value.name}>"
    if isinstance(value, dict):
        return {str(_plain(key)): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, _VALUES) else f"<{type(value).__name__}>"
