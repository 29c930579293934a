"""Noise for a whole utterance, of clips that follow one another: multi-condition training of SPIRAL.

Huang et al., "SPIRAL: Self-supervised perturbation-invariant representation learning for speech pre-training"
(ICLR 2022), as its released code does it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from distill.distortions.additive import noise_segment
from distill.waveforms import is_silent

SHORTEST_S = 1.0
"""Clips shorter than this are left out, seconds."""

_MOST_UNUSABLE = 20  # clips in a row: more than bad luck explains


class ClipDraws:
    """Draws clips of a corpus with probability proportional to their duration, those under 1 s never.

    Args:
        durations: of the N clips, in seconds.

    Raises:
        ValueError: if no clip is long enough.
    """

    def __init__(self, durations: np.ndarray) -> None:
        seconds = np.asarray(durations, dtype=np.float64)
        self.n_short = int((seconds < SHORTEST_S).sum())
        self.ends = np.where(seconds < SHORTEST_S, 0.0, seconds).cumsum()
        if not len(seconds) or not self.ends[-1] > 0:
            raise ValueError(f"no clip has {SHORTEST_S:g} s")
        self._last = int(np.searchsorted(self.ends, self.ends[-1]))  # by rounding, a product can be the sum

    def draw(self, generator: np.random.Generator) -> tuple[int, float]:
        """The number of a clip, and a place in it in [0, 1)."""
        choice, place = generator.random(2).tolist()
        number = int(np.searchsorted(self.ends, self.ends[-1] * choice, side="right"))
        return min(number, self._last), place


def string_clips(
    draws: ClipDraws,
    seed: int,
    n_samples: int,
    *,
    length: Callable[[int], int],
    read: Callable[[int, int, int], Tensor | None],
) -> tuple[Tensor | None, list[tuple[int, int]]]:
    """Clip after clip until the utterance is full; of one that is too long for the rest, a random stretch.

    Each stretch is scaled to unit power, so that noise scaled as a whole to an SNR has that SNR in every
    stretch: P_n = sum_k (n_k / n) · 1 = 1. A stretch that is silent has no such scale; the next clip takes
    its place.

    Args:
        draws: from the corpus.
        seed: of the utterance's draws.
        n_samples: to fill, at 16 kHz.
        length: samples of a clip, by its number.
        read: samples of a clip (number, first sample, count); None if it cannot be used.

    Returns:
        (n_samples,), or None if too many clips in a row cannot be used; number and first sample of each clip
        in it.
    """
    stretches: list[Tensor] = []
    used: list[tuple[int, int]] = []
    generator = np.random.Generator(np.random.Philox(key=seed))
    missing, unusable = n_samples, 0
    while missing and unusable < _MOST_UNUSABLE:
        number, place = draws.draw(generator)
        start, count = noise_segment(max(length(number), 1), missing, place)
        samples = read(number, start, count)
        if samples is None or not len(samples) or is_silent(samples):
            unusable += 1
            continue
        unusable = 0
        stretches.append(samples / samples.square().mean().sqrt())
        used.append((number, start))
        missing -= len(samples)
    return (None if missing else torch.cat(stretches)), used
