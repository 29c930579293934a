"""The heads of SUPERB (Yang et al. 2021) and their losses, as in s3prl's recipes.

Shapes: B utterances, F frames, D features, V outputs (classes of all slots, or symbols), S slots, U symbols.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from distill.waveforms import masked_mean

BLANK = 0
"""Index of CTC's blank."""


class UtteranceHead(nn.Module):
    """KS, IC, ER, SLURP: project each frame, average over valid frames, classify. No non-linearity.

    Args:
        dim: D.
        slots: number of classes of each slot (IC has three: action, object, location; others one).
        width: of the projection.
    """

    def __init__(self, dim: int, slots: Sequence[int], width: int = 256):
        super().__init__()
        self.slots = tuple(slots)
        self.projector = nn.Linear(dim, width)
        self.linear = nn.Linear(width, sum(self.slots))

    def forward(self, features: Tensor, frames: Tensor) -> Tensor:
        """(B, F, D), (B,) valid frames -> (B, V) logits of all slots."""
        return self.linear(masked_mean(self.projector(features), frames))

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy, averaged over utterances, summed over slots; targets (B, S)."""
        parts = logits.split(self.slots, dim=1)
        losses = [F.cross_entropy(part, targets[:, slot]) for slot, part in enumerate(parts)]
        return torch.stack(losses).sum()

    def predict(self, logits: Tensor) -> Tensor:
        """(B, S), the most likely class of each slot."""
        return torch.stack([part.argmax(1) for part in logits.split(self.slots, dim=1)], dim=1)


class CharacterHead(nn.Module):
    """ASR: projection and bidirectional LSTMs, trained by CTC.

    Args:
        dim: D.
        symbols: V, the blank included.
        width: of the projection and of each direction of an LSTM.
        layers: LSTMs.
        dropout: probability, after each LSTM.
    """

    def __init__(self, dim: int, symbols: int, width: int = 1024, layers: int = 2, dropout: float = 0.2):
        super().__init__()
        self.projector = nn.Linear(dim, width)
        sizes = [width] + [2 * width] * (layers - 1)
        self.lstms = nn.ModuleList(
            nn.LSTM(size, width, bidirectional=True, batch_first=True) for size in sizes
        )
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(2 * width, symbols)

    def forward(self, features: Tensor, frames: Tensor) -> Tensor:
        """(B, F, D), (B,) valid frames -> (B, F, V) log-probabilities."""
        x = self.projector(features)
        n_frames = x.shape[1]
        for lstm in self.lstms:
            packed = pack_padded_sequence(x, frames.cpu(), batch_first=True, enforce_sorted=False)
            x, _ = pad_packed_sequence(lstm(packed)[0], batch_first=True, total_length=n_frames)
            x = self.dropout(x)
        return self.linear(x).float().log_softmax(2)


class PhoneHead(nn.Module):
    """PR: two linear layers on every frame, trained by CTC.

    Args:
        dim: D.
        symbols: V, the blank included.
        width: of the projection.
    """

    def __init__(self, dim: int, symbols: int, width: int = 256):
        super().__init__()
        self.projector = nn.Linear(dim, width)
        self.linear = nn.Linear(width, symbols)

    def forward(self, features: Tensor, frames: Tensor) -> Tensor:
        """(B, F, D) -> (B, F, V) log-probabilities."""
        return self.linear(self.projector(features)).float().log_softmax(2)


Head = UtteranceHead | CharacterHead | PhoneHead


def ctc_loss(log_probs: Tensor, frames: Tensor, targets: Tensor, target_lengths: Tensor) -> Tensor:
    """CTC (Graves et al. 2006), divided by each transcript's length, averaged over utterances.

    Args:
        log_probs: (B, F, V).
        frames: (B,) valid frames.
        targets: (B, U) symbols, padded.
        target_lengths: (B,) valid symbols.
    """
    return F.ctc_loss(
        log_probs.transpose(0, 1), targets, frames, target_lengths, blank=BLANK, zero_infinity=True
    )


# SpecAugment (Park et al. 2019) on the features, with the values of SUPERB's ASR.
_FEATURE_MASKS, _FEATURE_MASK_WIDTH = 4, 50
_TIME_MASKS, _TIME_MASK_WIDTH = 2, 40
_WARP_FRAMES = 5


def spec_augment(features: Tensor, frames: Tensor, generator: torch.Generator) -> Tensor:
    """Warp time and zero out stretches of time and of features, in each utterance by itself.

    Args:
        features: (B, F, D), not changed in place.
        frames: (B,) valid frames.
        generator: on the CPU.
    """
    augmented = features.clone()
    for row, n_frames in zip(augmented, frames.tolist(), strict=True):
        valid = row[:n_frames]
        warped = _warp(valid, generator)
        for _ in range(_FEATURE_MASKS):
            start, end = _stretch(valid.shape[1], _FEATURE_MASK_WIDTH, generator)
            warped[:, start:end] = 0.0
        for _ in range(_TIME_MASKS):
            start, end = _stretch(n_frames, _TIME_MASK_WIDTH, generator)
            warped[start:end] = 0.0
        row[:n_frames] = warped
    return augmented


def _draw(low: int, high: int, generator: torch.Generator) -> int:
    """An integer in [low, high)."""
    return int(torch.randint(low, high, (), generator=generator))


def _stretch(size: int, most: int, generator: torch.Generator) -> tuple[int, int]:
    width = _draw(0, most, generator)
    start = _draw(0, max(1, size - width), generator)
    return start, start + width


def _warp(x: Tensor, generator: torch.Generator) -> Tensor:
    """Move a random frame by at most 5, resizing the parts before and after it. (F, D)."""
    n_frames = len(x)
    if n_frames <= 2 * _WARP_FRAMES + 1:
        return x.clone()
    centre = _draw(_WARP_FRAMES, n_frames - _WARP_FRAMES, generator)
    moved = _draw(max(1, centre - _WARP_FRAMES), min(n_frames, centre + _WARP_FRAMES + 1), generator)
    parts = [(x[:centre], moved), (x[centre:], n_frames - moved)]
    return torch.cat([_resize(part, size) for part, size in parts])


def _resize(x: Tensor, n_frames: int) -> Tensor:
    image = x[None, None]  # bicubic along time; the features keep their number
    return F.interpolate(image, (n_frames, x.shape[1]), mode="bicubic", align_corners=False)[0, 0]
