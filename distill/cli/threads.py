"""How torch's threads wait, and how many there are; OpenMP reads both when torch is imported."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import MutableMapping
from pathlib import Path

WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
"""Any of these says how threads wait: the user's word."""
SPINS = 3000
"""How often a thread looks whether the others are ready before it sleeps; GNU OpenMP's own choice is 300 000.

A step of a mini student on two threads and two cores, milliseconds alone, and beside a program that keeps a
core busy (means of two runs, 30 000 spins: of one): 300 000 spins 340 and 1200 to 5400, 30 000 spins 380 and
1590, 10 000 spins 380 and 890, 3000 spins 390 and 800, 1000 spins 450 and 580, none 440 and 610; on one
thread 520 and 570.
"""
LAUNCHED = ("WORLD_SIZE", "LOCAL_RANK", "SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")
"""Set where a launcher starts several processes, and divides the cores among them."""
CGROUPS, OWN_GROUPS, GPU = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup"), Path("/dev/nvidiactl")


def share_cores(environment: MutableMapping[str, str] = os.environ) -> None:
    """Let threads sleep when they wait for long, and start no more of them than a container may use cores.

    OpenMP's threads spin while they wait for each other. Where another program has one of the cores, all
    wait for the thread that does not run, and burn what it could use. What the user has set stays; so does
    the number of threads on machines with a GPU, and under launchers of several processes.
    """
    if "torch" in sys.modules:  # too late, and the environment of somebody else's program
        return
    if not any(name in environment for name in WAITING):
        environment["GOMP_SPINCOUNT"] = str(SPINS)
    if "OMP_NUM_THREADS" in environment or GPU.exists() or any(name in environment for name in LAUNCHED):
        return
    quota = cpu_quota()
    if quota < (len(os.sched_getaffinity(0)) if sys.platform == "linux" else math.inf):
        environment["OMP_NUM_THREADS"] = str(max(1, math.floor(quota)))  # OpenMP minds affinity, not quotas


def cpu_quota(root: Path = CGROUPS, own: Path = OWN_GROUPS) -> float:
    """Cores whose time this process may use: the lowest limit from its control group up; infinite if none.

    Args:
        root: where the control groups are mounted, of version 1 or 2.
        own: which of them this process is in.
    """
    limits = [math.inf]
    for line in own.read_text().splitlines() if own.is_file() else ():
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        top = root / "cpu" if controllers else root  # version 2 has no list of controllers
        group = top / path.lstrip("/")
        limits += [_limit(folder) for folder in (group, *group.parents) if folder.is_relative_to(top)]
    return min(limits)


def _limit(group: Path) -> float:
    """Microseconds of each period, as cores; "max" and -1 are no limit."""
    try:
        if (group / "cpu.max").is_file():
            quota, period = (group / "cpu.max").read_text().split()
        else:
            quota, period = (
                (group / f"cpu.cfs_{part}_us").read_text().strip() for part in ("quota", "period")
            )
        return math.inf if quota in ("max", "-1") else int(quota) / int(period)
    except (OSError, ValueError):  # the root has no limits
        return math.inf
