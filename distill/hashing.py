"""Names in numbers.

Random choices that depend on names alone, whatever the order, the batch, the rank or the worker; and what the
features of a model depend on beside its weights.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any


def hash_number(*parts: Any) -> int:
    """A number in [0, 2 ** 64) that depends on nothing but `parts`."""
    return int.from_bytes(hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=8).digest())


def hash_lines(lines: Iterable[str]) -> str:
    """BLAKE2b of lines, in hexadecimal."""
    digest = hashlib.blake2b(digest_size=16)
    for line in lines:
        digest.update(f"{line}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()
