"""Projection-weighted canonical correlations of two views (Morcos et al. 2018), held out.

Shapes: n instances, D features of a view, k directions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from distill.errors import UsageError, UserError, listed

Definition = Literal["centred", "reference"]
"""How directions are weighted; see `pwcca`."""
Array = np.ndarray | Tensor
NULL = 1e-10
"""A projection that varies less than this, relative to its direction's length times the deviation of the
view's widest feature, is rounding: that of float64 data is near 1e-15, of float32 data 1e-7."""


@dataclass(frozen=True)
class CcaResult:
    """How much two views share."""

    score: float
    """Mean of the held-out correlations, weighted by how much of the lower-dimensional view they explain."""
    train_score: float
    """The same of the training part: optimistic, 1 when there are hardly more instances than features."""
    train_correlations: np.ndarray
    """(k,), descending but for what epsilon does; k is the lower number of dimensions."""
    heldout_correlations: np.ndarray
    """(k,), along the same directions; negative where what was learnt does not hold."""


@dataclass(frozen=True)
class Directions:
    """Pairs of directions learnt from a training part, for centred data."""

    kept_x: Tensor
    """(D_x,) bool: features that vary enough."""
    kept_y: Tensor
    x: Tensor
    """(kept D_x, k)."""
    y: Tensor
    scale_x: float
    """The largest variance of the training part."""
    scale_y: float


@torch.no_grad()
def pwcca(
    x_train: Array,
    y_train: Array,
    x_test: Array,
    y_test: Array,
    *,
    epsilon_x: float,
    epsilon_y: float,
    definition: Definition = "centred",
) -> CcaResult:
    """Projection-weighted CCA: directions from the training part, correlations from the held-out part.

    Each view's covariance S is divided by its largest entry; features of variance below epsilon are dropped;
    the directions are singular vectors of (S_x + epsilon_x I)^(-1/2) S_xy (S_y + epsilon_y I)^(-1/2), mapped
    back to the features. Each part is centred on its own mean. The score is sum_i a_i rho_i / sum_i a_i,
    with a_i = sum_j |<q_i, f_j>|: f_j are the features of the view with fewer dimensions (of equals, y), q_i
    its projections, made orthonormal in the order of the training correlations.

    A direction along which a part does not vary has correlation 0. Of one-hot labels there is always one; by
    rounding it decides over signs, so that "reference" is then reproducible to some 1e-3 only.

    Args:
        x_train: (n, D_x), any real type; computed in float64 where x_train is.
        y_train: (n, D_y), row by row the same instances.
        x_test: (m, D_x), the held-out part.
        y_test: (m, D_y).
        epsilon_x: regularises x; relative to its largest variance.
        epsilon_y: regularises y.
        definition: "centred": features and projections are centred. "reference": as the code of Pasad et al.
            2023 does it: features are not centred and the i-th projection is shifted by the i-th feature's
            mean, so that the score depends on where the origin is and on the signs of singular vectors.

    Raises:
        UserError: for data from which nothing can be learnt: too few rows, constant or non-finite features.
        UsageError: for arguments that make no sense.
    """
    check_options([(epsilon_x, epsilon_y)], definition)
    device = float64_device(x_train)
    x, y = as_rows(x_train, "x_train", device), as_rows(y_train, "y_train", device)
    x_held, y_held = as_rows(x_test, "x_test", device), as_rows(y_test, "y_test", device)
    check_same_rows(x, y, "x_train", "y_train")
    check_same_rows(x_held, y_held, "x_test", "y_test")
    for name, train, held in (("x", x, x_held), ("y", y, y_held)):
        if train.shape[1] != held.shape[1]:
            raise UserError(
                f"{name}_train has {train.shape[1]} features and {name}_test {held.shape[1]}: "
                "both must be the same view"
            )
        check_enough(len(train), train.shape[1], f"{name}_train")
        check_varying(train, f"{name}_train")
        check_heldout(len(held), min(x.shape[1], y.shape[1]), f"{name}_test")
        check_varied(held, f"{name}_test")
    directions = fit(x, y, epsilon_x, epsilon_y)
    train_score, train_correlations = _evaluate(directions, x, y, definition)
    score, heldout_correlations = _evaluate(directions, x_held, y_held, definition)
    return CcaResult(score, train_score, train_correlations.cpu().numpy(), heldout_correlations.cpu().numpy())


def fit(x: Tensor, y: Tensor, epsilon_x: float, epsilon_y: float) -> Directions:
    """Learn directions from checked float64 data.

    Args:
        x: (n, D_x).
        y: (n, D_y).
        epsilon_x: regularises x.
        epsilon_y: regularises y.
    """
    x, y = x - x.mean(0), y - y.mean(0)
    n = len(x) - 1
    scale_x, kept_x, whiten_x = _whitening(x.T @ x / n, epsilon_x, "x_train")
    scale_y, kept_y, whiten_y = _whitening(y.T @ y / n, epsilon_y, "y_train")
    cross = x[:, kept_x].T @ y[:, kept_y] / n / math.sqrt(scale_x * scale_y)
    u, _, vh = singular(whiten_x @ cross @ whiten_y)
    return Directions(kept_x, kept_y, whiten_x @ u, whiten_y @ vh.mT, scale_x, scale_y)


def _whitening(covariance: Tensor, epsilon: float, name: str) -> tuple[float, Tensor, Tensor]:
    """Largest variance; which features are kept, (D,); (S + epsilon I)^(-1/2) of those, symmetric."""
    scale = float(covariance.diagonal().max())  # no covariance is larger
    check_scale(scale, name)
    covariance = covariance / scale
    kept = covariance.diagonal() >= epsilon
    values, vectors = torch.linalg.eigh(covariance[kept][:, kept])
    return scale, kept, vectors * inverse_root(values, epsilon) @ vectors.mT


def inverse_root(eigenvalues: Tensor, epsilon: float | Tensor) -> Tensor:
    """(w + epsilon)^(-1/2); eigenvalues that rounding made negative are 0."""
    return (eigenvalues.clamp(min=0) + epsilon).rsqrt()


def singular(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Thin SVD of matrices (..., r, c), by LAPACK: "reference" depends on the signs that it chooses."""
    u, s, vh = torch.linalg.svd(matrix.cpu(), full_matrices=False)
    return u.to(matrix.device), s.to(matrix.device), vh.to(matrix.device)


def _evaluate(d: Directions, x: Tensor, y: Tensor, definition: Definition) -> tuple[float, Tensor]:
    """Score and correlations (k,) of a part of the data, x (n, D_x) and y (n, D_y)."""
    x, y = x[:, d.kept_x], y[:, d.kept_y]
    centred_x, centred_y = x - x.mean(0), y - y.mean(0)
    p, q = centred_x @ d.x, centred_y @ d.y
    root = math.sqrt(len(x) - 1)
    floor_x = NULL * root * math.sqrt(d.scale_x) * d.x.norm(dim=0)
    floor_y = NULL * root * math.sqrt(d.scale_y) * d.y.norm(dim=0)
    correlations, null_x, null_y = correlate((p * q).sum(0), p.norm(dim=0), q.norm(dim=0), floor_x, floor_y)
    narrow_x = x.shape[1] < y.shape[1]
    rows, centred, projected, null = (x, centred_x, p, null_x) if narrow_x else (y, centred_y, q, null_y)
    if definition == "reference":
        weights = importance(projected + rows.mean(0), rows)
    else:
        weights = importance(projected, centred, null)
    return float((weights * correlations).sum()), correlations


def correlate(
    products: Tensor, norm_x: Tensor, norm_y: Tensor, floor_x: Tensor, floor_y: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Correlations of centred projections, and which projections do not vary in x and in y, all (..., k).

    Args:
        products: inner products of the pairs.
        norm_x: lengths of the projections of x.
        norm_y: of y.
        floor_x: shorter ones are rounding.
        floor_y: of y.
    """
    null_x, null_y = norm_x <= floor_x, norm_y <= floor_y
    null = null_x | null_y
    return torch.where(null, 0.0, products / torch.where(null, 1.0, norm_x * norm_y)), null_x, null_y


def importance(projections: Tensor, features: Tensor, null: Tensor | None = None) -> Tensor:
    """How much of the features each direction accounts for: (..., k), sums to 1, or 0 if all are null.

    Args:
        projections: (..., n, k); made orthonormal from the first to the last.
        features: (..., n, D).
        null: (..., k) bool: those that do not vary. They come last and have no weight.
    """
    if null is None:
        null = torch.zeros_like(projections[..., 0, :], dtype=torch.bool)
    order = null.long().argsort(dim=-1, stable=True)
    q, _ = torch.linalg.qr(projections.gather(-1, order[..., None, :].expand_as(projections)))
    weights = torch.zeros_like(order, dtype=q.dtype).scatter(-1, order, (q.mT @ features).abs().sum(-1))
    weights = weights.masked_fill(null, 0.0)
    total = weights.sum(-1, keepdim=True)
    return weights / torch.where(total > 0, total, 1.0)  # all are null: so are all correlations


def check_options(epsilons: Sequence[tuple[float, float]], definition: str) -> None:
    """Refuse what no data can help.

    Raises:
        UsageError: naming it.
    """
    if definition not in get_args(Definition):
        raise UsageError(f"unknown definition {definition!r}: choose {' or '.join(get_args(Definition))}")
    for pair in epsilons:
        for name, epsilon in zip(("epsilon_x", "epsilon_y"), pair, strict=True):
            if not 0 < epsilon < 1:
                raise UsageError(
                    f"{name} must be between 0 and 1, the largest variance after scaling, not {epsilon}"
                )


def float64_device(values: Array) -> torch.device:
    """Where to compute."""
    device = values.device if isinstance(values, Tensor) else torch.device("cpu")
    return torch.device("cpu") if device.type == "mps" else device  # which has no float64


def as_rows(values: Array, name: str, device: torch.device) -> Tensor:
    """(n, D) float64 of whatever holds real, finite numbers.

    Raises:
        UserError: naming the rows that are not finite.
    """
    rows = torch.as_tensor(values)
    if rows.ndim != 2 or rows.is_complex():
        raise UsageError(
            f"{name} must be real and (instances, features), not {rows.dtype} {tuple(rows.shape)}"
        )
    rows = rows.detach().to(device, torch.float64)
    finite = rows.isfinite().all(1)
    if not finite.all():
        bad = (~finite).nonzero().flatten().tolist()
        raise UserError(
            f"{name}: NaN or infinite values in {len(bad)} of {len(rows)} rows: number {listed(bad)}"
        )
    return rows


def check_same_rows(x: Tensor, y: Tensor, name_x: str, name_y: str) -> None:
    """Refuse views of different instances.

    Raises:
        UserError: saying how many each has.
    """
    if len(x) != len(y):
        raise UserError(f"{name_x} has {len(x)} rows and {name_y} {len(y)}: rows must be the same instances")


def check_enough(n_rows: int, n_features: int, name: str) -> None:
    """Refuse fewer training instances than dimensions: any two such views correlate perfectly.

    Raises:
        UserError: saying how many are needed.
    """
    if not n_features:
        raise UserError(f"{name} has no features")
    if n_rows <= n_features or n_rows < 2:
        raise UserError(
            f"{name}: {n_rows} training instances are too few for {n_features} dimensions: "
            f"at least {max(n_features + 1, 2)} are needed"
        )


def check_heldout(n_rows: int, n_directions: int, name: str) -> None:
    """Refuse fewer held-out instances than directions: the last ones could have no weight.

    Raises:
        UserError: saying how many are needed.
    """
    if n_rows <= n_directions:
        raise UserError(
            f"{name}: {n_rows} held-out instances are too few for {n_directions} directions: "
            f"at least {n_directions + 1} are needed"
        )


def check_varying(rows: Tensor, name: str) -> None:
    """Refuse constant features.

    Raises:
        UserError: naming them.
    """
    constant = (rows.amax(0) == rows.amin(0)).nonzero().flatten().tolist()
    if constant:
        raise UserError(
            f"{name}: {len(constant)} of {rows.shape[1]} features are constant: {listed(constant)}, "
            "counted from 0; leave them out (of labels: those that every instance has, or none)"
        )


def check_varied(rows: Tensor, name: str) -> None:
    """Refuse held-out rows that are all the same.

    Raises:
        UserError: naming the view.
    """
    if bool((rows == rows[:1]).all()):
        raise UserError(f"{name}: all rows are alike, so that nothing correlates with them")


def check_scale(variance: float, name: str) -> None:
    """Refuse numbers whose squares float64 cannot hold.

    Raises:
        UserError: naming the view.
    """
    if not 1e-280 < variance < 1e280:
        raise UserError(f"{name}: a largest variance of {variance:g} is beyond float64: rescale the features")
