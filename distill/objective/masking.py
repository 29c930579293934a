"""Which frames masked prediction hides. Shapes: B utterances, F frames."""

from __future__ import annotations

import torch
from torch import Tensor


def span_mask(
    lengths_in_frames: Tensor,
    *,
    probability: float = 0.8,
    length: int = 10,
    generator: torch.Generator,
) -> Tensor:
    """Spans of masked frames, drawn as in wav2vec 2.0 (Baevski et al. 2020, appendix A) and HuBERT.

    An utterance of n frames gets floor(probability * n / length + u) spans, u uniform in [0, 1), at least
    one, with distinct starts; spans may overlap, so 0.8 and 10 mask about 57 % of the frames. Utterances
    shorter than two spans use spans of half their own length, which leaves them some context. Unlike
    fairseq, masks are not thinned until all rows have equally many: an utterance's mask does not depend on
    the lengths of the others.

    Args:
        lengths_in_frames: (B,) integers, valid frames.
        probability: share of masked frames if spans never overlapped, in (0, 1].
        length: frames of a span.
        generator: on the CPU; the same state gives the same mask.

    Returns:
        (B, F) bool on the CPU, F the largest of the lengths; true where masked, never in the padding.

    Raises:
        ValueError: for a probability or length out of range, or lengths that are not (B,).
    """
    if not 0.0 < probability <= 1.0:
        raise ValueError(f"probability must be in (0, 1], not {probability}")
    if length < 1:
        raise ValueError(f"length must be at least 1 frame, not {length}")
    if lengths_in_frames.dim() != 1 or not len(lengths_in_frames):
        raise ValueError(f"lengths_in_frames must be (B,), B > 0, not {tuple(lengths_in_frames.shape)}")
    lengths = lengths_in_frames.tolist()
    mask = torch.zeros(len(lengths), max(*lengths, 0), dtype=torch.bool)
    for row, n_valid in zip(mask, lengths, strict=True):
        if n_valid < 1:
            continue
        span = min(length, max(1, n_valid // 2))
        n_starts = n_valid - span + 1
        rounding = torch.rand((), generator=generator).item()  # so that the expected number is exact
        n_spans = min(max(1, int(probability * n_valid / span + rounding)), n_starts)
        starts = torch.randperm(n_starts, generator=generator)[:n_spans]
        row[(starts[:, None] + torch.arange(span)).flatten()] = True
    return mask
