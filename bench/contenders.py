"""What is timed in turns, so that whatever else the machine does affects all alike; names of effects."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

GAUSSIAN, RECORDED, IN_MEMORY = "gaussian noise at an SNR", "noise from files", "noise clips in memory"
REVERB, PITCH, BAND_REJECTION = "reverb", "pitch", "band rejection"

Run = Callable[[int], object]
"""Does all that is timed; takes the number of the round, which makes random draws differ."""


@dataclass
class Contender:
    """A way to do something, measured once a round."""

    name: str
    make: Callable[[], Run]
    """Imports and prepares what is not to be timed."""
    audio_s: float
    """Seconds of audio in one run."""
    device: str = "cpu"
    """"cpu" or "cuda"."""
    settle: bool = True
    """Run once untimed in every round, as in a loop: what ran before has filled the caches."""
    optional: bool = True
    """Whether it may be missing here, as other libraries may."""
    wall_s: list[float] = field(default_factory=list)
    """Seconds by round."""
    cpu_s: list[float] = field(default_factory=list)
    """CPU-seconds by round, of all threads and of programs that were run."""
    failure: str = ""
    """Why it cannot run here."""

    @property
    def speeds(self) -> list[float]:
        """Audio-seconds per CPU-second by round, per second on a GPU."""
        return [self.audio_s / taken for taken in (self.cpu_s if self.device == "cpu" else self.wall_s)]

    def warm_up(self) -> None:
        """Prepare, and run once to fill caches."""
        try:
            self.run = self.make()
            self.run(0)
        except Exception as error:  # whatever another library raises
            if not self.optional:
                raise
            self.failure = " ".join(str(error).split()) or type(error).__name__

    def measure(self, number: int) -> None:
        """Run a round."""
        if self.failure:
            return
        if self.settle:
            self.run(number)
        synchronize(self.device)
        started, cpu_started = time.perf_counter(), cpu_seconds()
        self.run(number + 1)
        synchronize(self.device)
        self.wall_s.append(time.perf_counter() - started)
        self.cpu_s.append(cpu_seconds() - cpu_started)


def take_turns(contenders: Iterable[Contender], rounds: int) -> None:
    """Measure all of them in every round; each begins a round in its turn."""
    contenders = list(contenders)
    for contender in contenders:
        contender.warm_up()
    for number in range(rounds):
        first = number % max(len(contenders), 1)
        for contender in contenders[first:] + contenders[:first]:
            contender.measure(number)


def synchronize(device: str) -> None:
    """Wait for a GPU."""
    if device == "cuda":
        import torch

        torch.cuda.synchronize()


def cpu_seconds() -> float:
    """CPU time of this process with all its threads, and of the programs that it ran."""
    usage = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(u.ru_utime + u.ru_stime for u in usage)
