"""The number behind a picture of t-SNE, on points whose ratio is known."""

import numpy as np
import pytest
from scipy.spatial.distance import pdist
from scipy.stats import ortho_group

from distill.analysis.separation import Separation, separation


def made(shift: float, *, noise: float = 0.0, splits: int = 40, dim: int = 16, seed: int = 0):
    """Splits that are `shift` times their mean distance away under the second condition."""
    generator = np.random.default_rng(seed)
    clean = generator.standard_normal((splits, dim))
    way = generator.standard_normal(dim)
    moved = clean + shift * pdist(clean).mean() * way / np.linalg.norm(way)
    return {"clean": clean, "fsd": moved + noise * generator.standard_normal((splits, dim))}


@pytest.mark.parametrize("shift", [0.0, 0.25, 1.0, 3.0])
def test_a_known_ratio_is_found(shift):
    found = separation(made(shift))
    assert found.ratio == pytest.approx(shift)
    assert found.within == pytest.approx(shift * found.between)
    assert found.low is not None and found.high is not None
    assert found.low <= found.ratio <= found.high


def test_three_conditions_on_a_line():
    """Splits at 0 and 1 (distance 1); conditions at 0, 0.1 and 0.4: pairs are 0.1, 0.3 and 0.4 apart."""
    splits = np.array([[0.0, 0.0], [1.0, 0.0]])
    points = {name: splits + [0.0, way] for name, way in (("clean", 0.0), ("musan", 0.1), ("dns", 0.4))}
    found = separation(points)
    assert found.ratio == pytest.approx((0.1 + 0.3 + 0.4) / 3)
    assert found.low is None and found.high is None  # of two splits
    assert str(found) == "0.27"


def test_scale_shift_and_rotation_do_not_matter():
    points = made(0.4, noise=0.3)
    turn = ortho_group.rvs(16, random_state=1)
    expected = separation(points)
    for changed in (
        {name: 1000 * z for name, z in points.items()},
        {name: 1e-4 * z for name, z in points.items()},
        {name: z + 7 for name, z in points.items()},
        {name: z @ turn for name, z in points.items()},
        dict(reversed(points.items())),
    ):
        found = separation(changed)
        assert (found.ratio, found.low, found.high) == pytest.approx(
            (expected.ratio, expected.low, expected.high)
        )


def test_the_interval_is_that_of_repeated_test_sets():
    """It has about the width that the ratio varies by over other speech, and mostly covers the true one."""
    found = [separation(made(0.5, noise=0.8, splits=30, seed=seed), rounds=500) for seed in range(60)]
    ratios = np.array([each.ratio for each in found])
    low, high = (np.array([getattr(each, end) for each in found]) for end in ("low", "high"))
    true = separation(made(0.5, noise=0.8, splits=1500, seed=99), rounds=2).ratio
    assert 0.8 <= ((low <= true) & (true <= high)).mean() <= 1.0
    assert np.mean(high - low) == pytest.approx(4 * ratios.std(), rel=0.4)


def test_a_split_is_not_compared_with_copies_of_itself():
    """Else all draws would lie below the ratio: every fourth pair would be of the same split."""
    corners = np.eye(10)  # all pairs have the same distance
    found = separation({"clean": corners, "fsd": corners + 0.3})
    assert found.low == pytest.approx(found.ratio) == pytest.approx(found.high)


def test_a_representation_of_nothing_has_no_ratio():
    constant = np.full((12, 4), 0.3)
    found = separation({"clean": constant, "fsd": constant + 1e-9})
    assert found.ratio is found.low is found.high is None and str(found) == "undefined"


def test_draws_are_the_same_for_all_models():
    points = made(0.5, noise=0.5)
    assert separation(points) == separation(points)
    assert separation(points, seed=1).low != separation(points).low


@pytest.mark.parametrize(
    "points",
    [
        {"clean": np.zeros((3, 2))},
        {"clean": np.zeros((1, 2)), "fsd": np.ones((1, 2))},
        {"clean": np.zeros((3, 2)), "fsd": np.full((3, 2), np.nan)},
    ],
)
def test_what_cannot_be_compared_is_refused(points):
    with pytest.raises(ValueError, match="at least 2 each, all finite"):
        separation(points)


def test_numbers_are_written_with_two_digits():
    made_up = {"within": 1.0, "between": 1.0}
    assert str(Separation(ratio=0.3149, low=0.2851, high=0.349, **made_up)) == "0.31 [0.29, 0.35]"
    assert str(Separation(ratio=0.003149, low=0.002851, high=0.00349, **made_up)) == "0.0031 [0.0029, 0.0035]"
    assert str(Separation(ratio=0.0199, low=0.0195, high=0.0203, **made_up)) == "0.020 [0.019, 0.020]"
    assert str(Separation(ratio=0.0, low=0.0, high=0.0, **made_up)) == "0.00 [0.00, 0.00]"
    assert str(Separation(ratio=12.3, low=None, high=None, **made_up)) == "12.30"
