"""Covariances and eigenvectors of training parts, computed once for many splits, layers and epsilons.

Shapes: n instances, D features of a layer, K of y, k kept by an epsilon, S splits, M covariances.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from distill.analysis.cca.correlations import check_scale


class TrainingSums:
    """Covariances of training parts, from sums over the rows that the same splits learn from.

    Args:
        training: row numbers of S training parts.
        y: (n, K) float64.
    """

    def __init__(self, training: Sequence[np.ndarray], y: Tensor):
        self.y = y - y.mean(0)
        learns = np.zeros((len(y), len(training)), dtype=bool)
        for number, rows in enumerate(training):
            learns[rows, number] = True
        patterns, group = np.unique(learns, axis=0, return_inverse=True)
        self.groups = [
            (torch.from_numpy(np.flatnonzero(group.ravel() == number)).to(y.device), np.flatnonzero(pattern))
            for number, pattern in enumerate(patterns)
            if pattern.any()
        ]
        """Rows, and the splits that learn from them."""
        self.counts = torch.from_numpy(learns.sum(0)).to(y)
        self.y_sums = y.new_zeros(len(training), y.shape[1])
        for rows, learners in self.groups:
            self.y_sums[learners] += self.y[rows].sum(0)

    def of(self, layer: Tensor) -> tuple[Tensor, Tensor]:
        """Covariances of a layer (n, D): within (S, D, D), and with y (S, D, K)."""
        n_splits, width = len(self.counts), layer.shape[1]
        within = self.y.new_zeros(n_splits, width, width)
        cross = self.y.new_zeros(n_splits, width, self.y.shape[1])
        totals = self.y.new_zeros(n_splits, width)
        middle = layer.to(self.y).mean(0)  # near zero, products of sums cost no digits
        for rows, learners in self.groups:
            x = layer[rows.to(layer.device)].to(self.y) - middle
            for sums, term in ((within, x.T @ x), (cross, x.T @ self.y[rows]), (totals, x.sum(0))):
                for number in learners:
                    sums[number] += term
        counts = self.counts[:, None, None]
        within -= totals[:, :, None] * totals[:, None] / counts
        cross -= totals[:, :, None] * self.y_sums[:, None] / counts
        return within / (counts - 1), cross / (counts - 1)


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Eigenvectors of a covariance among the features that an epsilon keeps."""

    kept: Tensor
    """(k,) int64."""
    values: Tensor
    """(k,), relative to the view's largest variance."""
    vectors: Tensor
    """(k, k), by column."""


@dataclass(frozen=True, eq=False)
class View:
    """The training part of a view."""

    scale: float
    """Its largest variance."""
    spectra: dict[float, Spectrum]
    """By epsilon, often the same."""


def decompose(covariances: Tensor, epsilons: Sequence[float], names: Sequence[str]) -> list[View]:
    """Eigenvectors of each covariance, in batches of those that keep equally many features.

    Args:
        covariances: (M, D, D).
        epsilons: that decide which features are kept.
        names: M, for messages.
    """
    scales = covariances.diagonal(dim1=1, dim2=2).amax(1)
    for scale, name in zip(scales.tolist(), names, strict=True):
        check_scale(scale, name)
    covariances = covariances / scales[:, None, None]
    jobs: dict[int, dict[int, Tensor]] = defaultdict(dict)
    counts: list[dict[float, int]] = [{} for _ in names]
    for place, variances in enumerate(covariances.diagonal(dim1=1, dim2=2)):
        for epsilon in epsilons:
            kept = (variances >= epsilon).nonzero().flatten()
            counts[place][epsilon] = len(kept)
            jobs[len(kept)][place] = kept  # kept sets are nested: as many are the same
    found: dict[tuple[int, int], Spectrum] = {}
    for count, members in jobs.items():
        stack = torch.stack([covariances[place][kept][:, kept] for place, kept in members.items()])
        values, vectors = torch.linalg.eigh(stack)
        for row, (place, kept) in enumerate(members.items()):
            found[place, count] = Spectrum(kept, values[row], vectors[row])
    return [
        View(scale, {epsilon: found[place, count] for epsilon, count in counts[place].items()})
        for place, scale in enumerate(scales.tolist())
    ]
