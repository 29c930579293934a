"""Pitch shift: sox `pitch CENTS` followed by `rate 16000`.

Speech is stretched in time by WSOLA (Verhelst & Roelands, "An overlap-add technique based on waveform
similarity (WSOLA)", ICASSP 1993) and resampled back to its length: pitch and formants move by the same
ratio and the rhythm stays. sox does the same, with segments, cross-fade and search of the same lengths.

Legend: B utterances, T samples, K segments, S stretched samples.
"""

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from distill.distortions import pitch_at_once
from distill.distortions.padded import (
    PerRow,
    clear_padding_,
    float_copy,
    on_cpu,
    per_row,
    valid_lengths,
)
from distill.waveforms import to_device

MAX_CENTS = 1200.0
# sox's: 82 ms segments, a 12 ms cross-fade, a 14.68 ms search. Shorter segments keep the rhythm a little
# better (10 ms envelope against the input's: correlation 0.96 in place of 0.94; sox 0.88), but cost twice the
# time and are farther from sox's spectrum.
_SEGMENT = 1312
_OVERLAP = 192
_SEARCH = 235
_ADVANCE = _SEGMENT - _OVERLAP
_N_FFT = 432  # holds a search window (_SEARCH + _OVERLAP - 1 = 426) without wrapping around
# Among equally good places the first wins by more than rounding can blur: the batch must not decide.
_TIE_MARGIN = 1e-9
_UNITS = 16  # resampling blocks are 16 equal units long, so that they can be placed at whole samples
_UNIT_RANGE = (128, 512)  # samples in a unit: the blocks stay in cache
_GUARD = 200  # samples at a block's ends: seams stay 110 dB below a tone
_PASSBAND = 0.915  # of the lower Nyquist frequency: -3 dB at 0.945, as sox's `rate` (its 95 %)


@torch.no_grad()
def apply(waveforms: Tensor, lengths: Tensor | Sequence[int] | None, cents: PerRow) -> Tensor:
    """Shift each utterance's pitch, keeping its length.

    Args:
        waveforms: (B, T) at 16 kHz; not modified.
        lengths: (B,) valid samples; None means full rows.
        cents: (B,) hundredths of a semitone, or one for all; up positive, within +-1200, rounded to the
            nearest fast resampling ratio (at most 2.5 cents off, 0.5 on average); 0 returns the input.

    Returns:
        (B, T) float32 of the same lengths, padding zero.

    Raises:
        ValueError: if a shape is wrong or a shift is out of range.
    """
    counts = valid_lengths(waveforms, lengths)
    shifts = per_row("cents", cents, len(counts), -MAX_CENTS, MAX_CENTS)
    out = float_copy(waveforms, counts)
    moved = [row for row, shift in enumerate(shifts) if shift != 0]
    if not moved:
        return out
    units = [_units(shifts[row]) for row in moved]
    tempos = [unit_out / unit_in for unit_in, unit_out in units]
    n_stretched = [math.ceil(counts[row] / tempo) for row, tempo in zip(moved, tempos, strict=True)]
    rows = to_device(torch.tensor(moved), out.device)
    stretched = _stretch(out[rows], tempos, max(n_stretched))
    if not on_cpu(out):
        n_wanted = [counts[row] for row in moved]
        clear_padding_(stretched, n_stretched)
        shifted = pitch_at_once.resample(stretched, units, n_wanted, [_passband(*unit) for unit in units])
        out[rows, : max(n_wanted)] = clear_padding_(shifted, n_wanted)
        return out
    for i, row in enumerate(moved):
        out[row, : counts[row]] = _resample(stretched[i, : n_stretched[i]], *units[i], counts[row])
    return out


def _stretch(waveforms: Tensor, tempos: Sequence[float], n_stretched: int) -> Tensor:
    """Change the duration by 1 / tempo without changing the pitch, each row by its own: (B, T) -> (B, S).

    Segment k goes to sample k · _ADVANCE and is taken near tempo times that, where it best continues segment
    k - 1. Segments overlap by _OVERLAP samples under a linear cross-fade.
    """
    n_segments = -(-n_stretched // _ADVANCE)
    nominal = _nominal_starts(tempos, n_segments)  # (B, K)
    reach = int(nominal.max()) + _SEARCH + _SEGMENT
    x = F.pad(waveforms, (0, max(reach - waveforms.shape[1], 0)))
    search = _search if on_cpu(x) else _search_at_once
    starts = search(x, to_device(nominal, x.device))  # (B, K)
    rows = torch.arange(len(x), device=x.device)[:, None]
    segments = x.unfold(-1, _SEGMENT, 1)[rows, starts]  # (B, K, _SEGMENT)
    fade_in = torch.arange(_OVERLAP, device=x.device, dtype=x.dtype) / _OVERLAP
    head = segments[:, 1:, :_OVERLAP]
    head.lerp_(segments[:, :-1, _ADVANCE:], 1 - fade_in)
    return segments[:, :, :_ADVANCE].flatten(1)


def _nominal_starts(tempos: Sequence[float], n_segments: int) -> Tensor:
    """First sample of each segment's search window, (B, K) int64.

    A segment's middle belongs where the tempo puts it, in the middle of the search; the first segment is the
    utterance's beginning.
    """
    middles = torch.arange(n_segments) * _ADVANCE + _SEGMENT / 2
    starts = torch.tensor(tempos, dtype=torch.float64)[:, None] * middles - _SEGMENT / 2 - _SEARCH // 2
    starts[:, :1] = 0
    return starts.round().long().clamp_(min=0)


def _search(x: Tensor, nominal: Tensor) -> Tensor:
    """Choose where each segment starts: (B, P) padded waveforms and (B, K) window starts -> (B, K).

    Minimises sum_i (x[start + i] - continuation[i])^2 over the overlap, expanded into window energy minus
    twice the cross-correlation; the energy of the continuation is the same for all candidates. The windows
    are known beforehand, so that only the correlation runs segment by segment. Doubles keep near-ties
    apart.
    """
    windows, energies = _candidates(x, nominal)
    flat, offsets = x.double().flatten(), torch.arange(len(x))[:, None] * x.shape[1]
    # Reversing the windows in time turns the correlation into a convolution: no conjugate in the loop.
    spectra = (2 * torch.fft.rfft(windows.flip(-1), _N_FFT)).unbind(1)  # K of (B, bins)
    costs = energies.flip(-1).unbind(1)  # K of (B, _SEARCH)
    latest = (offsets + nominal + _SEARCH - 1 + _ADVANCE).unbind(1)  # K of (B,)
    full = slice(_OVERLAP - 1, _OVERLAP - 1 + _SEARCH)  # where window and continuation overlap fully
    continuations = flat.unfold(0, _OVERLAP, 1)
    ends = [offsets[:, 0] + nominal[:, 0] + _ADVANCE]  # where each segment's continuation begins
    for spectrum, cost, last in zip(spectra[1:], costs[1:], latest[1:], strict=True):
        template = torch.fft.rfft(continuations.index_select(0, ends[-1]), _N_FFT)
        correlation = torch.fft.irfft(template * spectrum, _N_FFT)[:, full]
        ends.append(last - torch.argmin(cost - correlation, 1))
    return torch.stack(ends, 1) - _ADVANCE - offsets


def _candidates(x: Tensor, nominal: Tensor) -> tuple[Tensor, Tensor]:
    """What the search compares.

    Returns:
        (B, K, 426) samples from each segment's first candidate on, in doubles; (B, K, _SEARCH) the energy of
        each candidate's overlap.
    """
    offsets = torch.arange(len(x), device=x.device)[:, None] * x.shape[1]
    windows = x.flatten().unfold(0, _SEARCH + _OVERLAP - 1, 1)[offsets + nominal].double()
    energy_to = F.pad(windows.square().cumsum(-1), (1, 0))
    energies = energy_to[..., _OVERLAP:] - energy_to[..., :_SEARCH]
    later = torch.arange(_SEARCH, device=x.device, dtype=windows.dtype)
    energies += _TIE_MARGIN * (energy_to[..., -1:] + 1e-6) * later
    return windows, energies


def _search_at_once(x: Tensor, nominal: Tensor) -> Tensor:
    """The same choices as those of `_search`, for a GPU."""
    windows, energies = _candidates(x, nominal)
    following, _ = _candidates(x, nominal[:, :-1] + _ADVANCE)
    return nominal + pitch_at_once.search(windows, following, energies)


def _passband(unit_in: int, unit_out: int) -> float:
    """Where the low-pass of `_resample` begins to fade out, as a share of the lower Nyquist frequency."""
    top = _UNITS * min(unit_in, unit_out) // 2
    return int(_PASSBAND * top) / top


def _resample(stretched: Tensor, unit_in: int, unit_out: int, n_samples: int) -> Tensor:
    """Band-limited resampling by unit_out / unit_in: (S,) -> (n_samples,).

    Works block by block through the spectrum; every `unit_in` samples become `unit_out`. Of a block's 16
    units the outer ones only keep its circular ends away from the inner ones. The top of the common band
    fades out smoothly, so that neither blocks nor hard ends ring.
    """
    guard = math.ceil(_GUARD / min(unit_in, unit_out))  # units
    kept = _UNITS - 2 * guard
    n_blocks = math.ceil(n_samples / (kept * unit_out))
    n_after = (n_blocks * kept + guard) * unit_in - len(stretched)
    blocks = F.pad(stretched, (guard * unit_in, n_after)).unfold(0, _UNITS * unit_in, kept * unit_in)
    n_bins = _UNITS * min(unit_in, unit_out) // 2 + 1
    spectra = torch.fft.rfft(blocks)[:, :n_bins]
    first = int(_PASSBAND * (n_bins - 1))
    angle = torch.linspace(0, torch.pi, n_bins - first, device=stretched.device)
    spectra[:, first:] *= 0.5 + 0.5 * angle.cos()
    resampled = torch.fft.irfft(spectra, _UNITS * unit_out)[:, guard * unit_out : (guard + kept) * unit_out]
    return resampled.flatten()[:n_samples] * (unit_out / unit_in)


@lru_cache(maxsize=4096)
def _units(cents: float) -> tuple[int, int]:
    """The pair (unit_in, unit_out) of samples whose ratio is nearest to 2^(cents / 1200)."""
    fast = _fast_units()
    errors = np.abs(np.log2(fast[:, None] / fast) - cents / 1200)
    unit_in, unit_out = np.unravel_index(int(errors.argmin()), errors.shape)
    return int(fast[unit_in]), int(fast[unit_out])


@lru_cache(maxsize=1)
def _fast_units() -> np.ndarray:
    """Unit lengths without prime factors above 13: an FFT of such a size is fast."""
    numbers = range(_UNIT_RANGE[0], _UNIT_RANGE[1] + 1)
    return np.array([n for n in numbers if (2 * 3 * 5 * 7 * 11 * 13) ** 9 % n == 0])
