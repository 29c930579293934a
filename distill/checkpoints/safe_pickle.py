"""Read torch.save files of strangers without running any of their code.

A pickle is a program: it names callables and calls them. Here the only callables it can name are the few that
tensors and plain containers need. Whatever fairseq, omegaconf and NumPy left in a checkpoint becomes an inert
`StandIn` that keeps what it was given and never imports those packages; any other name is refused.
"""

from __future__ import annotations

import builtins
import pickle
import tarfile
import zipfile
from collections import OrderedDict, defaultdict
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch._utils import _rebuild_tensor

from distill.errors import CheckpointError

_ZIP_MAGIC = b"PK\x03\x04"
_PICKLE_MAGIC = b"\x80"
_BUILTIN_MODULES = ("builtins", "__builtin__")
_BUILTINS: dict[str, Any] = {
    name: getattr(builtins, name)
    for name in ("bool", "int", "float", "complex", "str", "list", "tuple", "dict", "set", "frozenset")
} | {"long": int, "unicode": str}  # the last two: names of Python 2, which protocol 2 still writes
# s3prl pickles the learning rate schedules of its module `optimizers` along with the optimiser's state.
_STAND_IN_PACKAGES = ("fairseq", "omegaconf", "numpy", "pathlib", "s3prl", "optimizers")
_STAND_IN_NAMES = ("argparse.Namespace", "typing.Any", "torch.device")


class _Refused(pickle.UnpicklingError):
    """The pickle names something that is not on the list."""


class StandIn:
    """An object of a package we do not import: keeps its arguments, state and items, does nothing.

    Each name gets a subclass of its own, anew in each file.
    """

    name = ""
    """Where the pickle said that the class lives, such as "omegaconf.nodes.AnyNode"."""
    args: tuple[Any, ...]
    state: Any
    items: list[Any]

    def __new__(cls, *args: Any, **kwargs: Any) -> StandIn:  # noqa: D102
        self = super().__new__(cls)
        self.args = args
        self.state = None
        self.items = []
        return self

    def __init__(self, *args: Any, **kwargs: Any):
        pass  # everything is kept by __new__, which pickle calls alone

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
    return _rebuild_tensor(storage, offset, size, stride)


def _parameter(data: Tensor, *_: Any) -> Tensor:
    if not isinstance(data, Tensor):
        raise _Refused("makes a parameter of something that is no tensor")
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
    """`find_class` is the only way for a pickle to reach an existing object; storages are torch's affair."""

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        full = f"{module_name}.{global_name}"
        if full in _ALLOWED:
            return _ALLOWED[full]
        if module_name in _BUILTIN_MODULES and global_name in _BUILTINS:
            return _BUILTINS[global_name]
        if module_name == "torch" and isinstance(getattr(torch, global_name, None), torch.dtype):
            return getattr(torch, global_name)
        if full in _STAND_IN_NAMES or module_name.partition(".")[0] in _STAND_IN_PACKAGES:
            return type(global_name, (StandIn,), {"name": full})
        raise _Refused(f"asks for {ascii(full)[1:-1][:100]}")  # as text that cannot steer a terminal


def _load_stream(stream: Any, **options: Any) -> Any:
    return _Unpickler(stream, **options).load()


_PICKLE_MODULE = SimpleNamespace(__name__="safe_pickle", Unpickler=_Unpickler, load=_load_stream)


def load(path: str | Path, *, map_location: Any = "cpu") -> Any:
    """The contents of a torch.save file, of any torch since 0.4.

    Tensors of a zip file are mapped from it, not read: copy what you keep.

    Args:
        path: the file.
        map_location: as for `torch.load`.

    Raises:
        CheckpointError: if the file is missing, no torch file, damaged, or asks for anything but tensors,
            plain containers, and objects of fairseq, omegaconf, s3prl, NumPy and argparse (see `StandIn`).
    """
    path = Path(path)
    zipped = _check_container(path)
    try:
        return torch.load(
            str(path),
            map_location=map_location,
            pickle_module=_PICKLE_MODULE,
            weights_only=False,  # torch's own list knows no fairseq; ours above is no longer
            mmap=zipped,
        )
    except _Refused as error:
        raise CheckpointError(
            f"{path} {error}, which a checkpoint has no business with: it was not opened, get it from a "
            "source you trust"
        ) from None
    except Exception as error:  # a damaged or hostile stream can make an unpickler raise anything
        raise CheckpointError(
            f"{path} is not a readable torch file (damaged, or a download cut short?): {first_line(error)}"
        ) from error


def matches(path: Path) -> bool:
    """Whether a file starts as those of torch.save do."""
    with path.open("rb") as stream:
        start = stream.read(4)
    return start == _ZIP_MAGIC or start[:1] == _PICKLE_MAGIC


def _check_container(path: Path) -> bool:
    """Whether the file is a zip; refuses what torch.load would treat in ways other than unpickling."""
    try:
        with path.open("rb") as stream:
            start = stream.read(4)
        if start == _ZIP_MAGIC:
            with zipfile.ZipFile(path) as archive:
                names = archive.namelist()
            if any(name.endswith("/constants.pkl") for name in names):
                raise CheckpointError(
                    f"{path} is a TorchScript archive (code), expected a file of torch.save"
                )
            return True
        if start[:1] == _PICKLE_MAGIC and not tarfile.is_tarfile(path):
            return False
    except (OSError, zipfile.BadZipFile) as error:
        raise CheckpointError(
            f"{path} cannot be read (damaged, or a download cut short?): {first_line(error)}"
        ) from error
    raise CheckpointError(f"{path} is not a torch file (it starts with {start!r})")


def first_line(error: BaseException) -> str:
    """What an error of another library says, in one line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def listed(names: Iterable[str], limit: int = 3) -> str:
    """Names found in a file, for a message: the first few, in printable characters."""
    shown = [ascii(str(name))[1:-1][:80] for name in names]
    more = f" and {len(shown) - limit} more" if len(shown) > limit else ""
    return (", ".join(shown[:limit]) or "nothing") + more


def plain(value: Any) -> Any:
    """Configuration objects as the dicts, lists and values they stand for.

    DictConfig, ListConfig, the value nodes of omegaconf and argparse.Namespace are resolved; an enum becomes
    its value; other stand-ins become their name in angle brackets. Interpolations stay as they are written.

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
    return value
