"""Peak memory of a contender, measured in a process that does nothing else."""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from bench.contenders import Run, synchronize

STEPS = 2
"""In the second one the optimiser's state exists from the beginning."""


def peak_mb(make: Callable[[], Run], device: str) -> dict[str, float]:
    """Make a contender and run it twice: MB at the highest, and before it was made.

    On a CPU the memory that the process held; on a GPU what torch had allocated.
    """
    before = 0.0 if device == "cuda" else resident_peak_mb()
    run = make()
    for number in range(STEPS):
        run(number)
    synchronize(device)
    peak = torch.cuda.max_memory_allocated() / 1e6 if device == "cuda" else resident_peak_mb()
    return {"peak_mb": peak, "before_mb": before}


def resident_peak_mb() -> float:
    """The most that this process has held so far, in MB.

    Linux counts what the parent held into a child's ru_maxrss, but not into VmHWM.
    """
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024 / 1e6
    except (OSError, IndexError):
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
