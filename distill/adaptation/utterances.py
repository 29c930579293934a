"""The utterances of a corpus: their ids and lengths, what their audio holds, and one after the other."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from lhotse import CutSet
from lhotse.cut import Cut

from distill.data.audio import samples_at_16k
from distill.data.contents import contents_of
from distill.data.manifest import Cuts
from distill.data.sources import twins
from distill.errors import DataError
from distill.hashing import hash_text
from distill.waveforms import SAMPLE_RATE

MOST_COMPARED = 20_000  # utterances whose audio tells one corpus from another: enough, and minutes at most

Speech = CutSet | Cuts


def each(cuts: Speech) -> Iterator[Cut]:
    """The cuts, one after the other."""
    yield from iter(cuts)  # pyright: ignore[reportGeneralTypeIssues]


@dataclass(frozen=True)
class Utterances:
    """Ids and lengths, in the order of the manifest."""

    ids: list[str]
    n_samples: np.ndarray
    """(N,) int64 at 16 kHz."""

    @property
    def hours(self) -> float:
        """Of speech."""
        return float(self.n_samples.sum()) / SAMPLE_RATE / 3600

    def digest(self) -> str:
        """Changes with any id or length."""
        text = "\n".join(f"{name}\t{n}" for name, n in zip(self.ids, self.n_samples.tolist(), strict=True))
        return hash_text(text, digest_size=8)


def list_utterances(cuts: Speech) -> Utterances:
    """Ids and lengths of all cuts; no audio is read.

    Raises:
        DataError: if two cuts have the same id, or there is none.
    """
    lengths: dict[str, int] = {}
    for cut in each(cuts):
        if cut.id in lengths:
            first = next(one for one in each(cuts) if one.id == cut.id)
            raise twins(first, cut, "the speech")
        lengths[cut.id] = samples_at_16k(cut)
    if not lengths:
        raise DataError("there are no utterances to make targets from: check the manifest")
    return Utterances(list(lengths), np.array(list(lengths.values()), np.int64))


def describe_audio(cuts: Speech, count: int, without: Iterable[str]) -> dict[str, Any]:
    """A digest of what some speech holds, by at most `MOST_COMPARED` utterances spread over all.

    Args:
        cuts: the speech.
        count: how many utterances it has.
        without: ids of those that have no labels: their files may be repaired at any time.
    """
    wanted = set(np.linspace(0, count - 1, min(count, MOST_COMPARED)).round().astype(int).tolist())
    left_out = set(without)
    some = [cut for number, cut in enumerate(each(cuts)) if number in wanted and cut.id not in left_out]
    return {"contents": contents_of(some, in_full=False, missing_ok=True), "without": sorted(left_out)}


class CutReader:
    """Cuts by number: a lazy manifest is read on from where it is, not from its start for every block."""

    def __init__(self, cuts: Speech):
        self.cuts = cuts
        self.iterator: Iterator[Cut] = iter(())
        self.next_number: int | None = None

    def take(self, numbers: range) -> list[Cut]:
        """The cuts with these numbers."""
        if isinstance(self.cuts, Sequence):
            return [self.cuts[number] for number in numbers]
        if self.next_number is None or numbers.start < self.next_number:
            self.iterator, self.next_number = each(self.cuts), 0
        skip = numbers.start - self.next_number
        self.next_number = numbers.stop
        return list(itertools.islice(self.iterator, skip, skip + len(numbers)))
