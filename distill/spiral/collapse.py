"""Signs that SPIRAL's targets lose their content: how alike they are, in one utterance and across several.

Legend: B utterances, F output frames (80 ms), P width of targets.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from distill.waveforms import frame_mask


@torch.no_grad()
def collapse_stats(targets: Tensor, lengths: Tensor) -> dict[str, Tensor]:
    """Mean cosine between the teacher's frames, over pairs of valid frames of three kinds.

    * `within_utterance`: at different positions of one utterance. Near 1: frames are all alike.
    * `same_position`: at the same position of two utterances. Far above the next: positions, not speech,
      are encoded (paper, section 3.3).
    * `other_positions`: at different positions of two utterances.

    From sums of normalised frames, so the cost is that of reading the targets. A kind of which the batch has
    no pair is left out. The counts of pairs are needed as numbers: lengths on the CPU spare a wait.

    Args:
        targets: (B, F, P).
        lengths: (B,) valid frames.
    """
    counts = lengths.tolist()
    valid = frame_mask(lengths.to(targets.device), targets.shape[1])[..., None]  # (B, F, 1)
    frames = F.normalize(targets.float().masked_fill(~valid, 0.0), dim=2)
    itself = frames.square().sum()  # pairs of a frame with itself
    utterance = frames.sum(1).square().sum() - itself  # sums of cosines over ordered pairs
    position = frames.sum(0).square().sum() - itself
    everything = frames.sum((0, 1)).square().sum() - itself
    n = sum(counts)
    n_utterance = sum(count * (count - 1) for count in counts)
    at = [sum(count > place for count in counts) for place in range(max(counts, default=0))]
    n_position = sum(count * (count - 1) for count in at)
    pairs = {
        "within_utterance": (utterance, n_utterance),
        "same_position": (position, n_position),
        "other_positions": (everything - utterance - position, n * (n - 1) - n_utterance - n_position),
    }
    return {name: total / count for name, (total, count) in pairs.items() if count}
