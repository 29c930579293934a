"""The fast search against a loop over `pwcca`."""

import numpy as np
import pytest
import torch

from distill.analysis.cca import EPSILONS, FoldScore, Split, cross_validate, pwcca
from distill.analysis.cca.scoring import TIE
from distill.errors import UsageError, UserError

N, CLASSES = 400, 6
EVERY = [(1e-9, 1e-9), (1e-5, 1e-7), (1e-3, 1e-5), (1e-5, 1e-2), (1e-1, 1e-2)]
"""Pairs that keep different features."""


@pytest.fixture(scope="module")
def labels():
    return np.random.default_rng(0).permutation(np.arange(N) % CLASSES)


@pytest.fixture(scope="module")
def splits():
    order = np.array_split(np.random.default_rng(1).permutation(N), 10)
    return [
        Split(
            np.concatenate([*order[: 2 * first], *order[2 * first + 2 :]]), *order[2 * first : 2 * first + 2]
        )
        for first in range(3)
    ]


def view_of(labels, width, seed):
    """Features that know about labels, of very different variances."""
    rng = np.random.default_rng(seed)
    known = np.eye(CLASSES)[labels] @ rng.standard_normal((CLASSES, width))
    rows = (known + rng.standard_normal((N, width))) * np.geomspace(1, 0.05, width) + 3.0
    return torch.from_numpy(rows.astype(np.float32))


@pytest.fixture(scope="module")
def layers(labels):
    widths = {"cnn": 12, "1": 20, "2": 20, "3": 20, "narrow": 4, "equal": CLASSES}
    return {name: view_of(labels, width, seed) for seed, (name, width) in enumerate(widths.items())}


def loop(layers, y, splits, epsilons, definition):
    """The same, step by step."""
    found = {}
    for name, x in layers.items():
        found[name] = []
        for split in splits:
            train, best = (x[split.train], y[split.train]), None
            for epsilon_x, epsilon_y in epsilons:
                options = {"epsilon_x": epsilon_x, "epsilon_y": epsilon_y, "definition": definition}
                dev = pwcca(*train, x[split.dev], y[split.dev], **options).score
                if best is None or dev > best.dev_score + TIE:
                    test = pwcca(*train, x[split.test], y[split.test], **options).score
                    best = FoldScore(test, dev, epsilon_x, epsilon_y)
            found[name].append(best)
    return found


def assert_same(found, wanted):
    assert list(found) == list(wanted)
    for name, folds in wanted.items():
        for one, other in zip(found[name], folds, strict=True):
            assert one.score == pytest.approx(other.score, abs=1e-7), name
            assert one.dev_score == pytest.approx(other.dev_score, abs=1e-7), name
            assert (one.epsilon_x, one.epsilon_y) == (other.epsilon_x, other.epsilon_y), name


@pytest.mark.parametrize("definition", ["centred", "reference"])
def test_scores_are_those_of_a_loop(layers, labels, splits, definition):
    y = view_of(labels, CLASSES, 99)
    wanted = loop(layers, y, splits, EVERY, definition)
    assert_same(cross_validate(layers, y, splits, epsilons=EVERY, definition=definition), wanted)


@pytest.mark.parametrize("pair", EVERY)
@pytest.mark.parametrize("definition", ["centred", "reference"])
def test_scores_are_those_of_a_loop_for_every_pair(layers, labels, splits, definition, pair):
    y = view_of(labels, CLASSES, 99)
    wanted = loop(layers, y, splits[:1], [pair], definition)
    assert_same(cross_validate(layers, y, splits[:1], epsilons=[pair], definition=definition), wanted)


def test_labels_with_a_direction_that_does_not_vary(layers, labels, splits):
    y = torch.from_numpy(np.eye(CLASSES)[labels])
    few = {name: layers[name] for name in ("cnn", "narrow")}
    assert_same(cross_validate(few, y, splits), loop(few, y, splits, EPSILONS, "centred"))


def test_epsilons_are_the_papers():
    assert len(EPSILONS) == len(set(EPSILONS)) == 25
    assert EPSILONS[0] == (1e-11, 1e-11) and EPSILONS[9] == (1e-8, 1e-8) and EPSILONS[-1] == (1e-5, 1e-5)


def test_of_equal_pairs_the_first_is_taken(layers, splits):
    pairs = [(1e-9, 1e-9), (1e-11, 1e-11), (1e-10, 1e-9)]
    found = cross_validate({"1": layers["1"]}, layers["1"], splits, epsilons=pairs)
    for fold in found["1"]:
        assert fold.score == pytest.approx(1) and fold.epsilon_x == 1e-9


def changed(layers, row, column, value):
    layer = layers["1"].clone()
    layer[row, column] = value
    return {**layers, "1": layer}


def test_bad_layers_are_named(layers, labels, splits):
    y = view_of(labels, CLASSES, 99)
    with pytest.raises(UserError, match="layer 1: NaN or infinite values in 1 of 400 rows: number 3"):
        cross_validate(changed(layers, 3, 2, float("nan")), y, splits)
    with pytest.raises(
        UserError, match="layer 1, training part of split 1: 1 of 20 features are constant: 5"
    ):
        cross_validate(changed(layers, slice(None), 5, 1.0), y, splits)
    with pytest.raises(UserError, match="layer 1 has 399 rows and y 400"):
        cross_validate({**layers, "1": layers["1"][:-1]}, y, splits)
    with pytest.raises(UserError, match="layer 1, test part of split 2: all rows are alike"):
        cross_validate(changed(layers, splits[1].test, slice(None), 1.0), y, splits)
    wide = torch.randn(N, 330, generator=torch.Generator().manual_seed(0))
    with pytest.raises(
        UserError, match="320 training instances are too few for 330 dim.*least 331 are needed"
    ):
        cross_validate({"wide": wide}, y, splits)
    with pytest.raises(UserError, match="y, training part of split 1: 320 .* too few for 330"):
        cross_validate(layers, wide, splits)
    with pytest.raises(
        UserError, match="layer a, dev part of split 1: 40 held-out .* 50 directions: at least 51"
    ):
        cross_validate({"a": wide[:, :50]}, wide[:, :60], splits)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dev": np.array([N])}, "split 1: dev names row 400; y has 400 rows"),
        ({"dev": np.array([-1])}, "split 1: dev names row -1"),
        ({"dev": np.array([0.5])}, "split 1: dev must be a list of row numbers"),
        ({"dev": None}, "split 1: rows that are used twice"),
    ],
)
def test_splits_that_make_no_sense_are_refused(layers, labels, splits, change, message):
    first = splits[0]
    wrong = Split(first.train, first.dev, first.test)
    for name, rows in change.items():
        object.__setattr__(wrong, name, first.train[:50] if rows is None else rows)
    with pytest.raises(UsageError, match=message):
        cross_validate(layers, view_of(labels, CLASSES, 99), [wrong])


def test_nothing_to_do_is_said(layers, labels, splits):
    y = view_of(labels, CLASSES, 99)
    for arguments, options in (
        (({}, y, splits), {}),
        ((layers, y, []), {}),
        ((layers, y, splits), {"epsilons": []}),
    ):
        with pytest.raises(UsageError, match="nothing to score"):
            cross_validate(*arguments, **options)
    with pytest.raises(UsageError, match="unknown definition"):
        cross_validate(layers, y, splits, definition="other")
