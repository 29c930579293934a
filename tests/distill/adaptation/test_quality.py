from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import entropy
from sklearn.metrics import mutual_info_score
from sklearn.metrics.cluster import contingency_matrix, homogeneity_score

from distill.adaptation.quality import frame_phones, measure, quality_of
from distill.adaptation.targets import Targets


def counts_of(phones, clusters):
    counts = np.zeros((max(phones) + 1, max(clusters) + 1), int)
    np.add.at(counts, (phones, clusters), 1)
    return counts


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 9)), min_size=2, max_size=300))
def test_measures_are_those_of_scikit_learn(pairs):
    phones, clusters = map(np.array, zip(*pairs, strict=True))
    found = quality_of(counts_of(phones, clusters))
    table = contingency_matrix(phones, clusters)
    assert found.phone_purity == pytest.approx(table.max(0).sum() / len(phones))
    assert found.cluster_purity == pytest.approx(table.max(1).sum() / len(phones))
    assert (found.frames, found.phones) == (len(phones), len(set(phones.tolist())))
    if found.phones > 1:
        of_phone = np.bincount(phones) / len(phones)
        expected = mutual_info_score(phones, clusters) / entropy(of_phone)
        assert found.pnmi == pytest.approx(expected, abs=1e-9)
        # I(y; z) / H(y) = 1 - H(y | z) / H(y), which scikit-learn knows as homogeneity
        assert found.pnmi == pytest.approx(homogeneity_score(phones, clusters), abs=1e-9)


def test_closed_forms():
    same = quality_of(np.diag([5, 3, 2]))
    assert (same.phone_purity, same.cluster_purity, same.pnmi) == pytest.approx((1.0, 1.0, 1.0))
    independent = quality_of(np.full((4, 8), 3))
    assert (independent.phone_purity, independent.cluster_purity) == pytest.approx((1 / 4, 1 / 8))
    assert independent.pnmi == pytest.approx(0.0, abs=1e-12)
    # two phones of equal frequency, each split evenly over clusters of its own: nothing is lost
    split = quality_of(np.array([[5, 5, 0, 0], [0, 0, 5, 5]]))
    assert (split.phone_purity, split.cluster_purity, split.pnmi) == pytest.approx((1.0, 0.5, 1.0))
    assert quality_of(np.array([[3, 4]])).pnmi == 0.0  # one phone: there is no uncertainty to explain
    for wrong in (np.zeros((2, 2)), np.ones(3)):
        with pytest.raises(ValueError, match="counts"):
            quality_of(wrong)


def test_a_frame_has_the_phone_at_its_centre():
    # centres at 12.5, 32.5, 52.5, 72.5, 92.5, ... ms
    intervals = [("AH0", 0.0125, 0.0325), ("s", 0.0325, 0.05), ("t", 0.06, 0.0926), ("0", 0.105, 9.0)]
    assert frame_phones(intervals, 7) == ["AH", "s", None, "t", "t", "0", "0"]
    assert frame_phones([("x", -1.0, 0.0124)], 2) == [None, None]
    assert frame_phones([], 2) == [None, None]
    # of a model with a frame every 40 ms that sees 720 samples: 22.5, 62.5, 102.5 ms
    slow = {"hop": 640, "receptive_field": 720}
    assert frame_phones([("a", 0.0226, 0.0626), ("b", 0.1, 0.1026)], 3, **slow) == [None, "a", "b"]


def cut(name, phones, start=0.0):
    items = [SimpleNamespace(symbol=s, start=a, end=b) for s, a, b in phones]
    return SimpleNamespace(id=name, supervisions=[SimpleNamespace(start=start, alignment={"phone": items})])


def test_measure_counts_labelled_frames_that_have_a_phone():
    labels = {"a": np.array([0, 0, 1, 1], np.int16), "b": np.array([1, 1], np.int16)}
    targets = Targets(torch.zeros(2, 3), labels, "mfcc", 0)
    cuts = [
        cut("a", [("p", 0.0, 0.04), ("q", 0.04, 0.06)]),  # p p q -
        cut("b", [("q", 0.0, 0.02), ("p", 0.02, 0.04)]),  # q p
        cut("not labelled", [("q", 0.0, 1.0)]),
        SimpleNamespace(id="a", supervisions=[SimpleNamespace(alignment=None)]),
    ]
    expected = quality_of(np.array([[2, 1], [0, 2]]))
    assert measure(cuts, targets) == expected
    assert expected.frames == 5
    assert measure(cuts[3:], targets) is None
