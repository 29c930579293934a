"""Reading .npy and .npz files that may be damaged, or made by a stranger.

numpy allocates what the header of an array asks for before it reads any of it, and unpacks whatever a zip
file holds. Here an array is as large as its bytes, and an archive no larger than its file explains.
"""

from __future__ import annotations

import math
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import IO

import numpy as np

DAMAGED = (
    *(OSError, EOFError, LookupError, TypeError, ValueError, ArithmeticError, MemoryError, RuntimeError),
    *(SyntaxError, tokenize.TokenError, zipfile.BadZipFile, zlib.error),
)
"""What numpy, zipfile and Python's tokenizer raise at files that are not what they should be."""

_UNPACKED_FREELY = 64 * 2**20  # bytes
_MOST_UNPACKED = 50  # times the packed size; ours are not packed, labels shrink to a third
_LONGEST_HEADER = 10_000  # characters


def read_array(path: Path) -> np.ndarray:
    """The array of a .npy file.

    Raises:
        One of `DAMAGED`.
    """
    _refuse_others(path)
    with path.open("rb") as stream:
        return _read(stream, path.stat().st_size)


def read_arrays(path: Path, most_bytes: int | None = None) -> dict[str, np.ndarray]:
    """The arrays of a .npz file, by name.

    Args:
        path: of the file.
        most_bytes: that they may have together; None: what its size explains.

    Raises:
        One of `DAMAGED`.
    """
    _refuse_others(path)
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        total = sum(member.file_size for member in members)
        most = max(_UNPACKED_FREELY, _MOST_UNPACKED * path.stat().st_size)
        if total > (most if most_bytes is None else most_bytes):
            raise ValueError(f"{path.name} unpacks to {total >> 20} MB")
        found = {}
        for member in members:
            with archive.open(member) as stream:
                found[member.filename.removesuffix(".npy")] = _read(stream, member.file_size)
        return found


def _refuse_others(path: Path) -> None:
    if path.exists() and not path.is_file():
        raise ValueError(f"{path.name} is not a file")


def _read(stream: IO[bytes], n_bytes: int) -> np.ndarray:
    """One array, all of whose bytes must be there."""
    version = np.lib.format.read_magic(stream)
    read_header = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }[version]
    shape, fortran_order, dtype = read_header(stream, max_header_size=_LONGEST_HEADER)
    count = math.prod(shape)
    if dtype.hasobject or dtype.itemsize == 0 or min(shape, default=0) < 0:
        raise ValueError(f"an array of {dtype} is not read")
    wanted = count * dtype.itemsize
    if wanted > n_bytes:
        raise ValueError(f"an array of {wanted} bytes in a file of {n_bytes}")
    data = stream.read(wanted)
    if len(data) != wanted:
        raise EOFError(f"an array of {wanted} bytes is cut short after {len(data)}")
    if stream.read(1):  # which also makes zipfile compare the checksum
        raise ValueError("there is something behind the array")
    array = np.frombuffer(bytearray(data), dtype)
    return array.reshape(shape, order="F" if fortran_order else "C")
