"""Random choices that depend on names alone: whatever the order, the batch, the rank or the worker."""

from __future__ import annotations

import hashlib
from typing import Any


def hash_number(*parts: Any) -> int:
    """A number in [0, 2 ** 64) that depends on nothing but `parts`."""
    return int.from_bytes(hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=8).digest())
