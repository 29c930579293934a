"""Time drop: a stretch of silence, as of a lost packet. An extra without a label, no part of the paper's mix.

After WavAugment's `time_dropout` (Kharitonov et al., "Data Augmenting Contrastive Learning of Speech
Representations in the Time Domain", 2021), which drops up to 50 ms.

Legend: B utterances, T samples.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from distill.distortions.padded import PerRow, float_copy, per_row, valid_lengths
from distill.waveforms import SAMPLE_RATE


@torch.no_grad()
def apply(
    waveforms: Tensor,
    lengths: Tensor | Sequence[int] | None,
    start: PerRow,
    n_dropped: PerRow,
) -> Tensor:
    """Silence one stretch of each utterance.

    y[t] = 0 for start <= t < start + n_dropped, x[t] elsewhere.

    Args:
        waveforms: (B, T) at 16 kHz; not modified.
        lengths: (B,) valid samples; None means full rows.
        start: (B,) first sample to drop, or one for all.
        n_dropped: (B,) samples to drop, or one for all; 0 leaves the utterance as it is. `draw` draws both.

    Returns:
        (B, T) float32, padding zero.

    Raises:
        ValueError: if a shape is wrong or a number is no integer from 0 to T.
    """
    counts = valid_lengths(waveforms, lengths)
    n_samples = waveforms.shape[1]
    first = per_row("start", start, len(counts), 0, n_samples)
    dropped = per_row("n_dropped", n_dropped, len(counts), 0, n_samples)
    if any(number != int(number) for number in (*first, *dropped)):
        raise ValueError(f"start and n_dropped must hold integers, got {first} and {dropped}")
    out = float_copy(waveforms, counts)
    for row, (a, n) in enumerate(zip(first, dropped, strict=True)):
        out[row, int(a) : int(a + n)] = 0
    return out


def draw(
    lengths: Tensor | Sequence[int], seeds: Sequence[int], max_dropped_s: float = 0.05
) -> tuple[list[int], list[int]]:
    """Draw where to drop: a length uniform from 0 to the maximum, then a place uniform in the utterance.

    Args:
        lengths: (B,) valid samples.
        seeds: B generator seeds, one per utterance, so that the batch does not decide.
        max_dropped_s: longest drop in seconds; never more than the utterance.

    Returns:
        (starts, numbers of samples), as `apply` takes them.

    Raises:
        ValueError: if the numbers of lengths and seeds differ or the longest drop is negative.
    """
    if max_dropped_s < 0:
        raise ValueError(f"max_dropped_s must not be negative, got {max_dropped_s}")
    counts = [int(n) for n in (lengths.tolist() if isinstance(lengths, Tensor) else lengths)]
    starts, dropped = [], []
    for count, seed in zip(counts, seeds, strict=True):
        u = torch.rand(2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).tolist()
        n = int(u[0] * (min(round(max_dropped_s * SAMPLE_RATE), count) + 1))
        dropped.append(n)
        starts.append(int(u[1] * (count - n + 1)))
    return starts, dropped
