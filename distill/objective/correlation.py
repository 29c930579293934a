"""Redundancy reduction: correlations between features, over the valid frames of the global batch.

Shapes: B utterances, F frames, N prediction heads, D features.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from distill.encoder import scale_gradient
from distill.waveforms import frame_mask

_EPSILON = 1e-8
"""Added to variances: a feature that never changes correlates with nothing."""


@dataclass
class CorrelationLoss:
    """The parts of `correlation_loss`, means over the predicted layers."""

    total: Tensor
    """cross + self_correlation_weight * own."""
    cross: Tensor
    """How far the cross-correlation is from the identity."""
    own: Tensor
    """The student's correlations off the diagonal, unweighted."""


def correlation_loss(
    predictions: Tensor,
    targets: Tensor,
    lengths: Tensor,
    *,
    off_diagonal: float = 0.005,
    self_correlation: float = 0.005,
    processes: int = 1,
) -> CorrelationLoss:
    """Teacher and student correlate feature by feature, the student's features not with each other.

    With C_ij the correlation of the student's feature i with the teacher's feature j, and S_ij that of the
    student's features i and j, both over all valid frames (Ritter-Gutierrez et al. 2023, arXiv 2312.12153,
    after Barlow Twins, Zbontar et al. 2021, Eq. 1-2),

        cross = 1/D sum_i [(1 - C_ii)^2 + off_diagonal * sum_{j != i} C_ij^2]
        own   = 1/D sum_i sum_{j != i} S_ij^2

    averaged over the layers. Here sums are divided by D, so that weights do not depend on the width.

    Args:
        predictions: (B, N, F, D) of the student.
        targets: (B, N, F, D) of the teacher.
        lengths: (B,) valid frames; at least two in all.
        off_diagonal: weight of the second term of `cross`.
        self_correlation: weight of `own`.
        processes: over how many the batch is spread. Every one gets the value of the global batch, and such
            a gradient that their mean is that of the value.
    """
    valid = frame_mask(lengths, predictions.shape[2])[:, None, :, None]  # (B, 1, F, 1)
    shared = processes > 1
    with torch.autocast(predictions.device.type, enabled=False):
        frames = _all_processes(lengths.sum().float(), shared)
        # Centring needs no gradient through the means: over all frames, what it would add cancels.
        student, teacher = (_centred(x.float(), valid, frames, shared) for x in (predictions, targets))
        cross = _all_processes(student.mT @ teacher / frames, shared)  # (N, D, D)
        own = _all_processes(student.mT @ student / frames, shared)
        variance = _all_processes(teacher.square().sum(1) / frames, shared)  # (N, D)
        scale = (own.diagonal(dim1=1, dim2=2) + _EPSILON).rsqrt()
        cross = cross * scale[:, :, None] * (variance + _EPSILON).rsqrt()[:, None, :]
        own = own * scale[:, :, None] * scale[:, None, :]
        diagonal = cross.diagonal(dim1=1, dim2=2)  # (N, D)
        missing = (1 - diagonal).square().mean()
        cross_loss = missing + off_diagonal * _off_diagonal(cross)
        own_loss = _off_diagonal(own)
        total = cross_loss + self_correlation * own_loss
    return CorrelationLoss(*(scale_gradient(x, processes) for x in (total, cross_loss, own_loss)))


def _centred(x: Tensor, valid: Tensor, frames: Tensor, shared: bool) -> Tensor:
    """(B, N, F, D) -> (N, B F, D) without the mean over all valid frames, zero in the padding."""
    x = x.masked_fill(~valid, 0.0)
    mean = _all_processes(x.detach().sum((0, 2)), shared) / frames  # (N, D)
    return (x - mean[:, None]).masked_fill(~valid, 0.0).transpose(0, 1).flatten(1, 2)


def _off_diagonal(matrices: Tensor) -> Tensor:
    """1/D sum_i sum_{j != i} x_ij^2, the mean of (N, D, D)."""
    off = matrices - torch.diag_embed(matrices.diagonal(dim1=1, dim2=2))
    return off.square().sum(2).mean()


def _all_processes(local: Tensor, shared: bool) -> Tensor:
    """The sum over the processes, whose gradient reaches this process' share only."""
    if not shared:
        return local
    total = local.detach().clone()
    dist.all_reduce(total)
    return local + (total - local.detach())
