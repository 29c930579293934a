"""Time drop: a stretch of silence, as of a lost packet. No part of the paper's mix, and without a label.

After WavAugment's `time_dropout` (Kharitonov et al., "Data Augmenting Contrastive Learning of Speech
Representations in the Time Domain", 2021), which drops up to 50 ms.

Legend: B utterances, T samples.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from distill.distortions.padded import PerRow, float_copy, per_row, send_numbers, valid_lengths


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
        n_dropped: (B,) samples to drop, or one for all; 0 leaves the utterance as it is.

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
    ends = [a + n for a, n in zip(first, dropped, strict=True)]
    out = float_copy(waveforms, counts)
    begin, end = (send_numbers([int(n) for n in ns], out.device)[:, None] for ns in (first, ends))
    samples = torch.arange(n_samples, device=out.device)
    return out.masked_fill_((samples >= begin) & (samples < end), 0)


def stretch(n_samples: int, n_dropped: int, place: float) -> tuple[int, int]:
    """Where an utterance is silenced: never more than half of it.

    Args:
        n_samples: of the utterance.
        n_dropped: samples to silence, if the utterance is long enough.
        place: in [0, 1): where.

    Returns:
        First sample and number of samples, as `apply` takes them.
    """
    n = min(n_dropped, n_samples // 2)
    return int(place * (n_samples - n + 1)), n
