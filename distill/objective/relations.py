"""Relations over time: which frames of an utterance resemble each other, to the teacher and to the student.

Shapes: B utterances, F frames, D features (as many as each model has).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from distill.waveforms import frame_mask


@dataclass
class RelationLoss:
    """The parts of `relation_loss`."""

    total: Tensor
    """within + between."""
    within: Tensor
    """Of frames of one layer."""
    between: Tensor
    """Of frames of a layer and frames of the next matched one; 0 if there is only one layer."""


def matched_layers(layers: Sequence[int], depth: int, teacher_depth: int) -> list[int]:
    """The teacher's layer for each hidden state of the student, from 0, the transformers' inputs, on.

    Args:
        layers: one for each layer of the student; none: evenly spaced, the last one for the last.
        depth: layers of the student.
        teacher_depth: of the teacher.

    Raises:
        ValueError: they are not as many as the student's layers, or not the teacher's.
    """
    if not layers:
        return [round(layer * teacher_depth / depth) for layer in range(depth + 1)]
    if len(layers) != depth or not all(1 <= layer <= teacher_depth for layer in layers):
        raise ValueError(
            f"objective.relations.layers {list(layers)}: name a layer of the teacher, 1 to {teacher_depth}, "
            f"for each of the student's {depth}"
        )
    return [0, *layers]


def relation_loss(
    student: Sequence[Tensor],
    teacher: Sequence[Tensor],
    lengths: Tensor,
    *,
    n_frames: Tensor | float | None = None,
) -> RelationLoss:
    """Differences of temporal Gram matrices, within layers and between consecutive ones.

    With G_ab(t, u) the cosine of frame t in matched layer a and frame u in layer b (STaR, Jang et al. 2024,
    arXiv 2312.09040, layer-wise and intra-layer matrices; theirs are of inner products),

        within  = mean over layers a of mean_t mean_u (G_aa - G'_aa)^2,
        between = mean over a of mean_t mean_u (G_a,a+1 - G'_a,a+1)^2

    where t are the valid frames of the batch, and u those of the same utterance. Cosines have no scale and no
    width, so the models may differ in both.

    Args:
        student: (B, F, D) by matched layer.
        teacher: as many, each (B, F, D').
        lengths: (B,) valid frames.
        n_frames: what sums over t are divided by (see `distillation_loss`).
    """
    if n_frames is None:
        n_frames = lengths.sum()
    valid = frame_mask(lengths, student[0].shape[1])[:, :, None]
    with torch.autocast(student[0].device.type, enabled=False):
        # Frames of the padding are zero: they resemble nothing, and differ in nothing.
        own, theirs = (
            [F.normalize(x.float().masked_fill(~valid, 0.0), dim=2) for x in states]
            for states in (student, teacher)
        )

        def difference(a: int, b: int) -> Tensor:
            error = own[a] @ own[b].mT - theirs[a] @ theirs[b].mT  # (B, F, F)
            return (error.square().sum((1, 2)) / lengths).sum() / n_frames

        within = torch.stack([difference(a, a) for a in range(len(own))]).mean()
        pairs = [difference(a, a + 1) for a in range(len(own) - 1)]
        between = torch.stack(pairs).mean() if pairs else torch.zeros_like(within)
    return RelationLoss(within + between, within, between)
