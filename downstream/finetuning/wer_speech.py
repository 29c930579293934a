"""Speech on which word errors are counted: complete, with transcripts that the model can write."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from lhotse.cut import Cut

from distill.data.audio import samples_at_16k
from distill.data.contents import contents_of
from distill.data.noise import NoiseReader
from distill.data.sources import check_names, open_cuts, read_part, split_query
from distill.distortions import DistortionConfig
from distill.downstream.distorted_sets import find_condition
from distill.downstream.finetuning.data import transcript_of
from distill.downstream.subword_search import Units
from distill.errors import DataError
from distill.hashing import hash_lines
from distill.preflight.survey import check_files

logger = logging.getLogger(__name__)

SIZES = {
    "dev-clean": 2_703,
    "dev-other": 2_864,
    "test-clean": 2_620,
    "test-other": 2_939,
    "ns-clean": 2_620,
    "ns-other": 2_939,
    **dict.fromkeys(("chime3", "chime3-ch0", "chime3-ch5", "chime3-ch1", "chime3-ch2"), 1_320),
}
"""Utterances of the published test sets, by the names that tables know."""


class TestSet(Protocol):
    """A test set as recipes describe it (`distill.options.TestSet`)."""

    sources: list[str]
    condition: str | None
    snr_db: list[float] | None
    noises: dict[str, list[str]]


@dataclass(frozen=True)
class WerSpeech:
    """Utterances, opened and checked."""

    cuts: list[Cut]
    """The shortest first."""
    words: dict[str, list[str]]
    """The transcript of each."""
    distortion: DistortionConfig
    """What is done to them."""
    noises: NoiseReader
    """The noise for it."""
    about: dict[str, Any]
    """What a score depends on: condition, contents of speech and noise."""


def open_test(name: str, test: TestSet, units: Units, column: str | None = None) -> WerSpeech:
    """Open and check a test set.

    Args:
        name: of the test set.
        test: its description.
        units: what the model writes.
        column: with the transcripts, as `transcript_of`.

    Raises:
        UserError: for anything that is missing or cannot be written.
    """
    where = f"tests.{name}"
    distortion = find_condition(test.condition or "clean")
    if test.snr_db is not None:
        distortion = replace(distortion, snr_db=(test.snr_db[0], test.snr_db[1]))
    for corpus in distortion.corpora:
        if not test.noises.get(corpus):
            raise DataError(f"{where}: condition {test.condition} needs {corpus}: set noises.{corpus}")
    sources = {corpus: test.noises[corpus] for corpus in distortion.corpora}
    noises = NoiseReader(sources)
    for corpus, clips in noises.corpora.items():
        check_files(clips, ", ".join(sources[corpus]))
        if distortion.strung and corpus != "rir":
            noises.check_strung(corpus)
    opened = open_speech(test.sources, where, units, column)
    if (size := SIZES.get(name)) is not None and len(opened.cuts) != size:
        logger.warning("%s has %d utterances, the published test set %d", where, len(opened.cuts), size)
    about = opened.about | {
        "test": test.condition or "clean",
        "snr_db": list(distortion.snr_db or ()) if distortion.corpora else None,
        "noise audio": {
            corpus: contents_of(list(clips), in_full=False) for corpus, clips in noises.corpora.items()
        },
    }
    return replace(opened, distortion=distortion, noises=noises, about=about)


def open_speech(sources: Sequence[str], where: str, units: Units, column: str | None = None) -> WerSpeech:
    """Open and check clean speech.

    Args:
        sources: of the speech.
        where: the recipe's name for them.
        units: what the model writes.
        column: with the transcripts, as `transcript_of`.

    Raises:
        DataError: naming what is missing, or of the same name, or cannot be written.
    """
    if not sources:
        raise DataError(f"{where} names no speech: set its sources")
    cuts: list[Cut] = list(open_cuts(sources))  # pyright: ignore[reportAssignmentType]
    listed = ", ".join(sources)
    check_names(cuts, listed)
    check_files(cuts, listed)
    words = {cut.id: transcript(cut, units, column) for cut in cuts}
    cuts.sort(key=lambda cut: cut.id)
    said = (f"{cut.id}\t{samples_at_16k(cut)}\t{' '.join(words[cut.id])}" for cut in cuts)
    about = {"test set": hash_lines(said), "test audio": contents_of(cuts, in_full=True)}
    cuts.sort(key=lambda cut: cut.duration)
    return WerSpeech(cuts, words, find_condition("clean"), NoiseReader({}), about)


def transcript(cut: Cut, units: Units, column: str | None = None) -> list[str]:
    """The words of an utterance, in upper case.

    Raises:
        DataError: without a transcript, or for one that the units cannot write: it would count as an error of
            the model.
    """
    text = transcript_of(cut, column)
    try:
        written = units.words(units.encode(text))
    except DataError as error:
        raise DataError(f"{cut.id}: {error}; normalise the text") from None
    words = text.split()
    if written != words:
        odd = next((word for word in words if word not in written), text)
        raise DataError(f"{cut.id}: {odd!r} in its transcript cannot be written by the model's units")
    return words


def heard_in_training(tested: Iterable[str], trained: Mapping[str, Iterable[str]]) -> list[str]:
    """Sources of noise of which recordings may have been heard in training.

    Args:
        tested: sources of a test's noise.
        trained: by corpus, sources of noise for training.
    """
    others = [source for sources in trained.values() for source in sources]
    return sorted({source for source in tested if any(_overlap(source, other) for other in others)})


def _overlap(one: str, other: str) -> bool:
    """Whether two sources are of the same place, and not of parts of it that have nothing in common."""
    (place, query), (other_place, other_query) = split_query(one), split_query(other)
    if Path(place).resolve() != Path(other_place).resolve():
        return False
    (low, high), (other_low, other_high) = _part(query, one), _part(other_query, other)
    return low < other_high and other_low < high


def _part(query: str, source: str) -> tuple[float, float]:
    parts = [pair.removeprefix("part=") for pair in query.split("&") if pair.startswith("part=")]
    return read_part(parts[0], source) if parts else (0.0, 1.0)
