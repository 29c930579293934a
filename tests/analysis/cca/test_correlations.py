"""Canonical correlations against the reference's outputs, scipy, closed forms and invariances."""

import numpy as np
import pytest
import scipy.linalg
import torch

from distill.analysis.cca import pwcca
from distill.errors import UsageError, UserError
from tests.paths import GOLDEN

TINY = {"epsilon_x": 1e-13, "epsilon_y": 1e-13}


def views(n=600, d_x=6, d_y=4, noise=0.5, seed=0):
    """Views that share directions of different strengths."""
    rng = np.random.default_rng(seed)
    shared = rng.standard_normal((n, d_y)) * np.linspace(2.0, 0.2, d_y)
    x = np.hstack([shared, np.zeros((n, d_x - d_y))]) + noise * rng.standard_normal((n, d_x)) + 1.0
    return x, shared @ rng.standard_normal((d_y, d_y)) + noise * rng.standard_normal((n, d_y)) - 2.0


def parts(x, y, n_train=400):
    return x[:n_train], y[:n_train], x[n_train:], y[n_train:]


def naive_centred(x, y, scale_of=None):
    """The score of a part along the directions learnt from `scale_of`, both views wide enough, y narrower."""
    a, b = scale_of or (x, y)
    a, b = a - a.mean(0), b - b.mean(0)
    q_a, r_a = np.linalg.qr(a)
    q_b, r_b = np.linalg.qr(b)
    u, _, vh = np.linalg.svd(q_a.T @ q_b, full_matrices=False)
    p = (x - x.mean(0)) @ np.linalg.solve(r_a, u)
    q = (y - y.mean(0)) @ np.linalg.solve(r_b, vh.T)
    rho = np.array([np.corrcoef(one, other)[0, 1] for one, other in zip(p.T, q.T, strict=True)])
    orthonormal, _ = np.linalg.qr(q)
    weights = np.abs(orthonormal.T @ (y - y.mean(0))).sum(1)
    return float(weights @ rho / weights.sum()), rho


@pytest.mark.parametrize(("name", "tolerance"), [("mel", 1e-6), ("square", 1e-6), ("phone", 1e-3)])
def test_the_reference_is_met(name, tolerance):
    golden = np.load(GOLDEN / f"cca_{name}.npz")
    n, epsilon = int(golden["n_train"]), float(golden["eps"])
    views = parts(golden["X"], golden["Y"], n)
    found = pwcca(*views, epsilon_x=epsilon, epsilon_y=epsilon, definition="reference")
    real = golden["train_correlations"] > 1e-6  # the last of `phone` is rounding
    for ours, theirs in (
        (found.train_correlations, golden["train_correlations"]),
        (found.heldout_correlations, golden["heldout_correlations"]),
    ):
        np.testing.assert_allclose(ours[real], theirs[real], atol=1e-6, rtol=0)
    assert abs(found.train_score - golden["train_pwcca"]) < 1e-6
    assert abs(found.score - golden["heldout_pwcca"]) < tolerance


def test_training_correlations_are_cosines_of_the_angles_between_the_views():
    x, y = views()
    found = pwcca(*parts(x, y), **TINY)
    angles = scipy.linalg.subspace_angles(x[:400] - x[:400].mean(0), y[:400] - y[:400].mean(0))
    np.testing.assert_allclose(found.train_correlations, np.sort(np.cos(angles))[::-1], atol=1e-9)


def test_one_dimension_is_pearson():
    x, y = views(d_x=1, d_y=1)
    found = pwcca(*parts(x, y), **TINY)
    sign = np.sign(np.corrcoef(x[:400, 0], y[:400, 0])[0, 1])
    assert found.score == pytest.approx(sign * np.corrcoef(x[400:, 0], y[400:, 0])[0, 1], abs=1e-12)


def test_the_score_is_that_of_a_formulation_by_qr():
    x, y = views()
    found = pwcca(*parts(x, y), **TINY)
    score, rho = naive_centred(x[400:], y[400:], (x[:400], y[:400]))
    np.testing.assert_allclose(found.heldout_correlations, rho, atol=1e-9)
    assert found.score == pytest.approx(score, abs=1e-9)
    assert found.train_score == pytest.approx(naive_centred(x[:400], y[:400])[0], abs=1e-9)


def test_linear_maps_and_shifts_change_no_correlation():
    x, y = views()
    rng = np.random.default_rng(1)
    moved = x @ rng.standard_normal((6, 6)) + 5.0
    one, other = pwcca(*parts(x, y), **TINY), pwcca(*parts(moved, y), **TINY)
    np.testing.assert_allclose(one.train_correlations, other.train_correlations, atol=1e-8)
    np.testing.assert_allclose(one.heldout_correlations, other.heldout_correlations, atol=1e-8)
    assert one.score == pytest.approx(other.score, abs=1e-8)  # weighted in y, which did not move


@pytest.mark.parametrize("factor", [1e-60, 1e-3, 1e60])
def test_scale_and_origin_are_free(factor):
    x, y = views()
    epsilons = {"epsilon_x": 1e-3, "epsilon_y": 1e-2}
    one = pwcca(*parts(x, y), **epsilons)
    other = pwcca(*parts(factor * (x - 7.0), 3.0 * factor * y), **epsilons)
    assert one.score == pytest.approx(other.score, abs=1e-9)


def test_the_definitions_agree_where_the_means_are_zero():
    x, y = views()
    centred = [part - part.mean(0) for part in parts(x, y)]
    epsilons = {"epsilon_x": 1e-6, "epsilon_y": 1e-6}
    one = pwcca(*parts(x, y), **epsilons)
    other = pwcca(*centred, **epsilons, definition="reference")
    assert one.score == pytest.approx(other.score, abs=1e-9)
    shifted = pwcca(*parts(x, y), **epsilons, definition="reference")
    assert abs(one.score - shifted.score) > 1e-3


def test_weights_are_of_the_view_with_fewer_dimensions():
    x, y = views()
    one = pwcca(*parts(x, y), epsilon_x=1e-5, epsilon_y=1e-7)
    other = pwcca(*parts(y, x), epsilon_x=1e-7, epsilon_y=1e-5)
    assert one.score == pytest.approx(other.score, abs=1e-9)


def test_independent_views_share_nothing_though_training_says_so():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((400, 60)), rng.standard_normal((400, 50))
    found = pwcca(*parts(x, y, 62), epsilon_x=1e-9, epsilon_y=1e-9)
    assert found.train_score > 0.97  # perfect but for the last direction
    assert abs(found.score) < 0.05


def test_a_view_of_itself_is_the_same():
    x, _ = views()
    assert pwcca(*parts(x, x), **TINY).score == pytest.approx(1.0, abs=1e-9)


def test_features_below_epsilon_are_dropped():
    x, y = views()
    x = np.hstack([x, 1e-4 * np.random.default_rng(2).standard_normal((len(x), 1))])
    epsilons = {"epsilon_x": 1e-6, "epsilon_y": 1e-6}
    with_it, without = pwcca(*parts(x, y), **epsilons), pwcca(*parts(x[:, :-1], y), **epsilons)
    assert with_it.score == pytest.approx(without.score, abs=1e-12)


def test_directions_without_variance_have_no_correlation_and_no_weight():
    rng = np.random.default_rng(0)
    labels = np.tile(np.arange(5), 120)
    x = np.eye(5)[labels] @ rng.standard_normal((5, 8)) + 0.5 * rng.standard_normal((600, 8))
    epsilons = {"epsilon_x": 1e-7, "epsilon_y": 1e-7}
    found = pwcca(*parts(x, np.eye(5)[labels]), **epsilons)
    fewer = pwcca(*parts(x, np.eye(5)[labels][:, 1:]), **epsilons)
    assert found.train_correlations[-1] == found.heldout_correlations[-1] == 0
    np.testing.assert_allclose(found.heldout_correlations[:4], fewer.heldout_correlations, atol=1e-5)
    absent = labels[400:] != 3
    odd = pwcca(
        x[:400], np.eye(5)[labels[:400]], x[400:][absent], np.eye(5)[labels[400:]][absent], **epsilons
    )
    assert np.isfinite(odd.score)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.int64, torch.bool])
def test_types_are_read_and_torch_is_numpy(dtype):
    x, y = (torch.from_numpy(view).mul(3).round() for view in views())
    x, y = x.clamp(0, 1).to(dtype), y.clamp(0, 1).to(dtype)
    epsilons = {"epsilon_x": 1e-6, "epsilon_y": 1e-6}
    one = pwcca(*parts(x, y), **epsilons)
    other = pwcca(*parts(x.double().numpy(), y.double().numpy()), **epsilons)
    assert one.score == other.score


GOOD = parts(*views())


def changed(place, change):
    arrays = [part.copy() for part in GOOD]
    arrays[place] = change(arrays[place])
    return arrays


def with_value(value, row, column):
    def change(part):
        part[row, column] = value
        return part

    return change


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (
            parts(*views(), n_train=6),
            "6 training instances are too few for 6 dimensions: at least 7",
        ),
        (parts(*views(d_x=1, d_y=1), n_train=1), "at least 2 are needed"),
        (parts(*views(), n_train=597), "3 held-out instances are too few for 4 directions: at least 5"),
        (
            changed(0, with_value(1.0, slice(None), [2, 4])),
            "x_train: 2 of 6 features are constant: 2, 4",
        ),
        (changed(3, with_value(np.nan, 7, 1)), "y_test: NaN or infinite values in 1 of 200 rows: number 7"),
        (changed(0, with_value(np.inf, 9, 1)), "x_train: NaN or infinite values in 1 of 400 rows: number 9"),
        (changed(1, lambda part: part[:-1]), "x_train has 400 rows and y_train 399"),
        (changed(2, lambda part: part[:-1]), "x_test has 199 rows and y_test 200"),
        (changed(2, lambda part: part[:, 1:]), "x_train has 6 features and x_test 5"),
        (changed(3, with_value(1.0, slice(None), slice(None))), "y_test: all rows are alike"),
        (changed(0, lambda part: part * 1e200), "x_train: .* is beyond float64"),
        (changed(0, lambda part: part * 1e-200), "x_train: .* is beyond float64"),
        (changed(0, lambda part: part[:, 0]), r"\(instances, features\), not .* \(400,\)"),
        (changed(0, lambda part: part[:, :0]), "x_train has 0 features and x_test 6"),
        ([part[:, :0] for part in GOOD], "x_train has no features"),
        (changed(0, lambda part: part.astype(complex)), "must be real"),
    ],
)
def test_data_that_teach_nothing_are_refused(arrays, message):
    with pytest.raises(UserError, match=message) as caught:
        pwcca(*arrays, **TINY)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epsilon_x": 0.0}, "epsilon_x must be between 0 and 1"),
        ({"epsilon_y": -1e-5}, "epsilon_y must be between 0 and 1"),
        ({"epsilon_y": float("nan")}, "epsilon_y must be between 0 and 1"),
        ({"epsilon_x": 2.0}, "epsilon_x must be between 0 and 1"),
        ({"definition": "clean"}, "unknown definition 'clean': choose centred or reference"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        pwcca(*GOOD, **{**TINY, **options})
