"""Ways to distort a batch, timed in turns; the names of the effects that they are grouped by."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

GAUSSIAN, RECORDED, IN_MEMORY = "gaussian noise at an SNR", "noise from files", "noise clips in memory"
REVERB, PITCH, BAND_REJECTION = "reverb", "pitch", "band rejection"

Run = Callable[[int], object]
"""Distorts the whole batch; takes the number of the round, which makes the draws differ."""


@dataclass
class Contender:
    """A way to distort the batch, measured once a round."""

    name: str
    make: Callable[[], Run]
    """Imports and prepares what is not to be timed."""
    audio_s: float
    """Seconds of audio in the batch."""
    speeds: list[float] = field(default_factory=list)
    """Audio-seconds per CPU-second, by round."""
    failure: str = ""
    """Why it cannot run here."""

    def warm_up(self) -> None:
        """Prepare, and run once to fill caches."""
        try:
            self.run = self.make()
            self.run(0)
        except Exception as error:  # whatever another library raises
            self.failure = " ".join(str(error).split()) or type(error).__name__

    def measure(self, number: int) -> None:
        """Run a round: once after whatever ran before, then once for the clock, as in a loop."""
        if not self.failure:
            self.run(number)
            started = cpu_seconds()
            self.run(number + 1)
            self.speeds.append(self.audio_s / (cpu_seconds() - started))


def take_turns(contenders: Iterable[Contender], rounds: int) -> None:
    """Measure all of them in every round, so that whatever else the machine does affects all alike."""
    contenders = list(contenders)
    for contender in contenders:
        contender.warm_up()
    for number in range(rounds):
        for contender in contenders:
            contender.measure(number)


def cpu_seconds() -> float:
    """CPU time of this process with all its threads, and of the programs that it ran."""
    usage = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(u.ru_utime + u.ru_stime for u in usage)
