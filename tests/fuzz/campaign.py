"""Try a reader with mutated files for a time, and keep every kind of crash once."""

from __future__ import annotations

import signal
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.fuzz.target import Target

CPU_SECONDS = 10
"""Of one file: the limit that every reader keeps."""
BATCH = 100
"""Files that hypothesis draws in one go: it has no limit in time."""


@dataclass
class Result:
    """Of a campaign."""

    tried: int = 0
    refused: int = 0
    crashes: dict[str, tuple[bytes, str]] = field(default_factory=dict)
    """Where and what -> the file, and the traceback."""


class TooSlow(Exception):
    """A reader that takes longer than `CPU_SECONDS`."""


def campaign(target: Target, seconds: float, first_seed: int = 0, at_least: int = 1) -> Result:
    """Try mutated files; the same ones in the same order for a seed, as many as the time allows.

    On a busy machine, `at_least` so many.
    """
    result = Result()
    end = time.monotonic() + seconds
    number = first_seed

    def is_over() -> bool:
        return time.monotonic() > end and result.tried >= at_least

    def try_one(data: bytes) -> None:
        if is_over():
            return
        result.tried += 1
        try:
            with _limited():
                result.refused += target.attempt(data) is not None
        except Exception as error:
            result.crashes.setdefault(_place(error), (data, traceback.format_exc()))

    while not is_over():
        _batch(target, number, try_one)
        number += 1
    return result


def _batch(target: Target, number: int, try_one: Any) -> None:
    @seed(number)
    @settings(
        max_examples=BATCH,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(target.strategy())
    def batch(data: bytes) -> None:
        try_one(data)

    batch()


def _place(error: BaseException) -> str:
    """The kind of a crash: type, and the last lines of code that it went through."""
    frames = traceback.extract_tb(error.__traceback__)[-2:]
    return " < ".join([type(error).__name__, *(f"{frame.filename}:{frame.lineno}" for frame in frames[::-1])])


@contextmanager
def _limited() -> Iterator[None]:
    """Interrupt Python code after `CPU_SECONDS`."""

    def stop(*_: Any) -> None:
        raise TooSlow(f"it took more than {CPU_SECONDS} s of CPU time")

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, CPU_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
