"""Scores from moments are those of `pwcca` on the data, for every pair of epsilons."""

import functools
import operator

import pytest
import torch

from distill.analysis.cca.correlations import pwcca
from distill.analysis.cca.moments import Moments
from distill.analysis.cca.scoring import EPSILONS, score_fold
from distill.errors import UserError

PARTS = {"train": slice(0, 800), "dev": slice(800, 1000), "test": slice(1000, 1200)}


def views(d_x, d_y, *, seed=0):
    """Correlated views with features of very different scale."""
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(1200, 12, generator=generator)
    found = []
    for width in (d_x, d_y):
        mixing = torch.randn(12, width, generator=generator)
        rows = hidden @ mixing + 0.5 * torch.randn(1200, width, generator=generator)
        found.append((rows + 3.0) * torch.logspace(-1, 2, width))
    return found


def labels(n, classes):
    numbers = torch.arange(n) % classes
    return torch.nn.functional.one_hot(numbers, classes).float()


def moments(x, y):
    return {name: Moments.of(x[part], y[part]) for name, part in PARTS.items()}


@pytest.mark.parametrize("definition", ["centred", "reference"])
@pytest.mark.parametrize("shape", [(24, 16), (16, 24), (16, 16)])
def test_every_pair_gives_what_pwcca_gives(shape, definition):
    x, y = views(*shape)
    parts = moments(x, y)
    for pair in EPSILONS[::6]:
        found = score_fold(**parts, epsilons=[pair], definition=definition)
        for name, value in (("test", found.score), ("dev", found.dev_score)):
            expected = pwcca(
                x[PARTS["train"]],
                y[PARTS["train"]],
                x[PARTS[name]],
                y[PARTS[name]],
                epsilon_x=pair[0],
                epsilon_y=pair[1],
                definition=definition,
            )
            assert value == pytest.approx(expected.score, abs=1e-7)


def test_labels_have_a_direction_that_does_not_vary():
    x, _ = views(24, 8)
    y = labels(1200, 10)
    x[:, :10] += 3 * y
    expected = pwcca(x[:800], y[:800], x[1000:], y[1000:], epsilon_x=1e-8, epsilon_y=1e-8)
    assert score_fold(**moments(x, y), epsilons=[(1e-8, 1e-8)]).score == pytest.approx(
        expected.score, abs=1e-6
    )


def test_the_pair_that_is_best_on_dev_is_tested():
    x, y = views(24, 16)
    found = [score_fold(**moments(x, y), epsilons=[pair]) for pair in EPSILONS]
    best = score_fold(**moments(x, y))
    assert best.dev_score == pytest.approx(max(each.dev_score for each in found), abs=1e-12)
    assert (best.epsilon_x, best.epsilon_y) in EPSILONS and best in found


def test_constant_features_are_left_out():
    x, y = views(24, 16)
    wider = torch.cat([x, torch.full((1200, 2), 7.0)], dim=1)
    assert score_fold(**moments(wider, y)).score == pytest.approx(score_fold(**moments(x, y)).score, abs=1e-9)
    with pytest.raises(UserError, match="layer 3: all features are constant"):
        score_fold(**moments(torch.ones(1200, 4), y), name="layer 3")


def test_too_few_instances_are_refused():
    x, y = views(24, 16)
    few = [Moments.of(x[:n], y[:n]) for n in (24, 100, 10)]
    with pytest.raises(UserError, match="24 training instances are too few for 24 dimensions: at least 25"):
        score_fold(few[0], few[1], few[1])
    with pytest.raises(UserError, match="dev part: 10 held-out instances are too few for 16"):
        score_fold(few[1], few[2], few[1])


def test_independent_views_share_nothing():
    x, _ = views(24, 16)
    _, y = views(24, 16, seed=1)
    assert abs(score_fold(**moments(x, y)).score) < 0.1


def test_pieces_of_float32_frames_far_from_zero():
    x, y = views(24, 16)
    x = x + 1e3
    pieces = [Moments.of(a, b) for a, b in zip(x[:800].split(33), y[:800].split(33), strict=True)]
    whole = moments(x, y)
    parts = whole | {"train": functools.reduce(operator.add, pieces)}
    assert score_fold(**parts).score == pytest.approx(score_fold(**whole).score, abs=1e-9)
