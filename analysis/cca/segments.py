"""Segments of speech with a label: their frames, their samples, their parts for cross-validation.

The protocol of Pasad et al. 2021 and 2023 (layer-wise analysis): frames are 20 ms apart; an interval from
`start_s` to `end_s` has the frames floor(start_s / 0.02) to ceil(end_s / 0.02), the end left out. A word is
the mean of all its frames, a phone of those in its middle third, where its neighbours have the least
influence.

Shapes: F frames, D features, n instances, K labels.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from distill.errors import DataError
from distill.waveforms import SAMPLE_RATE

HOP = SAMPLE_RATE // 50
"""Samples from frame to frame of HuBERT and its like: 20 ms."""
PARTS = 10
"""Of which eight are for training, one to choose the regularisation, one for the score."""
CHOICES = 3
"""Of the parts for development and test, from the same ten; no part is chosen twice."""
PER_PHONE, PER_WORD, WORDS = 200, 15, 500
"""Most instances of a label, and most words: about 7 000 instances each of LibriSpeech dev-clean."""
UTTERANCES = 500
"""For scores of frames: about 180 000 of LibriSpeech."""
_TICKS = 10_000_000  # a second
AT_LEAST = 3
"""Instances of a label: with one fewer it could be in none of the eight parts for training."""


class Interval(NamedTuple):
    """A stretch of time with a label."""

    symbol: str
    start_s: float
    end_s: float


class Instance(NamedTuple):
    """The frames of an interval."""

    utterance: str
    label: str
    start: int
    """The first frame."""
    end: int
    """One past the last frame."""


@dataclass(frozen=True, eq=False)
class Split:
    """Which rows directions are learnt from, epsilons chosen on and scores taken of; no row has two uses."""

    train: np.ndarray
    """Row numbers, (n_train,)."""
    dev: np.ndarray
    test: np.ndarray


def span(start_s: float, end_s: float, *, hop: int = HOP) -> tuple[int, int]:
    """The first frame of an interval and one past its last.

    Times are taken to the nearest 0.1 microseconds, of which a sample has 625: 0.3 s are 15 frames, but
    (0.1 + 0.2) / 0.02 is 15.000000000000002, whose ceiling is 16.

    Args:
        start_s: in seconds.
        end_s: in seconds, after `start_s`.
        hop: samples from frame to frame at 16 kHz.
    """
    per_frame = hop * _TICKS // SAMPLE_RATE
    first, last = round(start_s * _TICKS), round(end_s * _TICKS)
    return first // per_frame, -(-last // per_frame)


def middle_third(start: int, end: int) -> tuple[int, int]:
    """The frames in the middle of a span: as many as are nearest to a third, at least one, symmetric."""
    n_frames = end - start
    left_out = min((n_frames + 1) // 3, (n_frames - 1) // 2)  # on each side
    return start + left_out, end - left_out


def instances_of(
    alignments: Mapping[str, Iterable[Interval]],
    n_frames: Mapping[str, int],
    *,
    middle: bool,
    hop: int = HOP,
) -> list[Instance]:
    """The frames of all intervals.

    Args:
        alignments: intervals by utterance.
        n_frames: frames that the model has of each utterance. The last few milliseconds of a recording do not
            fill one: spans are cut there, and an interval of which nothing is left is left out.
        middle: take the middle third (phones), not all (words).
        hop: samples from frame to frame at 16 kHz.
    """
    found = []
    for utterance, intervals in alignments.items():
        for symbol, start_s, end_s in intervals:
            start, end = span(start_s, end_s, hop=hop)
            end = min(end, n_frames[utterance])
            if start < end:
                frames = middle_third(start, end) if middle else (start, end)
                found.append(Instance(utterance, symbol, *frames))
    return found


def sample_instances(
    instances: Sequence[Instance],
    *,
    most_each: int,
    most_labels: int | None = None,
    at_least: int = AT_LEAST,
    seed: int,
    sample_set: int = 0,
) -> list[Instance]:
    """Choose instances at random, a limited number of each label; sorted by utterance and time.

    The choice does not depend on the order of `instances`.

    Args:
        instances: all there are.
        most_each: most instances of a label.
        most_labels: keep the most frequent labels alone; of equally frequent ones, the first in the alphabet.
        at_least: labels with fewer instances are left out.
        seed: of the choice.
        sample_set: its number; each has its own stream of random numbers.
    """
    by_label: dict[str, list[Instance]] = defaultdict(list)
    for instance in sorted(instances):
        by_label[instance.label].append(instance)
    kept = sorted(by_label, key=lambda label: (-len(by_label[label]), label))[:most_labels]
    random = generator(seed, sample_set, "instances")
    chosen: list[Instance] = []
    for label in sorted(kept):
        found = by_label[label]
        if len(found) >= at_least:
            numbers = random.permutation(len(found))[:most_each]
            chosen += [found[number] for number in numbers]
    return sorted(chosen, key=lambda one: (one.utterance, one.start, one.end, one.label))


def rare_labels(instances: Iterable[Instance], at_least: int = AT_LEAST) -> list[str]:
    """Labels that `sample_instances` leaves out, with fewer than `at_least` instances; sorted."""
    counts = Counter(instance.label for instance in instances)
    return sorted(label for label, count in counts.items() if count < at_least)


def sample_utterances(
    names: Iterable[str], *, most: int = UTTERANCES, seed: int, sample_set: int = 0
) -> list[str]:
    """Choose utterances at random, whatever their order; sorted."""
    ordered = sorted(names)
    numbers = generator(seed, sample_set, "utterances").permutation(len(ordered))[:most]
    return [ordered[number] for number in sorted(numbers)]


def generator(seed: int, sample_set: int, purpose: str) -> np.random.Generator:
    """A stream of random numbers of its own for each seed, sample set and purpose."""
    words = [seed, sample_set, *purpose.encode()]
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(words)))


def pool(features: Tensor, instances: Sequence[Instance]) -> Tensor:
    """The mean over the frames of each instance.

    Args:
        features: (F, D) of one utterance.
        instances: of that utterance, cut to its F frames.

    Returns:
        (n, D) float32.

    Raises:
        ValueError: an instance has frames that do not exist.
    """
    for one in instances:
        if not 0 <= one.start < one.end <= len(features):
            raise ValueError(
                f"{one.utterance}: {one.label} has the frames {one.start} to {one.end - 1} of {len(features)}"
            )
    features = features.float()
    means = [features[one.start : one.end].mean(0) for one in instances]
    return torch.stack(means) if means else features[:0]


def one_hot(labels: Sequence[str]) -> tuple[Tensor, tuple[str, ...]]:
    """(n, K) float32 with a 1 in the column of each row's label, and the labels of the columns, sorted."""
    names = tuple(sorted(set(labels)))
    column = {name: number for number, name in enumerate(names)}
    matrix = torch.zeros(len(labels), len(names))
    matrix[
        torch.arange(len(labels)), torch.tensor([column[label] for label in labels], dtype=torch.int64)
    ] = 1
    return matrix, names


def split_by_label(labels: Sequence[str], *, seed: int, sample_set: int = 0) -> list[Split]:
    """Three choices of parts, each with the same share of every label.

    The instances of a label are dealt out one by one to the ten parts, each label beginning at the part after
    the last one of the label before: no part is more than one instance larger than another, in all and of
    each label.

    Args:
        labels: of the rows.
        seed: of the parts.
        sample_set: number of the sample set.

    Raises:
        DataError: there are too few for ten parts.
    """
    _check_parts(len(labels), "instances")
    random = generator(seed, sample_set, "parts")
    found = np.asarray(labels)
    order = np.concatenate([random.permutation(np.flatnonzero(found == label)) for label in np.unique(found)])
    parts = [order[number::PARTS] for number in range(PARTS)]
    return _choices(parts, random)


def split_by_utterance(utterances: Sequence[Any], *, seed: int, sample_set: int = 0) -> list[Split]:
    """Three choices of parts, no utterance in two of them.

    Neighbouring frames share most of their samples and context: frames of one utterance in training and test
    would let a score remember what it should find.

    Args:
        utterances: of each row.
        seed: of the parts.
        sample_set: number of the sample set.

    Raises:
        DataError: there are too few for ten parts.
    """
    names, owner, counts = np.unique(np.asarray(utterances), return_inverse=True, return_counts=True)
    _check_parts(len(names), "utterances")
    random = generator(seed, sample_set, "parts")
    part_of = np.zeros(len(names), int)
    sizes = np.zeros(PARTS, int)
    for name in random.permutation(len(names)):
        part_of[name] = sizes.argmin()  # into the smallest part: none outgrows another by an utterance
        sizes[part_of[name]] += counts[name]
    parts = [np.flatnonzero(part_of[owner] == number) for number in range(PARTS)]
    return _choices(parts, random)


def _check_parts(count: int, what: str) -> None:
    if count < PARTS:
        raise DataError(f"cross-validation takes {PARTS} parts, not {count} {what}: give more speech")


def _choices(parts: Sequence[np.ndarray], random: np.random.Generator) -> list[Split]:
    order = random.permutation(PARTS)
    splits = []
    for dev, test in order[: 2 * CHOICES].reshape(CHOICES, 2):
        rest = [part for number, part in enumerate(parts) if number not in (dev, test)]
        splits.append(Split(*(np.sort(rows) for rows in (np.concatenate(rest), parts[dev], parts[test]))))
    return splits
