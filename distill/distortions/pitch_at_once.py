"""Pitch shift in few launches, for a GPU: the choices and the filter of `pitch`, which is faster on a CPU.

Legend: B utterances, T samples, K segments, C candidates for a segment's beginning, S
stretched samples.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from distill.waveforms import to_device

# Segments whose candidates are compared at once: their tables take 0.6 GB.
_SEGMENTS_AT_ONCE = 512
# Half the length of the resampling filter in samples of the lower rate: what is cut off is 110 dB down.
_HALF_LENGTH = 320
_LARGEST_UNIT = 512  # samples that a row of the resampling matrix makes


def search(windows: Tensor, following: Tensor, energies: Tensor) -> Tensor:
    """Which candidate each segment begins with, all segments of all rows at once.

    The best beginning of a segment depends on that of the one before. So the best is found for each of its C
    beginnings: a map from candidates to candidates, by one matrix product for each segment. The first
    segment's beginning sent through the maps of all following ones, one after another, gives the choices; the
    maps are composed in pairs, pairs of pairs and so on.

    Args:
        windows: (B, K, C + overlap - 1) samples from each segment's first candidate on.
        following: (B, K - 1, C + overlap - 1) samples that follow each segment but the last, from where they
            would begin for its first candidate.
        energies: (B, K, C) what speaks against each candidate by itself.

    Returns:
        (B, K) int64 candidates; that of the first segment is 0.
    """
    n_rows, n_segments, n_candidates = energies.shape
    overlap = windows.shape[2] - n_candidates + 1
    wanted, found, costs = (x.flatten(0, 1) for x in (following, windows[:, 1:], energies[:, 1:]))
    best = [
        torch.baddbmm(
            costs[part, None],
            wanted[part].unfold(-1, overlap, 1),
            found[part].unfold(-1, overlap, 1).transpose(1, 2),
            alpha=-2,
        ).argmin(-1)
        for part in _slices(len(costs), _SEGMENTS_AT_ONCE)
    ]
    start = torch.zeros(n_rows, 1, dtype=torch.int64, device=windows.device)
    if not best:
        return start
    maps = torch.cat(best).view(n_rows, n_segments - 1, n_candidates)
    distance = 1
    while distance < n_segments - 1:
        later = maps[:, distance:].gather(2, maps[:, :-distance])
        maps = torch.cat([maps[:, :distance], later], 1)
        distance *= 2
    return torch.cat([start, maps[:, :, 0]], 1)


def _slices(total: int, size: int) -> list[slice]:
    return [slice(first, first + size) for first in range(0, total, size)]


def resample(
    stretched: Tensor, units: Sequence[tuple[int, int]], counts: Sequence[int], passbands: Sequence[float]
) -> Tensor:
    """Band-limited resampling of each row by its own ratio, unit_out / unit_in: (B, S) -> (B, max(counts)).

    y[t] = sum_n x[n] h(n - t · unit_in / unit_out), with the response of a low-pass that fades out under half
    a cosine from `passband` to 1 times the lower Nyquist frequency,

    h(s) = f sinc(f s) cos(pi d s) / (1 - (2 d s)^2),  f = b (1 + passband) / 2,  d = b (1 - passband) / 2,
    b = min(1, unit_out / unit_in).

    Every unit_in samples the same weights return: a matrix for each row.

    Args:
        stretched: (B, S) float32, zero after each row's valid samples.
        units: unit_in and unit_out of each row.
        counts: samples wanted of each row.
        passbands: of each row.
    """
    device = stretched.device
    # Units of about equal length waste least when the rows are padded to the longest.
    scaled = [(i * (_LARGEST_UNIT // o), o * (_LARGEST_UNIT // o)) for i, o in units]
    halves = [-(-_HALF_LENGTH * max(i, o) // o) for i, o in units]  # in samples of the input
    n_out = max(o for _, o in scaled)
    n_blocks = max(-(-n // o) for n, (_, o) in zip(counts, scaled, strict=True))
    n_in = max(i + 2 * half for (i, _), half in zip(scaled, halves, strict=True))
    table = [(i, o, half, p) for (i, o), half, p in zip(scaled, halves, passbands, strict=True)]
    facts = to_device(torch.tensor(table, dtype=torch.float64), device)
    unit_in, unit_out, half, passband = facts.T[..., None, None]  # (B, 1, 1) each
    place = torch.arange(n_in, device=device)
    lag = (place[:, None] - half) - torch.arange(n_out, device=device) * unit_in / unit_out
    matrix = _response(lag, (unit_out / unit_in).clamp_(max=1), passband).masked_fill_(lag.abs() > half, 0)
    starts = (torch.arange(n_blocks, device=device)[:, None] * unit_in - half).long()
    guard = max(halves)
    n_after = max(i for i, _ in scaled) * n_blocks + n_in
    x = F.pad(stretched, (guard, n_after - stretched.shape[1]))
    rows = torch.arange(len(x), device=device)[:, None, None] * x.shape[1]
    blocks = x.flatten()[rows + (starts + guard + place)]
    made = torch.bmm(blocks, matrix.float()).flatten(1)  # (B, blocks · n_out)
    n = torch.arange(max(counts), device=device)
    width = unit_out[:, 0].long()
    places = n + n.div(width, rounding_mode="floor") * (n_out - width)
    return made.gather(1, places.clamp_(max=made.shape[1] - 1))  # shorter rows end before


def _response(lag: Tensor, band: Tensor, passband: Tensor) -> Tensor:
    """The response of `resample` at `lag`, in doubles; pi / 4 is the limit where its last factor is 0 / 0."""
    middle, slope = band * (1 + passband) / 2, band * (1 - passband) / 2
    squares = 1 - (2 * slope * lag).square()
    fade = torch.where(squares.abs() < 1e-9, torch.pi / 4, (torch.pi * slope * lag).cos() / squares)
    return middle * torch.sinc(middle * lag) * fade
