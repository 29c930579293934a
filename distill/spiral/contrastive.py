"""The loss of SPIRAL: tell the teacher's frame at a position from others of the same utterance (Eq. 2).

Legend: B utterances, F output frames (80 ms), P width of predictions and targets, K negatives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from distill.hashing import hash_number
from distill.waveforms import frame_mask, to_device


@dataclass
class ContrastiveLoss:
    """The loss and what it is made of."""

    total: Tensor
    """The mean over frames, or the sum over `n_frames`."""
    per_utterance: Tensor
    """(B,), the sum over the frames of each utterance, whatever `n_frames`; no gradient."""
    correct: Tensor
    """How many frames' positive has the largest score, and not the smallest too; no gradient."""
    frames: Tensor
    """How many frames are compared: see `contrasted_frames`."""


def draw_negatives(
    ids: Sequence[str],
    lengths: Sequence[int],
    n_negatives: int,
    *,
    seed: int,
    epoch: int,
    width: int | None = None,
) -> Tensor:
    """Other frames of the same utterance, for each frame: uniformly, with replacement, never itself.

    By a hash of seed, epoch and utterance: the batch does not matter.

    Args:
        ids: B names of utterances.
        lengths: valid output frames of each.
        n_negatives: K.
        seed: of the run.
        epoch: counts from 0.
        width: F; default: the largest of `lengths`.

    Returns:
        (B, F, K) int64 on the CPU, positions within the utterance; 0 where there is nothing to draw: in the
        padding, and in utterances of one frame.
    """
    if n_negatives < 1:
        raise ValueError(f"n_negatives must be at least 1, not {n_negatives}")
    width = max(lengths, default=0) if width is None else width
    negatives = np.zeros((len(ids), width, n_negatives), dtype=np.int64)
    for row, (name, n) in enumerate(zip(ids, lengths, strict=True)):
        if n > 1:
            key = hash_number(seed, epoch, "negatives", name)
            u = np.random.Generator(np.random.Philox(key=key)).random((n, n_negatives))
            drawn = (u * (n - 1)).astype(np.int64)
            negatives[row, :n] = drawn + (drawn >= np.arange(n)[:, None])  # steps over the frame itself
    return torch.from_numpy(negatives)


def contrasted_frames(lengths: Tensor) -> Tensor:
    """How many frames the loss compares: an utterance of one has no negatives and is left out."""
    return lengths.masked_fill(lengths < 2, 0).sum()


def contrastive_loss(
    predictions: Tensor,
    targets: Tensor,
    lengths: Tensor,
    negatives: Tensor,
    *,
    temperature: float = 0.3,
    n_frames: Tensor | float | None = None,
) -> ContrastiveLoss:
    """Eq. 2 of the paper, as a mean over frames.

    For frame t, its negatives D_t, the student's prediction p, the teacher's projection z, a temperature T:

        -log( exp(cos(p_t, z_t) / T) / sum over i in {t} and D_t of exp(cos(p_t, z_i) / T) )

    The paper sums over D_t alone; its own program has the positive in the denominator, as here. A negative
    that equals its positive in every component cannot be told from it and does not count.

    Cosines of all pairs of an utterance are computed once, and those that are needed are picked: for 24
    utterances of 195 frames, two arrays of 3.7 MB and two of 1.9 MB, where the negatives themselves, as
    vectors of 256, would take 480.

    Args:
        predictions: (B, F, P) of the student.
        targets: (B, F, P) of the teacher; no gradient reaches them.
        lengths: (B,) valid frames.
        negatives: (B, F, K), from `draw_negatives`; on the CPU or with the rest.
        temperature: what cosines are divided by.
        n_frames: what to divide the sum over frames by; default: `contrasted_frames(lengths)`. In distributed
            training, that of the global batch over the number of processes: then the average of the gradients
            over processes is the gradient of the global mean.
    """
    if predictions.shape != targets.shape or negatives.shape[:2] != predictions.shape[:2]:
        raise ValueError(
            f"predictions {tuple(predictions.shape)} and targets {tuple(targets.shape)} must both be "
            f"(B, F, P), negatives {tuple(negatives.shape)} (B, F, K)"
        )
    negatives = to_device(negatives, predictions.device)
    valid = frame_mask(lengths, predictions.shape[1]) & (lengths > 1)[:, None]  # (B, F)
    with torch.autocast(predictions.device.type, enabled=False):
        # Before anything else: what is not finite in the padding would make the gradient of all of it so.
        predictions, targets = (
            x.float().masked_fill(~valid[..., None], 0.0) for x in (predictions, targets.detach())
        )
        positive, others = _scores(predictions, targets, negatives, temperature)
        per_frame = torch.logaddexp(positive, others.logsumexp(2)) - positive  # (B, F)
        per_utterance = per_frame.masked_fill(~valid, 0.0).sum(1)
    with torch.no_grad():
        right = (positive >= others.amax(2)) & (positive > others.amin(2)) & valid
    if n_frames is None:
        n_frames = contrasted_frames(lengths)
    # No frame at all: the sum is 0, and shall not become 0 / 0.
    n_frames = n_frames.clamp(min=1e-6) if isinstance(n_frames, Tensor) else max(n_frames, 1e-6)
    return ContrastiveLoss(
        total=per_utterance.sum() / n_frames,
        per_utterance=per_utterance.detach(),
        correct=right.sum(),
        frames=contrasted_frames(lengths),
    )


def _scores(
    predictions: Tensor, targets: Tensor, negatives: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """Cosines over temperature: (B, F) of the positives, (B, F, K) of the negatives, -inf where equal."""
    cosines = F.normalize(predictions, dim=2) @ F.normalize(targets, dim=2).transpose(1, 2)  # (B, F, F)
    equal = torch.cdist(targets, targets, p=torch.inf) == 0  # (B, F, F): no component differs
    positive = cosines.diagonal(dim1=1, dim2=2) / temperature
    others = cosines.gather(2, negatives) / temperature
    return positive, others.masked_fill(equal.gather(2, negatives), -torch.inf)
