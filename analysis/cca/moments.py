"""Sums over instances of two views, all that CCA needs of them: no frame is kept.

Shapes: n instances, D dimensions of a layer, K of what it is compared with.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Moments:
    """Number, means, and sums of products of what differs from the means, in float64.

    The sum of two stands for the instances of both (Chan, Golub and LeVeque 1983), without the cancellation
    of raw sums of squares.
    """

    n: int
    """Instances."""
    mean_x: Tensor
    """(D,)."""
    mean_y: Tensor
    """(K,)."""
    xx: Tensor
    """(D, D)."""
    xy: Tensor
    """(D, K)."""
    yy: Tensor
    """(K, K)."""

    @classmethod
    def of(cls, x: Tensor, y: Tensor) -> Moments:
        """The moments of (n, D) and (n, K), n at least 1."""
        if len(x) != len(y) or not len(x):
            raise ValueError(f"the views have {len(x)} and {len(y)} instances: the same number, at least 1")
        x, y = x.double(), y.double()
        mean_x, mean_y = x.mean(0), y.mean(0)
        x, y = x - mean_x, y - mean_y
        return cls(len(x), mean_x, mean_y, x.T @ x, x.T @ y, y.T @ y)

    def __add__(self, other: Moments) -> Moments:
        n = self.n + other.n
        dx, dy = other.mean_x - self.mean_x, other.mean_y - self.mean_y
        weight = self.n * other.n / n
        return Moments(
            n,
            self.mean_x + dx * (other.n / n),
            self.mean_y + dy * (other.n / n),
            self.xx + other.xx + weight * torch.outer(dx, dx),
            self.xy + other.xy + weight * torch.outer(dx, dy),
            self.yy + other.yy + weight * torch.outer(dy, dy),
        )

    def with_y(self, columns: slice) -> Moments:
        """Of x and some columns of y."""
        return Moments(
            self.n,
            self.mean_x,
            self.mean_y[columns],
            self.xx,
            self.xy[:, columns],
            self.yy[columns, columns],
        )
