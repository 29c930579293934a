"""The score of a layer from moments: epsilons chosen on dev, score on test.

The same as `pwcca` for every pair of epsilons, but the eigenvectors of the training covariances, and what is
made of them alone, are computed once for all pairs.

Shapes: D_x, D_y features of the views, k directions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from distill.analysis.cca.correlations import (
    Definition,
    check_enough,
    check_heldout,
    check_options,
    check_scale,
    inverse_root,
    singular,
)
from distill.analysis.cca.moments import Moments
from distill.errors import UserError

EPSILONS: tuple[tuple[float, float], ...] = tuple(
    (x, y) for grid in ((1e-11, 1e-10, 1e-9), (1e-8, 1e-7, 1e-6, 1e-5)) for x in grid for y in grid
)
"""Pairs for the layer and for what it is compared with, relative to the largest variance (Pasad et al.)."""
TIE = 1e-9
"""Scores on dev that differ by less are equal: rounding must not choose."""
_NULL = 1e-7
"""A projection that varies less than this, relative to its direction's length times the deviation of the
view's widest feature, is rounding: of the square root of a sum in float64, and of float32 data."""


@dataclass(frozen=True)
class FoldScore:
    """One choice of training, dev and test part."""

    score: float
    """PWCCA similarity of the test part."""
    dev_score: float
    """Of the dev part: the highest of all pairs of epsilons."""
    epsilon_x: float
    """The chosen pair; of equally good ones the first."""
    epsilon_y: float


@torch.no_grad()
def score_fold(
    train: Moments,
    dev: Moments,
    test: Moments,
    *,
    epsilons: Sequence[tuple[float, float]] = EPSILONS,
    definition: Definition = "centred",
    name: str = "the layer",
) -> FoldScore:
    """Learn directions from the training part for each pair of epsilons; the best one on dev is tested.

    Features whose variance is below epsilon, constant ones among them, are left out.

    Args:
        train: moments of the training part.
        dev: of the part that chooses the epsilons.
        test: of the part that the score is of.
        epsilons: pairs to choose from.
        definition: as for `pwcca`.
        name: of the comparison, for errors.

    Raises:
        UserError: for data from which nothing can be learnt: too few instances, constant features.
    """
    check_options(epsilons, definition)
    check_enough(train.n, max(train.xy.shape), name)
    for part, what in ((dev, "dev"), (test, "test")):
        check_heldout(part.n, min(train.xy.shape), f"{name}, {what} part")
    fit = _Fit(train, name, exact=definition == "reference")
    found = [fit.directions(*pair) for pair in epsilons]
    on_dev = [score(each, dev, definition) for each in found]
    best = next(number for number, value in enumerate(on_dev) if value >= max(on_dev) - TIE)
    return FoldScore(score(found[best], test, definition), on_dev[best], *map(float, epsilons[best]))


@dataclass(frozen=True)
class _View:
    """A view of the training part, scaled, without features that hardly vary."""

    scale: float
    """The largest variance."""
    kept: Tensor
    """Numbers of the features."""
    values: Tensor
    """Eigenvalues of their covariance."""
    vectors: Tensor

    @classmethod
    def of(cls, covariance: Tensor, epsilon: float, name: str) -> _View:
        scale = float(covariance.diagonal().max())
        if scale <= 0:
            raise UserError(f"{name}: all features are constant")
        check_scale(scale, name)
        kept = (covariance.diagonal() / scale >= epsilon).nonzero().flatten()
        values, vectors = torch.linalg.eigh(covariance[kept][:, kept] / scale)
        return cls(scale, kept, values, vectors)

    def keeps(self, covariance: Tensor, epsilon: float) -> bool:
        """Whether the same features are kept with another epsilon."""
        return int((covariance.diagonal() / self.scale >= epsilon).sum()) == len(self.kept)


@dataclass(frozen=True)
class _Directions:
    """Pairs of directions for centred data, in descending order of their training correlations."""

    view_x: _View
    view_y: _View
    x: Tensor
    """(kept D_x, k)."""
    y: Tensor


class _Fit:
    """The training part, and what was made of it for earlier epsilons."""

    def __init__(self, train: Moments, name: str, *, exact: bool):
        n = train.n - 1
        self.xx, self.xy, self.yy = train.xx / n, train.xy / n, train.yy / n
        self.name, self.exact = name, exact
        self.views: dict[str, list[_View]] = {"x": [], "y": []}
        self.crosses: dict[tuple[int, int], Tensor] = {}

    def directions(self, epsilon_x: float, epsilon_y: float) -> _Directions:
        """What correlates most."""
        x, y = self._view("x", self.xx, epsilon_x), self._view("y", self.yy, epsilon_y)
        root_x, root_y = inverse_root(x.values, epsilon_x), inverse_root(y.values, epsilon_y)
        key = id(x), id(y)
        if key not in self.crosses:
            cross = self.xy[x.kept][:, y.kept] / math.sqrt(x.scale * y.scale)
            self.crosses[key] = x.vectors.T @ cross @ y.vectors
        whitened = root_x[:, None] * self.crosses[key] * root_y
        if self.exact:  # signs of singular vectors matter, and the basis is that of the features
            u, _, vh = singular(x.vectors @ whitened @ y.vectors.T)
            u, v = x.vectors.T @ u, y.vectors.T @ vh.mT
        else:
            u, v = _singular_vectors(whitened)
        return _Directions(x, y, x.vectors @ (root_x[:, None] * u), y.vectors @ (root_y[:, None] * v))

    def _view(self, which: str, covariance: Tensor, epsilon: float) -> _View:
        for view in self.views[which]:
            if view.keeps(covariance, epsilon):
                return view
        self.views[which].append(_View.of(covariance, epsilon, self.name))
        return self.views[which][-1]


def _singular_vectors(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Left and right singular vectors, (D_x, k) and (D_y, k), in descending order.

    From the eigenvectors of the smaller of M'M and MM', several times faster than an SVD. Vectors whose
    singular value is rounding (below 1e-8 of the first) have length 0 on the larger side.
    """
    tall = matrix.shape[0] >= matrix.shape[1]
    m = matrix if tall else matrix.T
    squares, narrow = torch.linalg.eigh(m.T @ m)
    squares, narrow = squares.flip(0), narrow.flip(1)
    wide = m @ narrow
    lengths = wide.norm(dim=0)
    wide = torch.where(lengths > 1e-8 * lengths[:1], wide / lengths, 0.0)
    return (wide, narrow) if tall else (narrow, wide)


def score(found: _Directions, part: Moments, definition: Definition) -> float:
    """PWCCA similarity of a part of the data along learnt directions."""
    x, y = found.view_x, found.view_y
    xx, yy = part.xx[x.kept][:, x.kept], part.yy[y.kept][:, y.kept]
    products = (found.x * (part.xy[x.kept][:, y.kept] @ found.y)).sum(0)
    inner_x, inner_y = xx @ found.x, yy @ found.y  # (D, k): features with projections
    null_x, length_x = _lengths(found.x, inner_x, x.scale, part.n)
    null_y, length_y = _lengths(found.y, inner_y, y.scale, part.n)
    null = null_x | null_y
    correlations = torch.where(null, 0.0, products / torch.where(null, 1.0, length_x * length_y))
    if len(x.kept) < len(y.kept):
        weights = _weights(found.x, inner_x, null_x, part.mean_x[x.kept], part.n, definition)
    else:
        weights = _weights(found.y, inner_y, null_y, part.mean_y[y.kept], part.n, definition)
    return float((weights * correlations).sum())


def _lengths(directions: Tensor, inner: Tensor, scale: float, n: int) -> tuple[Tensor, Tensor]:
    """Which projections do not vary, and the lengths of all, (k,)."""
    lengths = (directions * inner).sum(0).clamp(min=0).sqrt()
    floor = _NULL * math.sqrt((n - 1) * scale) * directions.norm(dim=0)
    return lengths <= floor, lengths


def _weights(
    directions: Tensor, inner: Tensor, null: Tensor, mean: Tensor, n: int, definition: Definition
) -> Tensor:
    """How much of the features each direction accounts for, (k,), sums to 1 (`correlations.importance`).

    With P the projections, F the features and P'P = LL', inv(L) P'F are the inner products of the features
    with the projections made orthonormal.
    """
    keep = torch.ones_like(null) if definition == "reference" else ~null
    gram, products = directions.T @ inner, inner.T
    if definition == "reference":
        k = len(gram)
        gram, products = (
            gram + n * torch.outer(mean[:k], mean[:k]),
            products + n * torch.outer(mean[:k], mean),
        )
    gram, products = gram[keep][:, keep], products[keep]
    scale = gram.diagonal().clamp(min=1e-300).rsqrt()
    gram, products = gram * scale * scale[:, None], products * scale[:, None]
    lower, failed = torch.linalg.cholesky_ex(gram)
    if failed:
        lower = torch.linalg.cholesky(
            gram + 1e-10 * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
        )
    found = torch.linalg.solve_triangular(lower, products, upper=False).abs().sum(1)
    weights = torch.zeros_like(null, dtype=found.dtype)
    weights[keep] = found
    return weights / weights.sum()
