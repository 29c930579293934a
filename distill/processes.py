"""Which of several processes this is, before they are connected."""

from __future__ import annotations

import os


def is_follower() -> bool:
    """Whether this is one of several processes and not the first; known before any is connected."""
    return any(int(os.environ.get(name, 0)) for name in ("LOCAL_RANK", "RANK", "SLURM_PROCID"))
