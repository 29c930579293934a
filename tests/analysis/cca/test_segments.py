"""Frames of intervals, samples of them, and the parts of cross-validation."""

from collections import Counter
from fractions import Fraction
from math import ceil, floor

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distill.analysis.cca.cross_validation import Split
from distill.analysis.cca.segments import (
    PARTS,
    Instance,
    Interval,
    instances_of,
    middle_third,
    one_hot,
    pool,
    rare_labels,
    sample_instances,
    sample_utterances,
    span,
    split_by_label,
    split_by_utterance,
)
from distill.errors import DataError


def instances(counts: dict[str, int]) -> list[Instance]:
    return [
        Instance(f"u{number % 7}", label, 10 * number, 10 * number + 5)
        for label, count in counts.items()
        for number in range(count)
    ]


@pytest.mark.parametrize("hop", [320, 160, 80, 5, 640])
def test_whole_frames_are_whole_whatever_floating_point_makes_of_them(hop):
    for first in range(300):
        for n_frames in (1, 2, 3, 7):
            last = first + n_frames
            times = {(first * hop / 16_000, last * hop / 16_000)}
            start_s, duration_s = first * (hop / 16_000), n_frames * (hop / 16_000)
            times |= {(start_s, start_s + duration_s), (round(start_s, 7), round(start_s + duration_s, 7))}
            assert {span(*one, hop=hop) for one in times} == {(first, last)}


def test_the_traps_that_plain_division_falls_into():
    assert ceil(0.06 / 0.02) == 3 and ceil((0.1 + 0.2) / 0.02) == 16  # 0.30000000000000004 s
    assert floor(0.58 / 0.02) == 28  # 28.999999999999996 in floating point
    assert span(0.58, 0.1 + 0.2 + 0.5) == (29, 40) and span(0.0, 0.1 + 0.2) == (0, 15)


@given(st.integers(0, 10**8), st.integers(1, 10**7), st.sampled_from([320, 160, 5]))
def test_floor_and_ceiling(start_us, length_us, hop):
    per_frame = Fraction(hop, 16_000) * 1_000_000
    end_us = start_us + length_us
    expected = floor(start_us / per_frame), ceil(end_us / per_frame)
    assert span(start_us / 1e6, end_us / 1e6, hop=hop) == expected


def test_the_middle_third():
    lengths = [np.diff(middle_third(5, 5 + n_frames))[0] for n_frames in range(1, 13)]
    assert lengths == [1, 2, 1, 2, 1, 2, 3, 2, 3, 4, 3, 4]
    for n_frames in range(1, 200):
        start, end = middle_third(7, 7 + n_frames)
        assert start - 7 == 7 + n_frames - end >= 0 and end > start
        assert n_frames < 3 or abs(end - start - n_frames / 3) <= 1


def test_instances_end_with_the_utterance():
    alignments = {
        "a": [Interval("x", 0.0, 0.061), Interval("y", 0.06, 0.21), Interval("z", 0.2, 0.25)],
        "b": [],
    }
    frames = {"a": 10, "b": 3}
    assert instances_of(alignments, frames, middle=False) == [
        Instance("a", "x", 0, 4),
        Instance("a", "y", 3, 10),
    ]
    assert instances_of(alignments, frames, middle=True) == [
        Instance("a", "x", 1, 3),
        Instance("a", "y", 5, 8),
    ]
    assert instances_of(alignments, frames, middle=False, hop=640)[0] == Instance("a", "x", 0, 2)


def test_sampling_is_limited_by_label_and_frequency():
    counts = {"a": 500, "b": 40, "c": 40, "d": 30, "e": 2}
    chosen = sample_instances(instances(counts), most_each=35, seed=0)
    assert Counter(one.label for one in chosen) == {"a": 35, "b": 35, "c": 35, "d": 30}
    frequent = sample_instances(instances(counts), most_each=35, most_labels=2, seed=0)
    assert {one.label for one in frequent} == {"a", "b"}
    assert rare_labels(instances(counts)) == ["e"]
    assert {
        one.label for one in sample_instances(instances(counts), most_each=35, at_least=1, seed=0)
    } == set(counts)


def test_sampling_depends_on_seed_and_set_alone():
    found = instances({"a": 100, "b": 100})
    one = sample_instances(found, most_each=10, seed=3)
    assert (
        one == sample_instances(found[::-1], most_each=10, seed=3) == sorted(one, key=lambda x: (x[0], x[2]))
    )
    others = [
        sample_instances(found, most_each=10, seed=3, sample_set=1),
        sample_instances(found, most_each=10, seed=4),
    ]
    assert all(set(one) != set(other) for other in others) and set(others[0]) != set(others[1])
    # the numbers of Philox are the same on every machine and in every version of numpy
    assert [x.start for x in one if x.label == "a"][:4] == [140, 80, 430, 20]


def test_utterances_are_sampled_whatever_their_order():
    names = [f"u{number:02d}" for number in range(30)]
    chosen = sample_utterances(names, most=10, seed=0)
    assert len(set(chosen)) == 10 and chosen == sorted(chosen) == sample_utterances(
        names[::-1], most=10, seed=0
    )
    assert chosen != sample_utterances(names, most=10, seed=0, sample_set=1)
    assert sample_utterances(names, most=50, seed=0) == names


def test_pooling_is_the_mean_of_the_frames():
    features = torch.randn(12, 5, generator=torch.Generator().manual_seed(0))
    found = [Instance("a", "x", 0, 12), Instance("a", "y", 3, 4), Instance("a", "z", 2, 5)]
    means = pool(features.half(), found)
    assert means.dtype == torch.float32 and means.shape == (3, 5)
    torch.testing.assert_close(means[2], features.half().float()[2:5].mean(0))
    assert pool(features, []).shape == (0, 5)
    with pytest.raises(ValueError, match="a: x has the frames 11 to 12 of 12"):
        pool(features, [Instance("a", "x", 11, 13)])


def test_one_hot():
    matrix, names = one_hot(["b", "a", "b"])
    assert names == ("a", "b") and matrix.tolist() == [[0, 1], [1, 0], [0, 1]]


def check_choices(splits: list[Split], n_rows: int):
    """Three times all rows, with no row in two development or test parts."""
    assert len(splits) == 3
    for split in splits:
        assert sorted(np.concatenate([split.train, split.dev, split.test])) == list(range(n_rows))
    held_out = np.concatenate([rows for split in splits for rows in (split.dev, split.test)])
    assert len(set(held_out)) == len(held_out)


def test_parts_are_stratified():
    labels = [label for label, count in {"a": 200, "b": 57, "c": 3, "d": 10}.items() for _ in range(count)]
    found = np.array(labels)
    for seed in range(20):
        splits = split_by_label(labels, seed=seed)
        check_choices(splits, len(labels))
        for split in splits:
            assert abs(len(split.test) - len(labels) / PARTS) < 1
            assert (found[split.test] == "a").sum() == 20 and (found[split.dev] == "d").sum() == 1
            assert (found[split.test] == "b").sum() in (5, 6) and set(found[split.train]) == set("abcd")
    again, other = split_by_label(labels, seed=0), split_by_label(labels, seed=0, sample_set=1)
    assert all(
        (one.test == two.test).all() for one, two in zip(again, split_by_label(labels, seed=0), strict=True)
    )
    assert any(set(one.test) != set(two.test) for one, two in zip(again, other, strict=True))


def test_an_utterance_is_in_one_part():
    lengths = np.random.default_rng(0).integers(50, 800, 100)
    utterances = [f"u{number}" for number, length in enumerate(lengths) for _ in range(length)]
    splits = split_by_utterance(utterances, seed=0)
    check_choices(splits, len(utterances))
    for split in splits:
        of = [{utterances[row] for row in rows} for rows in (split.train, split.dev, split.test)]
        assert not of[0] & of[1] and not of[0] & of[2] and not of[1] & of[2]
        assert abs(len(split.test) - len(utterances) / PARTS) <= 800
    other = split_by_utterance(utterances, seed=1)
    assert any(set(one.test) != set(two.test) for one, two in zip(splits, other, strict=True))


def test_too_little_for_ten_parts():
    with pytest.raises(DataError, match="10 parts, not 9 utterances"):
        split_by_utterance([f"u{number % 9}" for number in range(100)], seed=0)
    with pytest.raises(DataError, match="10 parts, not 9 instances"):
        split_by_label(["a"] * 9, seed=0)
