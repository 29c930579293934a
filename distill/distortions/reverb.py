"""Reverberation: sox's synthetic room, and recorded room impulse responses.

sox's `reverb` is Freeverb (Jezar at Dreampoint, 2000; public domain): per channel, eight parallel comb
filters with a one-pole low-pass in the loop, then four Schroeder all-passes in series (Schroeder, "Natural
sounding artificial reverberation", 1962). It is linear and time-invariant, so one impulse response per room
scale is all of it. sox clips its output at +-1; ours does not.

Legend: B utterances, T samples, L taps.
"""

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from distill.distortions.padded import (
    PerRow,
    clear_padding_,
    convolve,
    float_copy,
    per_row,
    valid_lengths,
)
from distill.waveforms import SAMPLE_RATE, to_device

# Freeverb's delays in samples at 44.1 kHz, and by how much they differ between the two channels.
_COMB_DELAYS = (1116, 1188, 1277, 1356, 1422, 1491, 1557, 1617)
_ALLPASS_DELAYS = (225, 341, 441, 556)
_STEREO_SPREAD = 12
_REVERBERANCE = 50.0  # per cent, as in `reverb 50 50 ROOM`
_HF_DAMPING = 50.0  # per cent
_ALLPASS_GAIN = 0.5
_WET_GAIN = 0.015  # Freeverb's fixed input gain; sox's wet gain of 0 dB leaves it
_TAIL_DB = -120.0  # what is cut off the response holds less than this share of its energy
_N_GRID = 1 << 16  # 4.1 s: at the largest room the response has decayed by 150 dB, so nothing wraps around
_SILENT_ENERGY = 1e-20  # an impulse response below this energy is an empty file


@torch.no_grad()
def apply(waveforms: Tensor, lengths: Tensor | Sequence[int] | None, room_scale: PerRow) -> Tensor:
    """Reverberate like sox `reverb 50 50 ROOM` followed by `channels 1`.

    Args:
        waveforms: (B, T) at 16 kHz; not modified.
        lengths: (B,) valid samples; None means full rows.
        room_scale: (B,) integers 0-100, per cent, or one for all.

    Returns:
        (B, T) float32 of the same lengths (the tail after the last sample is cut, padding is zero).

    Raises:
        ValueError: if a shape is wrong or a room scale is not an integer in 0-100.
    """
    counts = valid_lengths(waveforms, lengths)
    rooms = per_row("room_scale", room_scale, len(counts), 0, 100)
    if any(room != int(room) for room in rooms):
        raise ValueError(f"room_scale must hold integers, got {rooms}")
    if not counts:
        return waveforms.to(torch.float32, copy=True)
    responses = [impulse_response(int(room)) for room in rooms]
    kernels = to_device(pad_sequence(responses, batch_first=True), waveforms.device)  # (B, L)
    return clear_padding_(convolve(float_copy(waveforms, counts), kernels), counts)


@torch.no_grad()
def convolve_rir(
    waveforms: Tensor,
    lengths: Tensor | Sequence[int] | None,
    rirs: Sequence[Tensor],
    energy_db: Sequence[float | None] | None = None,
) -> Tensor:
    """Convolve each utterance with a recorded room impulse response.

    The response h is scaled to unit energy, so that the level does not grow with its length, and aligned at
    its direct path (the largest sample), so that speech is not delayed. A silent or non-finite response
    leaves its utterance as it is.

    Where `energy_db` is given, it is done as in the code that the paper's authors released: h is scaled as if
    it were a noise at that SNR, sum h^2 = sum x^2 · 10^(-energy_db / 10), and not aligned. Sums, not means:
    the level grows with the square root of the utterance's length and with the speech's own level.

    Args:
        waveforms: (B, T) at 16 kHz; not modified.
        lengths: (B,) valid samples; None means full rows.
        rirs: B responses at 16 kHz, each 1-D, best on the CPU: a GPU has to be waited for.
        energy_db: by how many dB each response has less energy than its utterance; None: unit energy.

    Returns:
        (B, T) float32 of the same lengths (the tail is cut, padding is zero).

    Raises:
        ValueError: if a shape or the number of responses is wrong.
    """
    counts = valid_lengths(waveforms, lengths)
    if len(rirs) != len(counts):
        raise ValueError(f"rirs must have one response per waveform, got {len(rirs)} for {len(counts)}")
    if not counts:
        return waveforms.to(torch.float32, copy=True)
    ratios = list(energy_db) if energy_db is not None else [None] * len(rirs)
    if len(ratios) != len(rirs):
        raise ValueError(f"energy_db must have one value per response, got {len(ratios)} for {len(rirs)}")
    responses = [_unit_energy(rir.cpu()) for rir in rirs]
    peaks = [int(h.abs().argmax()) if db is None else 0 for h, db in zip(responses, ratios, strict=True)]
    origin = max(peaks)
    rows = [F.pad(h, (origin - peak, 0)) for h, peak in zip(responses, peaks, strict=True)]
    kernels = to_device(pad_sequence(rows, batch_first=True), waveforms.device)  # (B, L)
    speech = float_copy(waveforms, counts)
    out = clear_padding_(convolve(speech, kernels, origin), counts)
    # gain = fixed + factor · |x|: 1 + 0 where the response keeps its unit energy.
    own = [db is not None and usable_rir(rir) for rir, db in zip(rirs, ratios, strict=True)]
    if any(own):
        factor = [10 ** (-(db or 0) / 20) if is_own else 0.0 for db, is_own in zip(ratios, own, strict=True)]
        numbers = torch.tensor([[1.0 - is_own for is_own in own], factor])
        fixed, factors = to_device(numbers, out.device)
        out *= (fixed + factors * torch.linalg.vector_norm(speech, dim=1))[:, None]
    return out


def usable_rir(rir: Tensor) -> bool:
    """Whether a response can be scaled to unit energy: finite and not silent."""
    energy = float(rir.detach().double().square().sum())
    return _SILENT_ENERGY < energy < math.inf


@lru_cache(maxsize=101)
def impulse_response(room_scale: int) -> Tensor:
    """Sox's response from a mono input to the mean of its two output channels, dry sound included.

    Per channel c: h = delta + g · A1 A2 A3 A4 (C1 + ... + C8), with, for a delay of N samples, feedback f and
    damping d,
    comb C(z) = z^-N (1 - d z^-1) / (1 - d z^-1 - f (1 - d) z^-N) and
    all-pass A(z) = (-1 + (1 + a) z^-N) / (1 - a z^-N), a = 0.5,
    evaluated on a dense frequency grid and transformed back.

    Args:
        room_scale: per cent, integer 0-100; scales the combs' delays by 0.1 + 0.9 · room_scale / 100.

    Returns:
        (L,) float32 on the CPU, cut where the rest holds less than -120 dB of the energy. Shared, so do not
        modify it.
    """
    delay_scale = 0.1 + 0.9 * room_scale / 100
    wet = sum(_wet_spectrum(delay_scale, side) for side in (0, 1))
    response = np.fft.irfft(1 + _WET_GAIN / 2 * wet, _N_GRID)
    left_over = np.cumsum(response[::-1] ** 2)[::-1]
    n_taps = int(np.argmax(left_over < 10 ** (_TAIL_DB / 10) * left_over[0]))
    return torch.from_numpy(response[:n_taps].astype(np.float32))


def _unit_energy(rir: Tensor) -> Tensor:
    if rir.ndim != 1 or rir.numel() == 0:
        raise ValueError(f"a room impulse response must be 1-D and not empty, got {tuple(rir.shape)}")
    if not usable_rir(rir):
        return torch.ones(1, device=rir.device)
    return (rir.double() / rir.double().norm()).float()


def _feedback() -> float:
    """Comb feedback for the reverberance in per cent: sox maps 0-100 exponentially onto 0.3-0.98."""
    a = -1 / math.log(1 - 0.3)
    b = 100 / (math.log(1 - 0.98) * a + 1)
    return 1 - math.exp((_REVERBERANCE - b) / (a * b))


def _wet_spectrum(delay_scale: float, side: int) -> np.ndarray:
    """Transfer function of one channel's combs and all-passes on the grid, (_N_GRID / 2 + 1,) complex."""
    turns = np.exp(-2j * np.pi * np.arange(_N_GRID) / _N_GRID)
    bins = np.arange(_N_GRID // 2 + 1)

    def delay(n_samples: int) -> np.ndarray:
        return turns[bins * n_samples % _N_GRID]

    damping = _HF_DAMPING / 100 * 0.3 + 0.2
    rate_ratio = SAMPLE_RATE / 44_100
    spread = _STEREO_SPREAD * side
    loop = 1 - damping * delay(1)
    combs = np.zeros(len(bins), dtype=complex)
    for i, n in enumerate(_COMB_DELAYS):
        z = delay(int(delay_scale * rate_ratio * (n + spread * (-1) ** i) + 0.5))
        combs += z * loop / (loop - _feedback() * (1 - damping) * z)
    for i, n in enumerate(_ALLPASS_DELAYS):
        z = delay(int(rate_ratio * (n + spread * (-1) ** i) + 0.5))
        combs *= (-1 + (1 + _ALLPASS_GAIN) * z) / (1 - _ALLPASS_GAIN * z)
    return combs
