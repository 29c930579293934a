"""The containers of torch.save: zip archives since torch 1.6, consecutive pickles before.

A file can be two archives: readers that look for its table of contents in different ways find different
ones. So nothing here is checked with one reader and loaded with another, least of all with `torch.load`,
which runs the code of TorchScript archives. `safe_pickle` decides what is unpickled.
"""

from __future__ import annotations

import io
import mmap
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch

from distill.checkpoints.bounded_pickle import MAX_BYTES
from distill.errors import CheckpointError

ZIP_MAGIC = b"PK\x03\x04"
PICKLE_MAGIC = b"\x80"
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_VERSION = 1001
_LOCAL_HEADER = struct.Struct("<4s22xHH")  # of a record in a zip: magic, length of name, of what follows it
_ENCRYPTED = 0x1 | 0x20 | 0x40 | 0x2000
"""Flags of records: encrypted in either way, patched, masked."""
_MAX_CONTENTS = 16 << 20
"""Bytes of a table of contents: that of 50 000 tensors has 5 MB."""


class _TableReader(io.FileIO):
    """What Python's zipfile reads a table of contents from, in one go."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > _MAX_CONTENTS:
            raise zipfile.BadZipFile(f"its table of contents has more than {_MAX_CONTENTS >> 20} MB")
        return super().read(size)


class Storage(NamedTuple):
    """What a pickled tensor is a view of."""

    untyped: torch.UntypedStorage
    dtype: torch.dtype


Unpickle = Callable[[BinaryIO, Callable[[Any], Storage]], Any]
"""Reads one pickle off a stream; the second argument finds the storages that it names."""


class Records:
    """The records of a zip archive that torch.save wrote, mapped into memory and not yet looked at."""

    def __init__(self, path: Path):
        """Read the table of contents.

        Raises:
            CheckpointError: for archives that torch.save does not write: TorchScript, compressed or
                encrypted, several in one file.
            OSError: if the file cannot be read.
            zipfile.BadZipFile: if it is damaged.
            ValueError: if it is empty.
        """
        with _TableReader(path) as stream, zipfile.ZipFile(stream) as archive:
            entries = archive.infolist()
            self._mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY)
        names = [entry.filename for entry in entries]
        if any(name.rpartition("/")[2] == "constants.pkl" for name in names):
            raise CheckpointError(f"{path} is a TorchScript archive (code), expected a file of torch.save")
        pickles = [name for name in names if name.count("/") == 1 and name.endswith("/data.pkl")]
        twice = len(set(names)) != len(names)
        if twice or len(pickles) != 1 or min(entry.header_offset for entry in entries):
            raise CheckpointError(
                f"{path} is not an archive as torch.save writes it, or is several in one file: it was not "
                "opened"
            )
        if any(
            entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & _ENCRYPTED for entry in entries
        ):
            raise CheckpointError(f"{path} is compressed inside, expected a file as torch.save writes it")
        folder = pickles[0].rpartition("data.pkl")[0]
        self._entries = {entry.filename.removeprefix(folder): entry for entry in entries}
        # torch leaves them out on request (`set_crc32_options`).
        self._has_checksums = any(entry.CRC for entry in entries)

    def read(self, name: str) -> bytes | None:
        """The contents of a record; None if there is none of that name."""
        if name not in self._entries:
            return None
        start, size = self._place(name)
        if size > MAX_BYTES:
            raise zipfile.BadZipFile(f"its record {ascii(name)} has more than {MAX_BYTES >> 20} MB")
        return self._mapped[start : start + size]

    def storage(self, name: str) -> torch.UntypedStorage:
        """A record as the storage of a tensor, mapped: changes stay in memory, the file is left alone."""
        start, size = self._place(name)
        if not size:
            return torch.UntypedStorage(0)
        return torch.frombuffer(self._mapped, dtype=torch.uint8, count=size, offset=start).untyped_storage()

    def _place(self, name: str) -> tuple[int, int]:
        """Where a record's bytes start, and how many there are."""
        entry = self._entries[name]
        magic, n_name, n_extra = _LOCAL_HEADER.unpack_from(self._mapped, entry.header_offset)
        start = entry.header_offset + _LOCAL_HEADER.size + n_name + n_extra
        end = start + entry.file_size
        if magic != ZIP_MAGIC or end > len(self._mapped) or entry.compress_size != entry.file_size:
            raise zipfile.BadZipFile(f"its record {ascii(name)} is damaged")
        with memoryview(self._mapped) as view, view[start:end] as content:
            if self._has_checksums and zlib.crc32(content) != entry.CRC:
                raise zipfile.BadZipFile(f"its record {ascii(name)} does not match its checksum")
        return start, entry.file_size


def read_zip(path: Path, unpickle: Unpickle) -> Any:
    """The contents of a zip archive; its tensors are mapped from the file.

    Raises:
        CheckpointError: as `Records`.
        Exception: whatever a damaged or hostile file makes an unpickler raise.
    """
    records = Records(path)
    order = records.read("byteorder")
    if order is not None and order.decode("ascii", "replace") != sys.byteorder:
        raise CheckpointError(f"{path} was written on a machine of another byte order: save it again here")
    storages: dict[Any, torch.UntypedStorage] = {}

    def find(saved: Any) -> Storage:
        dtype, key, n_elements = _parsed(saved[:5])
        if key not in storages:
            storages[key] = records.storage(f"data/{key}")
        if n_elements * dtype.itemsize > storages[key].nbytes():
            raise ValueError(f"the record data/{key} is shorter than what the file says about it")
        return Storage(storages[key], dtype)

    pickled = records.read("data.pkl")
    assert pickled is not None

    return unpickle(io.BytesIO(pickled), find)


def read_legacy(path: Path, unpickle: Unpickle) -> Any:
    """The contents of a file of torch before 1.6: pickles, then the bytes of every storage.

    Raises:
        ValueError: if it is something else or cut short.
        Exception: whatever a damaged or hostile file makes an unpickler raise.
    """
    left = path.stat().st_size
    storages: dict[Any, tuple[torch.UntypedStorage, int]] = {}

    def find(saved: Any) -> Storage:
        nonlocal left
        dtype, key, n_elements = _parsed(saved[:5])
        if key not in storages:
            left -= n_elements * dtype.itemsize
            if left < 0:
                raise ValueError("its tensors are larger than the file")
            storages[key] = torch.UntypedStorage(n_elements * dtype.itemsize), dtype.itemsize
        untyped, view = storages[key][0], saved[5]
        if view is None:
            return Storage(untyped, dtype)
        _, start, size = view
        return Storage(untyped[start * dtype.itemsize : (start + size) * dtype.itemsize], dtype)

    def plain(stream: BinaryIO) -> Any:
        return unpickle(stream, _refuse_storage)

    with path.open("rb") as stream:
        if plain(stream) != _LEGACY_MAGIC or plain(stream) != _LEGACY_VERSION:
            raise ValueError("it is not a file of torch.save")
        system = plain(stream)
        little = system.get("little_endian", True) if isinstance(system, dict) else True
        if little != (sys.byteorder == "little"):
            raise ValueError("it was written on a machine of another byte order")
        contents = unpickle(stream, find)
        keys = plain(stream)
        if sorted(map(str, keys)) != sorted(map(str, storages)):
            raise ValueError("it does not hold the tensors that it names")
        for key in keys:
            _fill(*storages[key], stream)
    return contents


def _fill(storage: torch.UntypedStorage, itemsize: int, stream: BinaryIO) -> None:
    """Read the bytes of a storage, which follow the number of its elements."""
    (n_elements,) = struct.unpack("<q", stream.read(8))
    buffer = torch.empty(0, dtype=torch.uint8).set_(storage)  # pyright: ignore[reportArgumentType]
    if n_elements * itemsize != storage.nbytes() or stream.readinto(buffer.numpy()) != storage.nbytes():  # type: ignore[attr-defined]
        raise ValueError("it is cut short")


def _parsed(saved: Any) -> tuple[torch.dtype, Any, int]:
    """The type, name and number of elements of a storage, as pickles name it."""
    kind, dtype, key, _, n_elements = saved
    good = isinstance(dtype, torch.dtype) and isinstance(key, str | int) and type(n_elements) is int
    if kind not in ("storage", b"storage") or not good or n_elements < 0:
        raise ValueError(f"it names {ascii(kind)[:40]} where it may name storages of numbers only")
    return dtype, key, n_elements


def _refuse_storage(saved: Any) -> Storage:
    raise ValueError("it names a tensor outside its contents")
