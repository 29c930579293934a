"""How data workers hand their batches over to the training process.

All tensors of a batch travel in one piece of shared memory: one file descriptor, where every recording of
noise would take one. Where there is no room for it (containers often have 64 MB in /dev/shm) the bytes go
through the worker's pipe, which is slower and always works. A batch is pickled while the worker makes it, so
that an error reaches the training process; torch would pickle it in a background thread, where an error
leaves the training process waiting for ever.
"""

from __future__ import annotations

import io
import logging
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, get_worker_info
from typing_extensions import override

logger = logging.getLogger(__name__)

SHARED_MEMORY = Path("/dev/shm")
OPEN_FILES_PER_BATCH = 2
"""File descriptors that a batch needs while it is handed over."""
_ALIGNED = 64  # bytes
_said: set[int] = set()


class Parcel:
    """An object with tensors in it, packed for a pipe: unpickling a parcel gives the object itself.

    Args:
        contents: what to send; its tensors are copied.
    """

    def __init__(self, contents: Any):
        stream = io.BytesIO()
        packer = _Packer(stream)
        packer.dump(contents)
        self.form = stream.getvalue()
        self.layout: list[tuple[torch.dtype, tuple[int, ...], int]] = []
        size = 0
        for tensor in packer.tensors:
            self.layout.append((tensor.dtype, tuple(tensor.shape), size))
            size += -(-tensor.nbytes // _ALIGNED) * _ALIGNED
        self.flat: Tensor | np.ndarray = _shared(size)
        target = torch.from_numpy(self.flat) if isinstance(self.flat, np.ndarray) else self.flat
        for tensor, (_, _, start) in zip(packer.tensors, self.layout, strict=True):
            flat = tensor.contiguous().view(-1).view(torch.uint8)
            target[start : start + tensor.nbytes] = flat

    def __reduce__(self) -> tuple[Any, ...]:
        return _open, (self.form, self.layout, self.flat)


class BatchLoader(DataLoader):
    """A loader that notes whether this process is waiting for a batch."""

    waiting: ClassVar[bool] = False
    """Whether any loader of this process is being waited for."""

    def __iter__(self) -> Iterator[Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        iterator = super().__iter__()
        while True:
            BatchLoader.waiting = True
            try:
                batch = next(iterator)
            except StopIteration:
                return
            finally:
                BatchLoader.waiting = False
            yield batch


def send(contents: Any) -> Any:
    """What a loader's collate function returns: in a data worker a parcel, elsewhere `contents` itself."""
    return contents if get_worker_info() is None else Parcel(contents)


def _open(form: bytes, layout: list[tuple[torch.dtype, tuple[int, ...], int]], flat: Any) -> Any:
    """The contents again; their tensors are views of `flat`."""
    flat = torch.from_numpy(flat) if isinstance(flat, np.ndarray) else flat
    tensors = []
    for dtype, shape, start in layout:
        size = int(np.prod(shape)) * dtype.itemsize
        tensors.append(flat[start : start + size].view(dtype).view(shape))
    return _Unpacker(io.BytesIO(form), tensors).load()


def _shared(size: int) -> Tensor | np.ndarray:
    """(size,) bytes of shared memory, or where that is full of memory that goes through the pipe."""
    try:
        storage = torch.UntypedStorage._new_shared(max(1, size))
        return torch.empty(0, dtype=torch.uint8).set_(storage)
    except (RuntimeError, OSError) as error:
        info = get_worker_info()
        worker = info.id if info else 0
        if worker == 0 and worker not in _said:  # one of several workers says it
            logger.warning(
                "a batch of %.1f MB goes through a pipe, which is slower: %s has no room for it (%s); give "
                "it more (docker run --shm-size=8g), or use fewer data.workers",
                *(size / 1e6, SHARED_MEMORY, str(error).splitlines()[0]),
            )
            _said.add(worker)
        return np.empty(size, dtype=np.uint8)


class _Packer(pickle.Pickler):
    """Leaves tensors out of the pickle, and collects them."""

    def __init__(self, stream: io.BytesIO):
        super().__init__(stream, protocol=pickle.HIGHEST_PROTOCOL)
        self.tensors: list[Tensor] = []

    @override
    def persistent_id(self, obj: Any) -> int | None:
        if not isinstance(obj, Tensor):
            return None
        self.tensors.append(obj)
        return len(self.tensors) - 1


class _Unpacker(pickle.Unpickler):
    """Puts tensors back. It reads only what a worker of this process has written."""

    def __init__(self, stream: io.BytesIO, tensors: list[Tensor]):
        super().__init__(stream)
        self.tensors = tensors

    @override
    def persistent_load(self, pid: Any) -> Tensor:
        return self.tensors[pid]


def most_open_files() -> int | None:
    """The most files that this process may allow itself to open; None: any number, or unknown."""
    try:
        import resource
    except ImportError:  # not on Windows
        return None
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return None if hard == resource.RLIM_INFINITY else hard


def allow_open_files() -> None:
    """Raise this process's limit of open files to the hard limit: the usual soft one is for old programs."""
    try:
        import resource
    except ImportError:
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = most_open_files() or 65_536
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
