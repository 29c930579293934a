"""Hashes: random choices that depend on names alone, and short names for texts and files.

A choice that is a hash of a name is the same whatever the order, the batch, the rank or the worker, and needs
no generator whose state would have to be saved.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from distill.errors import DataError


def hash_number(*parts: Any) -> int:
    """A number in [0, 2 ** 64) that depends on nothing but `parts`."""
    return int.from_bytes(hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=8).digest())


def hash_text(text: str, *, digest_size: int) -> str:
    """BLAKE2b of a text, in hexadecimal: `digest_size` bytes, twice as many digits."""
    return hashlib.blake2b(text.encode(), digest_size=digest_size).hexdigest()


def hash_lines(lines: Iterable[str]) -> str:
    """BLAKE2b of lines, in hexadecimal."""
    digest = hashlib.blake2b(digest_size=16)
    for line in lines:
        digest.update(f"{line}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def file_identity(path: str | Path) -> str:
    """Name of a file and hash of what it holds.

    Raises:
        DataError: if it is missing.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    state = path.stat()
    return f"{path.name} {_hash_once(path, state.st_size, state.st_mtime_ns)}"


@functools.cache
def _hash_once(path: Path, n_bytes: int, modified_ns: int) -> str:
    """Hash of a file in that state: a language model has gigabytes."""
    return hash_files([path], digest_size=16)


def hash_files(paths: Iterable[Path], *, digest_size: int) -> str:
    """BLAKE2b of the bytes of files, one after the other, in hexadecimal."""
    digest = hashlib.blake2b(digest_size=digest_size)
    for path in paths:
        with path.open("rb") as opened:
            while block := opened.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
