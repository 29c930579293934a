"""Log-mel filterbanks of 10 ms, normalised per utterance: features of SPIRAL and of light students.

Shapes: B utterances, T samples at 16 kHz, M frames of 10 ms.

An utterance gets the same features alone and in any batch: it is reflected at its beginning and followed by
zeros, in every row. The reference reflects the end of the padded row too, which only the longest utterance
hears: there the last two frames differ by up to one normalised unit, all others by up to 0.04.
"""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from distill.waveforms import SAMPLE_RATE, frame_mask, to_device

BANDS = 128
"""Mel bands."""
MOST_BANDS = 256
"""As many as the transform has frequencies."""
STEP = SAMPLE_RATE // 100
"""Samples from one frame to the next: 10 ms."""
_WINDOW = 2 * STEP  # 20 ms
_N_FFT = 512
_PRE_EMPHASIS = 0.97
_FLOOR = 2.0**-24  # added to the energy of a band
_EPSILON = 1e-5  # added to peak and deviation


def mel_frames(n_samples: Tensor) -> Tensor:
    """Valid frames of (B,) samples: one for each step begun."""
    return (n_samples + STEP - 1) // STEP


class LogMel(nn.Module):
    """Normalised log-mel filterbanks. (B, T), (B,) samples or None -> (B, M, 128), (B,) frames or None.

    Peak normalisation, pre-emphasis 0.97, power spectrum of 20 ms (symmetric Hann window) every 10 ms, 128
    Slaney mel bands to 8 kHz, natural logarithm; then minus mean, over standard deviation, of an utterance's
    bands each (`per_band`, SPIRAL) or of all of them together, which keeps the shape of its spectrum. M is a
    multiple of `multiple`; frames that are not valid are zero. Always in float32.
    """

    def __init__(self, multiple: int, bands: int = BANDS, *, per_band: bool = True):
        super().__init__()
        self.multiple, self.bands, self.per_band = multiple, bands, per_band

    @override
    def forward(self, waveforms: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """`lengths` None: every row is full; then frames are None too, if all M are valid."""
        rows, samples = waveforms.shape
        with torch.autocast(waveforms.device.type, enabled=False):
            x = waveforms.float()
            if lengths is not None:
                x = x.masked_fill(~frame_mask(lengths, samples), 0.0)
            energy = _band_energy(x, self.bands)  # (B, frames, 128)
            frames = None if lengths is None else mel_frames(lengths)
            normalised = _normalise((energy + _FLOOR).log(), frames, (1,) if self.per_band else (1, 2))
        short = -normalised.shape[1] % self.multiple
        if short and frames is None:
            frames = torch.full((rows,), normalised.shape[1], dtype=torch.int64, device=x.device)
        return F.pad(normalised, (0, 0, 0, short)), frames


def _band_energy(x: Tensor, bands: int) -> Tensor:
    """(B, T) -> (B, M, 128), energy of mel bands, of all frames that begin within T."""
    x = x / (x.abs().amax(1, keepdim=True) + _EPSILON)
    x = F.pad(x, (0, _WINDOW + -x.shape[1] % STEP))  # also the sample behind an end has its pre-emphasis
    x = torch.cat([x[:, :1], x[:, 1:] - _PRE_EMPHASIS * x[:, :-1]], dim=1)
    frames = x.shape[1] // STEP - 2
    # The window sees 10 ms on each side of its middle, the first of which is the first sample.
    x = torch.cat([x[:, 1 : STEP + 1].flip(1), x], dim=1)
    window, filters = constants(x.device, bands)
    spectrum = torch.fft.rfft(x.unfold(1, _WINDOW, STEP)[:, :frames] * window, n=_N_FFT)  # (B, M, 257)
    return (spectrum.real.square() + spectrum.imag.square()) @ filters


def _normalise(x: Tensor, frames: Tensor | None, over: tuple[int, ...]) -> Tensor:
    """Zero mean and unit (unbiased) deviation over some dimensions of valid frames, zero behind. (B, M, 128).

    `over`: (1,), of each band, or (1, 2), of all together.
    """
    if frames is None:
        several = x.shape[1] > 1 or len(over) > 1
        deviation = x.std(over, keepdim=True) if several else torch.zeros_like(x)
        return (x - x.mean(over, keepdim=True)) / (deviation + _EPSILON)
    valid = frame_mask(frames, x.shape[1])[:, :, None]
    count = frames[:, None, None] * (x.shape[2] if len(over) > 1 else 1)
    mean = x.masked_fill(~valid, 0.0).sum(over, keepdim=True) / count
    centred = (x - mean).masked_fill(~valid, 0.0)
    variance = centred.square().sum(over, keepdim=True) / (count - 1).clamp(min=1)
    return centred / (variance.sqrt() + _EPSILON)


@cache
def constants(device: torch.device, bands: int) -> tuple[Tensor, Tensor]:
    """Window (320,) and mel filters (257, 128), on a device."""
    from torchaudio.functional import melscale_fbanks

    with torch.device("cpu"):
        window = torch.hann_window(_WINDOW, periodic=False)
        filters = melscale_fbanks(
            *(_N_FFT // 2 + 1, 0.0, SAMPLE_RATE / 2, bands, SAMPLE_RATE), norm="slaney", mel_scale="slaney"
        )
    return to_device(window, device), to_device(filters, device)
