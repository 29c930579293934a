"""Reading lines of files that strangers made, in bounded memory and time.

A few megabytes of gzip, or a sparse file, can hold a line of gigabytes or blank lines without end.
"""

from __future__ import annotations

import gzip
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from typing_extensions import override

from distill.data.files import regular_file
from distill.errors import DataError

LONGEST_LINE = 16 * 2**20
"""Bytes. A mixture of ten thousand parts has five million; parsing more takes gigabytes of memory."""
_MOST_BLANK = 2**20  # bytes of blank lines
_UNPACKED_FREELY = 256 * 2**20  # bytes
_MOST_UNPACKED = 200  # times the packed size; text shrinks to a tenth or twentieth, zeros to a thousandth


@contextmanager
def opened(path: Path) -> Iterator[tuple[IO[bytes], IO[bytes]]]:
    """The file on disk, and its contents, decompressed if its name ends in `.gz`.

    Reading the contents raises a DataError where they are far larger than those of a text would be.

    Raises:
        DataError: it does not exist, or is no regular file.
    """
    with regular_file(path).open("rb") as raw:
        if path.suffix != ".gz":
            yield raw, raw
            return
        with gzip.open(raw) as packed, io.BufferedReader(_Unpacked(path, raw, packed)) as unpacked:
            yield raw, unpacked


class _Unpacked(io.RawIOBase):
    """What is in a gzip file, up to a size that its own size explains."""

    def __init__(self, path: Path, raw: IO[bytes], packed: Any):
        self._path, self._raw, self._packed = path, raw, packed
        self._n_bytes = 0

    @override
    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = self._packed.readinto(buffer)
        self._n_bytes += count
        if self._n_bytes > max(_UNPACKED_FREELY, _MOST_UNPACKED * self._raw.tell()):
            raise DataError(
                f"{self._path}: unpacks to more than {_MOST_UNPACKED} times its size, as no list does; if it "
                "is meant, unpack it first"
            )
        return count


def bounded_lines(source: IO[bytes], path: Path) -> Iterator[tuple[int, bytes]]:
    """Lines with their numbers, from 1.

    Raises:
        DataError: a line is too long, or there are blank lines without end.
    """
    number = blank = 0
    while line := source.readline(LONGEST_LINE + 1):
        number += 1
        if len(line) > LONGEST_LINE:
            raise DataError(f"{path}: line {number} has more than {LONGEST_LINE >> 20} MB: it is not read")
        if line.isspace():
            blank += len(line)
            if blank > _MOST_BLANK:
                raise DataError(
                    f"{path}: more than {_MOST_BLANK >> 20} MB of its first {number} lines are blank: it is "
                    "not read; make it again"
                )
        yield number, line
