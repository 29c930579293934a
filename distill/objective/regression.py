"""The distillation loss (Eq. 2).

Shapes: B utterances, F frames, N prediction heads, D features.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from distill.waveforms import frame_mask


@dataclass
class DistillationLoss:
    """The parts of Eq. 2, each a mean over valid frames."""

    total: Tensor
    """l1 + cosine_weight * cosine."""
    l1: Tensor
    """Mean of `l1_per_layer`."""
    cosine: Tensor
    """Mean of `cosine_per_layer`."""
    l1_per_layer: Tensor
    """(N,), mean absolute error of each predicted layer."""
    cosine_per_layer: Tensor
    """(N,), mean of -log sigmoid(cosine similarity) of each predicted layer."""
    per_utterance: Tensor
    """(B,), the sum of `total` over the valid frames of each utterance, whatever `n_frames`; no gradient."""


def distillation_loss(
    predictions: Tensor,
    targets: Tensor,
    lengths: Tensor,
    *,
    cosine_weight: float = 1.0,
    n_frames: Tensor | float | None = None,
) -> DistillationLoss:
    """Eq. 2 of the paper, as a mean instead of a sum.

    For predicted layer i and frame t, with h the teacher's and p the student's features,

        1/D ||h - p||_1  -  gamma * log sigmoid(cos(h, p))

    averaged over the N layers and the valid frames: a constant times the paper's sum, and on batches without
    padding the loss of DistilHuBERT in s3prl.

    Args:
        predictions: (B, N, F, D) of the student.
        targets: (B, N, F, D) of the teacher.
        lengths: (B,) valid frames.
        cosine_weight: gamma.
        n_frames: what to divide the sums over frames by; default: this batch's valid frames. In distributed
            training, the valid frames of the global batch over the number of processes: then the average of
            the gradients over processes is the gradient of the global mean.

    Raises:
        ValueError: if shapes differ.
    """
    if predictions.shape != targets.shape or predictions.dim() != 4:
        raise ValueError(
            f"predictions {tuple(predictions.shape)} and targets {tuple(targets.shape)} must both be "
            "(B, N, F, D)"
        )
    valid = frame_mask(lengths, predictions.shape[2])[:, None]  # (B, 1, F)
    if n_frames is None:
        n_frames = lengths.sum()
    with torch.autocast(predictions.device.type, enabled=False):
        # Before anything else: what is not finite in the padding would make the gradient of all of it so.
        predictions, targets = (x.float().masked_fill(~valid[..., None], 0.0) for x in (predictions, targets))
        l1 = (predictions - targets).abs().mean(3).masked_fill(~valid, 0.0)  # (B, N, F)
        similarity = F.cosine_similarity(predictions, targets, dim=3)
        cosine = -F.logsigmoid(similarity).masked_fill(~valid, 0.0)
        l1_per_layer = l1.sum((0, 2)) / n_frames
        cosine_per_layer = cosine.sum((0, 2)) / n_frames
        per_utterance = (l1.detach() + cosine_weight * cosine.detach()).mean(1).sum(1)
    return DistillationLoss(
        total=l1_per_layer.mean() + cosine_weight * cosine_per_layer.mean(),
        l1=l1_per_layer.mean(),
        cosine=cosine_per_layer.mean(),
        l1_per_layer=l1_per_layer,
        cosine_per_layer=cosine_per_layer,
        per_utterance=per_utterance,
    )
