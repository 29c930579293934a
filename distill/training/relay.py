"""Several runs take turns in one process: each has a thread, and only the one with the baton goes on."""

from __future__ import annotations

import random
import threading
import time
from typing import Any

import numpy as np
import torch


class Relay:
    """Hands the baton from run to run; runs are numbered from 0.

    It goes to the run that has had the fewest training batches, of several such in turn. It changes hands
    only where its holder says so, so that nothing else in a run needs to know of the others. The random
    states of Python, numpy and torch, which belong to the process, are kept for each run.

    Args:
        n_runs: how many there are.
    """

    def __init__(self, n_runs: int) -> None:
        self.batches = dict.fromkeys(range(n_runs), 0)
        """Training batches that each run has had, of those that have not ended."""
        self._holder: int | None = 0
        self._changed = threading.Condition()

    def wait_for_turn(self, run: int) -> None:
        """Return when that run has the baton."""
        with self._changed:
            self._changed.wait_for(lambda: self._holder == run)

    def pass_on(self, run: int) -> float:
        """Let the others go on, and return when it is this run's turn again.

        Returns:
            The seconds that it took.
        """
        if len(self.batches) == 1:
            return 0.0
        started, state = time.monotonic(), random_state()
        self._hand_over(run)
        self.wait_for_turn(run)
        set_random_state(state)
        return time.monotonic() - started

    def leave(self, run: int) -> None:
        """That run has ended."""
        del self.batches[run]
        self._hand_over(run)

    def _hand_over(self, run: int) -> None:
        with self._changed:
            fewest = min(self.batches.values(), default=0)
            ready = [one for one, batches in self.batches.items() if batches == fewest]
            self._holder = min(ready, key=lambda one: (one <= run, one), default=None)
            self._changed.notify_all()


def random_state() -> tuple[Any, ...]:
    """The states of all generators that belong to the process."""
    cuda = torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None
    return random.getstate(), np.random.get_state(), torch.get_rng_state(), cuda


def set_random_state(state: tuple[Any, ...]) -> None:
    """Set them to what `random_state` has returned."""
    python, numpy, cpu, cuda = state
    random.setstate(python)
    np.random.set_state(numpy)
    torch.set_rng_state(cpu)
    if cuda is not None:
        torch.cuda.set_rng_state(cuda)
