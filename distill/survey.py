"""What a source of audio holds, and whether its files are there."""

from __future__ import annotations

import logging
import os
import random
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import soundfile
from lhotse.audio import AudioSource
from lhotse.cut import Cut
from lhotse.utils import is_valid_url
from tqdm import tqdm

from distill.errors import DataError
from distill.manifest import Cuts
from distill.shar import place_of
from distill.sources import index_cuts

_JOBS = 8  # threads: file systems of clusters answer slowly, but many at once
_TOLERANCE_S = 0.01  # that a file's length may differ from what its manifest says


@dataclass(kw_only=True)
class Survey:
    """What was found."""

    exists: bool = True
    error: str = ""
    """Why nothing in it can be used."""
    utterances: int = 0
    hours: float = 0.0
    looked_at: int = 0
    """Utterances whose files were looked at."""
    bad: list[str] = field(default_factory=list)
    """`FILE: what is wrong with it`."""


def survey(source: str, *, sample: int, seed: int) -> Survey:
    """Open a source as training does, and look at its files.

    Args:
        source: as for `open_cuts`.
        sample: how many utterances' files are looked at: all, or as many random ones.
        seed: of their choice.

    Returns:
        What there is. Nothing is raised for broken sources and files.
    """
    path = Path(source.partition("?")[0])
    if not path.exists():
        return Survey(exists=False, error=f"{path} does not exist")
    with _left_out() as bad:
        try:
            cuts = index_cuts([source])
        except (DataError, OSError) as error:
            return Survey(error=str(error), bad=list(dict.fromkeys(bad)))
    numbers: Sequence[int] = range(len(cuts))
    if len(cuts) > sample:
        numbers = sorted(random.Random(seed).sample(numbers, sample))
    with ThreadPoolExecutor(_JOBS) as pool:
        problems = pool.map(lambda number: _look_at(cuts, number), numbers)
        shown = tqdm(problems, path.name, len(numbers), unit="file", leave=False, disable=None)
        bad += [problem for problem in shown if problem]
    unique = list(dict.fromkeys(bad))  # a source may be gone through twice while it is opened
    return Survey(utterances=len(cuts), hours=cuts.seconds / 3600, looked_at=len(numbers), bad=unique)


@contextmanager
def _left_out() -> Iterator[list[str]]:
    """Collects what opening a TSV or folder leaves out, which it says in warnings."""
    skipped: list[str] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            skipped.append(record.getMessage().removeprefix("skipped "))

    logger, collector = logging.getLogger("distill"), Collector(logging.WARNING)
    propagate, logger.propagate = logger.propagate, False
    logger.addHandler(collector)
    try:
        yield skipped
    finally:
        logger.removeHandler(collector)
        logger.propagate = propagate


def _look_at(cuts: Cuts, number: int) -> str:
    """What is wrong with an utterance's files; "" also for audio that is not in files of this machine."""
    try:
        cut: Cut = cuts[number]
    except DataError as error:
        return str(error)
    for part in [track.cut for track in getattr(cut, "tracks", [])] or [cut]:
        recording = getattr(part, "recording", None)
        if recording is None:
            continue
        for source in recording.sources:
            problem = ""
            if source.type == "file":
                problem = _problem(source.source, recording.duration)
            elif source.type == "shar":
                problem = _problem_of_shard(source)
            if problem:
                return f"{source.source}: {problem}"
    return ""


def _problem(file: str, duration_s: float) -> str:
    try:
        if not os.stat(file).st_size:
            return "is empty"
        found = soundfile.info(file)
    except FileNotFoundError:
        return "does not exist"
    except OSError as error:
        return f"cannot be read ({error.strerror or error})"
    except RuntimeError:  # of libsndfile
        return "is no audio file"
    if abs(found.duration - duration_s) > _TOLERANCE_S:
        return f"has {found.duration:.2f} s, its manifest says {duration_s:.2f} s"
    return ""


def _problem_of_shard(source: AudioSource) -> str:
    try:
        tar, offset, n_bytes = place_of(source)
        if is_valid_url(tar):
            return ""
        return "its shard ends too early" if os.stat(tar).st_size < offset + n_bytes else ""
    except FileNotFoundError:
        return "its shard does not exist"
    except OSError as error:
        return f"its shard cannot be read ({error.strerror or error})"
    except DataError as error:
        return str(error)
