"""Batches by a short description: 4x5, 4x5padded, 24xlibrispeech.

Shapes: B utterances, T samples.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from distill.waveforms import SAMPLE_RATE, frame_mask

SHARES = (1.0, 0.82, 0.66, 0.52)
"""Of the longest utterance, in padded batches of four; of others as many in the same range."""
MIN_SAMPLES = 400
"""Of a frame."""
LONGEST = 250_000
"""Samples of a crop in training (the recipes' data.max_samples)."""


@dataclass(frozen=True)
class Speech:
    """A padded batch of noise in the place of speech."""

    name: str
    waveforms: Tensor
    """(B, T)."""
    lengths: Tensor
    """(B,) int64."""

    @property
    def full(self) -> bool:
        """Whether no row has padding."""
        return bool((self.lengths == self.waveforms.shape[1]).all())

    @property
    def audio_s(self) -> float:
        """Seconds without padding."""
        return int(self.lengths.sum()) / SAMPLE_RATE


def batch_of(name: str) -> Speech:
    """The batch that a name describes: ROWSxSECONDS, ROWSxSECONDSpadded or ROWSxlibrispeech.

    Raises:
        ValueError: for any other name.
    """
    rows, _, kind = name.partition("x")
    padded = kind.endswith("padded")
    try:
        n_rows = int(rows)
        if kind == "librispeech":
            lengths = librispeech(n_rows)
        else:
            longest = round(float(kind.removesuffix("padded")) * SAMPLE_RATE)
            lengths = [round(longest * share) for share in (shares(n_rows) if padded else [1.0] * n_rows)]
        if min(lengths, default=0) < MIN_SAMPLES:
            raise ValueError
        return speech(name, lengths)
    except ValueError:
        raise ValueError(f"batch {name!r}: name it like 4x5, 4x5padded or 24xlibrispeech") from None


def speech(name: str, lengths: Iterable[int]) -> Speech:
    """Noise of a fixed seed, zero in the padding."""
    counts = torch.tensor(list(lengths))
    waveforms = 0.1 * torch.randn(len(counts), int(counts.max()), generator=torch.Generator().manual_seed(0))
    return Speech(name, waveforms.masked_fill(~frame_mask(counts, waveforms.shape[1]), 0.0), counts)


def shares(rows: int) -> list[float]:
    """Lengths in a padded batch, of the longest."""
    if rows == 2:
        return [1.0, 0.65]
    return np.interp(np.linspace(0, len(SHARES) - 1, rows), range(len(SHARES)), SHARES).tolist()


def librispeech(rows: int, seed: int = 0) -> list[int]:
    """Samples of utterances whose lengths are spread like LibriSpeech's: 12 s on average, cropped."""
    seconds = 1.3 + 15.2 * np.random.default_rng(seed).beta(2.2, 0.9, rows)
    return [min(round(x * SAMPLE_RATE), LONGEST) for x in seconds]
