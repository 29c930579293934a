"""Clipping, as of an overdriven microphone. No part of the paper's mix, and without a label.

After WavAugment's `clip` (Kharitonov et al., "Data Augmenting Contrastive Learning of Speech Representations
in the Time Domain", 2021).

Legend: B utterances, T samples.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from distill.distortions.padded import PerRow, float_copy, is_padding, per_row, send_numbers, valid_lengths


@torch.no_grad()
def apply(waveforms: Tensor, lengths: Tensor | Sequence[int] | None, factor: PerRow) -> Tensor:
    """Clip each utterance at a share of its own extremes.

    y = min(max(x, factor · min(x)), factor · max(x)), with the extremes of the valid samples.

    Args:
        waveforms: (B, T) at 16 kHz; not modified.
        lengths: (B,) valid samples; None means full rows.
        factor: (B,) in [0, 1], or one for all: 1 leaves the utterance as it is, 0 leaves silence.

    Returns:
        (B, T) float32, padding zero.

    Raises:
        ValueError: if a shape is wrong or a factor is outside 0-1.
    """
    counts = valid_lengths(waveforms, lengths)
    factors = send_numbers(per_row("factor", factor, len(counts), 0, 1), waveforms.device)[:, None]
    out = float_copy(waveforms, counts)
    if not counts:
        return out
    padding = is_padding(out, counts)
    low = out.masked_fill(padding, math.inf).amin(1, keepdim=True)
    high = out.masked_fill(padding, -math.inf).amax(1, keepdim=True)
    return out.clamp_(min=factors * low, max=factors * high).masked_fill_(padding, 0)
