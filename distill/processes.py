"""Which of several processes this is, before they are connected."""

from __future__ import annotations

import os
import socket

_RANKS = ("RANK", "SLURM_PROCID", "LOCAL_RANK")


def is_follower() -> bool:
    """Whether this is one of several processes and not the first; known before any is connected."""
    return any(int(os.environ.get(name, 0)) for name in _RANKS)


def speaker() -> str:
    """What a process puts before its messages: which one it is, and where; nothing if it is the first."""
    if not is_follower():
        return ""
    rank = next(os.environ[name] for name in _RANKS if int(os.environ.get(name, 0)))
    return f"process {rank} on {socket.gethostname()}: "
