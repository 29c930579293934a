"""What a command of many stages is doing, for how long it has run, and about how much is left."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Collection, Mapping

from distill.training.progress import in_words


class Stages:
    """Prints a line at each stage: "[2:31, about 6 min left] distilling s4, seed 0".

    What is left is the planned time of all stages to come, times the slowness of this machine so far.

    Args:
        planned_s: seconds that each stage takes on the machine where they were measured; 0 if it is finished.
        resumed: stages that an earlier call began, whose time says nothing about this machine.
        clock: seconds since some moment.
    """

    def __init__(
        self,
        planned_s: Mapping[str, float],
        *,
        resumed: Collection[str] = (),
        clock: Callable[[], float] = time.monotonic,
    ):
        self.left_s, self.resumed, self.clock = dict(planned_s), resumed, clock
        self.started = self.since = clock()
        self.stage: str | None = None
        self.took_s = self.should_have_taken_s = 0.0

    def begin(self, stage: str, what: str) -> None:
        """End the stage before, and say what is done in this one."""
        self._end()
        self.stage = stage
        if self.should_have_taken_s:
            slowness = self.took_s / self.should_have_taken_s
            left = f"about {in_words(slowness * sum(self.left_s.values()))} left"
        else:
            left = f"about {in_words(sum(self.left_s.values()))} on two idle cores"
        self._say(f", {left}", what)

    def finish(self, what: str) -> None:
        """End the last stage."""
        self._end()
        self._say("", what)

    def _end(self) -> None:
        now = self.clock()
        planned_s = self.left_s.pop(self.stage, 0.0) if self.stage else 0.0
        if planned_s and self.stage not in self.resumed:
            # Each stage halves the weight of those before: other programs come and go.
            self.took_s = self.took_s / 2 + now - self.since
            self.should_have_taken_s = self.should_have_taken_s / 2 + planned_s
        self.since = now

    def _say(self, left: str, what: str) -> None:
        minutes, seconds = divmod(int(self.clock() - self.started), 60)
        print(f"[{minutes}:{seconds:02d}{left}] {what}", file=sys.stderr, flush=True)
