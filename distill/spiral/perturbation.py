"""What the two networks of SPIRAL hear differently: masks for the student, other positions for the teacher.

All draws depend on a hash of the seed, the epoch and the utterance, so the batch, the process and the worker
do not matter, and no generator has a state to save. They are made on the CPU; what uses them waits for no
device.

Legend: B utterances, M mel frames (10 ms), C mel bins, F output frames (80 ms), D features.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from distill.hashing import hash_number
from distill.waveforms import frame_mask, to_device

MOST_SHIFT = 16
"""Output frames that the teacher's position moves at most (paper, section 3.3: "position randomization")."""
LEAST_TIME_MASKS = 2

Choose = Callable[[int, int], Sequence[int]]
"""(high, number) -> that many different numbers of [0, high)."""


@dataclass(frozen=True, kw_only=True)
class SpecAugment:
    """Adaptive SpecAugment: as many time masks as the utterance is long. Defaults as in pre-training."""

    time_probability: float = 0.5
    """Share of masked frames if masks never overlapped, in [0, 1]; the paper's p is per frame: 0.025."""
    time_length: int = 20
    """Frames of a time mask, in mel frames of 10 ms."""
    channel_probability: float = 0.4
    """Share of masked mel bins if masks never overlapped, in [0, 1]; 0: none."""
    channel_length: int = 20
    """Mel bins of a frequency mask."""

    def __post_init__(self) -> None:
        for name in ("time_probability", "channel_probability"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} must be in [0, 1], not {getattr(self, name)}")
        for name in ("time_length", "channel_length"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")


@dataclass(frozen=True)
class Masks:
    """What is hidden from the student: first frames, then, stronger, mel bins."""

    time: Tensor
    """(B, M) bool, true where a frame is replaced; never in the padding."""
    channels: Tensor
    """(B, C) bool, true where a mel bin is 0 in the whole utterance."""

    def to(self, device: torch.device) -> Masks:
        """On another device."""
        return Masks(to_device(self.time, device), to_device(self.channels, device))


def draw_masks(
    spec: SpecAugment,
    ids: Sequence[str],
    frames: Sequence[int],
    n_channels: int,
    *,
    seed: int,
    epoch: int,
    stream: str = "student",
    width: int | None = None,
) -> Masks:
    """Draw the masks of a batch, on the CPU.

    Each utterance draws its own number of frequency masks; the reference rounds once for a whole batch.

    Args:
        spec: how many masks and how long.
        ids: B names of utterances.
        frames: valid mel frames of each.
        n_channels: C.
        seed: of the run.
        epoch: counts from 0.
        stream: who hears the result; different streams draw differently.
        width: M; default: the largest of `frames`.

    Raises:
        ValueError: if a frequency mask would not fit, or an utterance is longer than `width`.
    """
    if len(ids) != len(frames):
        raise ValueError(f"{len(ids)} ids, but {len(frames)} numbers of frames")
    width = max(frames, default=0) if width is None else width
    if max(frames, default=0) > width:
        raise ValueError(f"an utterance of {max(frames)} frames does not fit into {width}")
    time = np.zeros((len(ids), width), dtype=bool)
    channels = np.zeros((len(ids), n_channels), dtype=bool)
    for row, (name, n_frames) in enumerate(zip(ids, frames, strict=True)):
        random = _generator(seed, epoch, stream, "time masks", name)
        time[row] = time_mask(spec, int(n_frames), width, random.random(), _chooser(random))
        random = _generator(seed, epoch, stream, "channel masks", name)
        channels[row] = channel_mask(spec, n_channels, random.random(), _chooser(random))
    return Masks(torch.from_numpy(time), torch.from_numpy(channels))


def time_mask(spec: SpecAugment, n_frames: int, width: int, u: float, choose: Choose) -> np.ndarray:
    """The masked frames of one utterance, (width,) bool.

    max(2, floor(probability n / length + u)) masks, u uniform in [0, 1), with different starts in
    [0, n - length). Of utterances hardly longer than a mask, starts are in [0, number], so that there are
    enough of them. Masks may overlap, and end where the utterance does.
    """
    mask = np.zeros(width, dtype=bool)
    if spec.time_probability > 0 and n_frames > 0:
        number = int(spec.time_probability * n_frames / spec.time_length + u)
        number = max(LEAST_TIME_MASKS, number)
        high = n_frames - spec.time_length
        starts = choose(high if high > number else number + 1, number)
        mask[:n_frames] = _spans(starts, spec.time_length, n_frames)
    return mask


def channel_mask(spec: SpecAugment, n_channels: int, u: float, choose: Choose) -> np.ndarray:
    """The masked mel bins of one utterance, (C,) bool.

    floor(probability C / length + u) masks with different starts in [0, C - length).
    """
    if spec.channel_probability == 0:
        return np.zeros(n_channels, dtype=bool)
    high = n_channels - spec.channel_length
    if high < 1:
        raise ValueError(f"channel_length {spec.channel_length} must be below the {n_channels} mel bins")
    number = int(spec.channel_probability * n_channels / spec.channel_length + u)
    return _spans(choose(high, min(number, high)), spec.channel_length, n_channels)


def draw_shifts(
    ids: Sequence[str], *, seed: int, epoch: int, most: int = MOST_SHIFT
) -> tuple[Tensor, Tensor]:
    """How many output frames each utterance of the teacher gets in front and behind, both in 0 to `most`.

    Each utterance has its own; the reference draws one pair for a whole batch.

    Returns:
        left and right, (B,) int64 on the CPU.
    """
    draws = [_generator(seed, epoch, "shift", name).random(2) for name in ids]
    shifts = (np.reshape(draws, (-1, 2)) * (most + 1)).astype(np.int64)
    left, right = torch.from_numpy(shifts).unbind(1)
    return left, right


def shift(
    features: Tensor, frames: Tensor | None, left: Tensor, right: Tensor, fill: Tensor, *, unit: int = 8
) -> tuple[Tensor, Tensor]:
    """Move utterances to later positions, and put something behind them.

    In front come left * unit frames of `fill`; directly behind an utterance's own end right * unit; zeros
    behind all that. Since `unit` frames make one output frame, those from `left` on are the utterance's own,
    whether or not its length is a multiple of it: see `unshift`.

    Args:
        features: (B, M, C).
        frames: (B,) valid frames; None when all M are.
        left: (B,) output frames, on the CPU, so that the new width is known without waiting for a device.
        right: (B,) the same, behind.
        fill: (C,), the frame to fill with: the mask embedding.
        unit: mel frames of an output frame.

    Returns:
        (B, M', C), M' a multiple of `unit`, and (B,) valid frames, filled ones among them.
    """
    n_frames = features.shape[1]
    longest = int((left + right).max()) if len(left) else 0
    width = (-(-n_frames // unit) + longest) * unit
    left, right = (to_device(x, features.device)[:, None] * unit for x in (left, right))
    end = left + (n_frames if frames is None else frames[:, None])  # of the utterance itself
    position = torch.arange(width, device=features.device)[None]  # (1, M')
    own = (position >= left) & (position < end)  # (B, M')
    filled = ~own & (position < end + right)
    source = (position - left).clamp(0, max(n_frames - 1, 0))
    rows = torch.arange(len(features), device=features.device)[:, None]
    shifted = features[rows, source].masked_fill(~own[..., None], 0.0)
    shifted = torch.where(filled[..., None], fill.to(features), shifted)
    return shifted, (end + right)[:, 0]


def unshift(x: Tensor, left: Tensor, lengths: Tensor, *, width: int | None = None) -> Tensor:
    """Take from shifted output what belongs to the utterances themselves.

    Args:
        x: (B, F', D), from features that went through `shift`.
        left: (B,) what it was given.
        lengths: (B,) output frames of the utterances themselves.
        width: F; default: the largest of `lengths`, which waits for their device.

    Returns:
        (B, F, D), zeros behind each utterance's end.
    """
    width = int(lengths.max()) if width is None else width
    if width > x.shape[1]:
        raise ValueError(f"{x.shape[1]} shifted frames cannot hold {width}")
    source = to_device(left, x.device)[:, None] + torch.arange(width, device=x.device)
    rows = torch.arange(len(x), device=x.device)[:, None]
    own = x[rows, source.clamp(max=x.shape[1] - 1)]  # (B, F, D)
    valid = frame_mask(to_device(lengths, x.device), width)
    return own.masked_fill(~valid[..., None], 0.0)


def _generator(*key: object) -> np.random.Generator:
    """Random numbers that depend on `key` alone."""
    return np.random.Generator(np.random.Philox(key=hash_number(*key)))


def _chooser(random: np.random.Generator) -> Choose:
    """By the order of uniform numbers: numpy promises the same ones for ever, but not the same choices."""
    return lambda high, number: random.random(high).argsort(kind="stable")[:number].tolist()


def _spans(starts: Sequence[int], length: int, width: int) -> np.ndarray:
    """(width,) bool, true in the spans of a length that begin at `starts`."""
    mask = np.zeros(width, dtype=bool)
    for start in starts:
        mask[start : start + length] = True
    return mask
