"""Waveforms: their sampling rate, what counts as samples, silence, padding.

Shapes: B utterances, T samples at 16 kHz, F frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

SAMPLE_RATE = 16_000
SILENT_POWER = 1e-10  # mean square below -100 dB of full scale: digital silence plus dither


def check_samples(name: str, samples: Any) -> None:
    """Refuse what is no tensor of floating-point numbers.

    Integers are not converted: whether 16, 24 or 32 bits of them are in use is not seen in the tensor.

    Raises:
        ValueError: saying what to do.
    """
    if not isinstance(samples, Tensor):
        raise ValueError(
            f"{name} must be a torch tensor, not {type(samples).__name__}: torch.from_numpy makes one of an "
            "array"
        )
    if not samples.is_floating_point():
        found = str(samples.dtype).removeprefix("torch.")
        raise ValueError(
            f"{name} must hold floating-point samples within +-1, not {found}: divide 16-bit ones by 32768"
        )


def normalize_waveforms(waveforms: Tensor, lengths: Tensor | None) -> Tensor:
    """Zero mean and unit variance over each row's valid samples, zero in the padding. (B, T) -> (B, T).

    In float32 at least: the squares of quiet samples are 0 in half precision.
    """
    waveforms = waveforms.float() if waveforms.dtype in (torch.float16, torch.bfloat16) else waveforms
    if lengths is None:
        return F.layer_norm(waveforms, waveforms.shape[1:])
    valid = frame_mask(lengths, waveforms.shape[1])
    count = lengths[:, None]
    mean = waveforms.masked_fill(~valid, 0.0).sum(1, keepdim=True) / count
    centred = (waveforms - mean).masked_fill(~valid, 0.0)
    variance = centred.square().sum(1, keepdim=True) / count
    return centred * torch.rsqrt(variance + 1e-5)  # epsilon as in F.layer_norm


def is_silent(samples: Tensor) -> bool:
    """Whether a stretch of samples is too quiet to be given a level."""
    return not float(samples.square().mean()) > SILENT_POWER


def with_gain(waveforms: Tensor, gain_db: float) -> Tensor:
    """Waveforms louder by `gain_db`, as sox's `gain` makes them (without its clipping at full scale)."""
    return waveforms * 10 ** (gain_db / 20) if gain_db else waveforms


def pad(waveforms: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Utterances of different length -> (B, T) padded with zeros, (B,) lengths."""
    lengths = torch.tensor([len(x) for x in waveforms], dtype=torch.int64)
    padded = torch.nn.utils.rnn.pad_sequence(list(waveforms), batch_first=True)
    return padded, lengths


def all_full(waveforms: Tensor, lengths: Tensor | None) -> bool:
    """Whether all rows (B, T) are known to be full; lengths on a GPU are not read: that would wait for it."""
    if lengths is None:
        return True
    readable = lengths.device.type == "cpu" and not torch.compiler.is_compiling()
    return readable and bool((lengths == waveforms.shape[1]).all())


def to_device(x: Tensor, device: torch.device) -> Tensor:
    """A copy of a CPU tensor that nobody waits for: from pinned memory, if it goes to a GPU."""
    pinned = x.pin_memory() if device.type == "cuda" and x.device.type == "cpu" else x
    return pinned.to(device, non_blocking=True)


def frame_mask(lengths: Tensor, frames: int) -> Tensor:
    """(B,) valid frames -> (B, F) bool, true where a frame is valid."""
    return torch.arange(frames, device=lengths.device) < lengths[:, None]


def masked_mean(x: Tensor, lengths: Tensor) -> Tensor:
    """Mean over the valid frames of each row: (B, F, D) and (B,) valid frames -> (B, D)."""
    valid = frame_mask(lengths, x.shape[1])[:, :, None]
    return x.masked_fill(~valid, 0.0).sum(1) / lengths[:, None]
