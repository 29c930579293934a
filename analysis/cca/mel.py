"""Mel filter banks at the frames of a model: the acoustic view of layer-wise CCA.

The reference's spectrogram (Pasad et al.) begins before the first sample, so that frame j has its middle at
sample 160 j. A frame i of HuBERT and its like sees the samples 320 i to 320 i + 400. Here a window is 400
samples, too, and begins where the model's does: both views see the same samples, and there are as many of
them. Nothing else differs.

Shapes: T samples at 16 kHz, F frames, D features.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from distill.waveforms import SAMPLE_RATE

WIDTH = 80
WINDOW = SAMPLE_RATE // 40
"""Samples that a frame sees: 25 ms."""
STEP = SAMPLE_RATE // 100
"""Samples from frame to frame before decimation: 10 ms."""
_N_FFT, _LOWEST_HZ = 2048, 50.0
_PEAK, _PRE_EMPHASIS = 0.999, 0.97
_RANGE_DB, _SMALLEST = 80.0, 1e-5
MOST_APART = 2
"""Frames that two views of an utterance may differ by: rounding at its end."""


def mel_view(waveform: Tensor, *, every: int = 2) -> Tensor:
    """The logarithm of the mel spectrum, as dB / 80 + 1, within 80 dB of the utterance's loudest value.

    The peak is brought to 0.999, then y[t] = x[t] - 0.97 x[t - 1]; Hann windows of 25 ms; magnitudes of 2048
    points; 80 triangles from 50 Hz to 8 kHz of equal area (Slaney's scale and norm).

    Args:
        waveform: (T,), at least one window.
        every: of the frames at 10 ms, keep the first of this many: 2 for frames at 20 ms.

    Returns:
        (F, 80) float32, F = (T - 400) // 160 // every + 1.

    Raises:
        ValueError: the waveform is too short or not 1-D.
    """
    if waveform.dim() != 1 or len(waveform) < WINDOW:
        raise ValueError(f"waveform must be (T,) with T >= {WINDOW}, not {tuple(waveform.shape)}")
    waveform = waveform.float()
    waveform = waveform * (_PEAK / waveform.abs().max().clamp(min=1e-30))
    waveform = torch.cat([waveform[:1], waveform[1:] - _PRE_EMPHASIS * waveform[:-1]])
    windows = waveform.unfold(0, WINDOW, STEP) * torch.hann_window(WINDOW, device=waveform.device)
    magnitudes = torch.fft.rfft(windows, n=_N_FFT).abs()
    level_db = 20 * torch.log10((magnitudes @ _triangles().to(waveform.device)).clamp(min=_SMALLEST))
    return (level_db.clamp(min=float(level_db.max()) - _RANGE_DB) / _RANGE_DB + 1)[::every]


def mel_at(waveform: Tensor, step: int) -> Tensor:
    """`mel_view` at the frames of slower models: the mean of its frames of 20 ms in each of theirs.

    Args:
        waveform: as there.
        step: samples from one frame to the next; where they are no multiple of 20 ms, frames of 20 ms.
    """
    rows = mel_view(waveform)
    each, left = divmod(step, 2 * STEP)
    if left or each <= 1:
        return rows
    n_frames = len(rows) // each
    return rows[: n_frames * each].unflatten(0, (n_frames, each)).mean(1)


@functools.cache
def _triangles() -> Tensor:
    """(1025, 80)."""
    from torchaudio.functional import melscale_fbanks

    n_frequencies = _N_FFT // 2 + 1
    scale = {"norm": "slaney", "mel_scale": "slaney"}
    return melscale_fbanks(n_frequencies, _LOWEST_HZ, SAMPLE_RATE / 2, WIDTH, SAMPLE_RATE, **scale)
