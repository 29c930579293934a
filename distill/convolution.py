"""Convolutions over time as matrix products: on a CPU they are nearly as fast as the products themselves.

Shapes: B utterances, T frames (or samples) of the input, F of the output, C channels of the input, D of the
output, K taps, S stride.

Channels come last, so that the S frames of a step are one row of a matrix, and no copy of the input is made.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.utils.parametrizations import weight_norm
from torch.utils.checkpoint import checkpoint
from typing_extensions import override

from distill.waveforms import frame_mask

_MANY_FRAMES = 4  # for each tap: with fewer, the spectrum of the taps costs more than it saves


def by_products(x: Tensor) -> bool:
    """Whether to compute with matrix products: on a CPU, and not while a graph is made for elsewhere."""
    return x.device.type == "cpu" and not torch.compiler.is_compiling()


def strided_conv(x: Tensor, conv: nn.Conv1d) -> Tensor:
    """A convolution over time, without padding and groups.

    y[t] = b + sum_k W[k] x[S t + k]

    Args:
        x: (B, T, C).
        conv: its weight (D, C, K), bias (D,) or None, and stride S.

    Returns:
        (B, at least F, D) with F = (T - K) // S + 1. What is after these F frames means nothing.
    """
    (stride,) = conv.stride
    if not by_products(x):
        return F.conv1d(x.transpose(1, 2), conv.weight, conv.bias, stride).transpose(1, 2)
    if missing := -x.shape[1] % stride:
        x = F.pad(x, (0, 0, 0, missing))
    weight, bias = conv.weight, conv.bias
    if torch.is_autocast_enabled("cpu"):
        dtype = torch.get_autocast_dtype("cpu")
        x, weight, bias = x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
    y = cast(Tensor, _StridedConv.apply(x, weight, stride))
    return y if bias is None else y + bias


class _StridedConv(torch.autograd.Function):
    """(B, T, C), (D, C, K), T a multiple of S -> (B, T / S, D).

    Rows of S frames, times the first S taps; to that is added the following row, times the next S taps; and
    so on. The last frames of an utterance mix with the first of the next one.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int) -> Tensor:
        rows = x.reshape(-1, stride * x.shape[2])  # (B T / S, S C)
        taps = weight.permute(0, 2, 1).flatten(1)  # (D, K C)
        ctx.save_for_backward(rows, weight)
        ctx.shape = x.shape
        y = None
        for ahead, part in _parts(taps, rows):
            later = rows[ahead:, : part.shape[1]]
            if y is None:
                y = F.linear(later, part)
            else:
                y[: len(later)].addmm_(later, part.t())
        assert y is not None
        return y.view(x.shape[0], -1, len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        rows, weight = ctx.saved_tensors
        taps = weight.permute(0, 2, 1).flatten(1)
        gradient = grad_outputs[0].reshape(len(rows), -1)  # (B T / S, D)
        given, found = None, None
        if ctx.needs_input_grad[0]:
            given = torch.empty_like(rows)
            given[:, taps.shape[1] :] = 0.0  # where the kernel is shorter than the stride
            for ahead, part in _parts(taps, rows):
                later = given[ahead:, : part.shape[1]]
                if ahead:
                    later.addmm_(gradient[: len(later)], part)
                else:
                    torch.mm(gradient, part, out=later)
            given = given.view(ctx.shape)
        if ctx.needs_input_grad[1]:
            found = torch.cat(
                [
                    gradient[: len(rows) - ahead].t() @ rows[ahead:, : part.shape[1]]
                    for ahead, part in _parts(taps, rows)
                ],
                dim=1,
            )
            found = found.unflatten(1, (-1, ctx.shape[2])).permute(0, 2, 1)  # (D, C, K)
        return given, found, None


def _parts(taps: Tensor, rows: Tensor) -> list[tuple[int, Tensor]]:
    """Taps (D, K C) by the row that they apply to: how far ahead it is, and up to S C columns."""
    return list(enumerate(taps.split(rows.shape[1], dim=1)))


def normalized_conv(x: Tensor, frames: Tensor | None, conv: nn.Conv1d, norm: nn.GroupNorm) -> Tensor:
    """`strided_conv` without bias and a group norm with one channel a group, over valid frames only.

    With p_t the K C samples that frame t sees, m and S the mean and the covariance of the p_t of an
    utterance, and w_d the taps of channel d, the channel's mean is w_d m and its variance w_d S w_d: the norm
    becomes part of the taps,

        y_d[t] = gamma_d / sqrt(w_d S w_d + epsilon) · w_d (p_t - m) + beta_d,

    and the largest tensor of the model is written once. In float64 where statistics are concerned, since the
    samples of a patch are so alike that w_d S w_d cancels.

    Args:
        x: (B, T, C), few channels.
        frames: (B,) valid frames of the output; None when all F are.
        conv: without bias.
        norm: its groups are the D channels.

    Returns:
        (B, at least F, D). What is after F means nothing.
    """
    (stride,), (kernel,) = conv.stride, conv.kernel_size
    n_frames = (x.shape[1] - kernel) // stride + 1
    patches = _patches(x, kernel, stride)  # (B, F', K C)
    with torch.autocast(x.device.type, enabled=False):
        taps = conv.weight.permute(0, 2, 1).flatten(1).double()  # (D, K C)
        valid = torch.full_like(patches[:, 0, 0], n_frames, dtype=torch.int64) if frames is None else frames
        padding = torch.arange(patches.shape[1], device=x.device) >= valid[:, None]
        exact = patches.double().masked_fill(padding[:, :, None], 0.0)
        count = valid[:, None, None].double()
        mean = exact.sum(1, keepdim=True) / count  # (B, 1, K C)
        covariance = exact.transpose(1, 2) @ exact / count - mean.transpose(1, 2) @ mean
        variance = ((taps @ covariance) * taps).sum(2).clamp(min=0.0)  # (B, D)
        scaled = taps * (norm.weight.double() * torch.rsqrt(variance + norm.eps))[:, :, None]
        centred = (patches - mean).to(x.dtype)
        rows, columns = _with_bias(centred, scaled.to(x.dtype), norm.bias)
    return torch.bmm(rows, columns.transpose(1, 2))


def _patches(x: Tensor, kernel: int, stride: int) -> Tensor:
    """What each frame sees: (B, T, C) -> (B, ceil(T / S), K C), with zeros behind the input."""
    blocks = F.pad(x, (0, 0, 0, -x.shape[1] % stride)).unflatten(1, (-1, stride)).flatten(2)
    later = [F.pad(blocks[:, ahead:], (0, 0, 0, ahead)) for ahead in range(-(-kernel // stride))]
    return torch.cat(later, 2)[:, :, : kernel * x.shape[2]]


def _with_bias(patches: Tensor, taps: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """The bias (D,) as one more tap, of patches that are 1 there; with zeros up to a multiple of 8 taps.

    Tensor cores want such multiples, and a bias that is added later costs one more pass over the output.
    """
    n_more = -patches.shape[2] % 8 or 8
    ones = F.pad(torch.ones_like(patches[:, :, :1]), (0, n_more - 1))
    column = F.pad(bias.to(taps.dtype)[None, :, None].expand(len(taps), -1, 1), (0, n_more - 1))
    return torch.cat([patches, ones], 2), torch.cat([taps, column], 2)


def long_conv(x: Tensor, weight: Tensor, bias: Tensor | None, groups: int, padding: int) -> Tensor:
    """A convolution of many taps over time, with stride 1.

    y[t] = b + sum_k W[k] x[t + k - padding]. On a CPU, where libraries are slow at this, by overlap-save: the
    spectrum of a block of n frames, sum_t x[t] exp(-2 pi i f t / n), is multiplied by that of the taps,
    sum_k W[k] exp(2 pi i f k / n). All steps are products of real matrices. There it is done in float32 at
    least: on some processors grouped convolutions in bfloat16 are wrong by as much as their values.

    Args:
        x: (B, T, C).
        weight: (D, C / groups, K).
        bias: (D,), or None.
        groups: into which channels are divided.
        padding: zeros on both sides.

    Returns:
        (B, T + 2 padding - K + 1, D).
    """
    if x.device.type != "cpu":
        return F.conv1d(x.transpose(1, 2), weight, bias, padding=padding, groups=groups).transpose(1, 2)
    dtype = torch.promote_types(x.dtype, torch.float32)
    with torch.autocast("cpu", enabled=False):
        given, weight, bias = x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
        n_taps = weight.shape[2]
        if not by_products(x) or n_taps % 2 or len(x) * x.shape[1] < _MANY_FRAMES * n_taps:
            y = F.conv1d(given.transpose(1, 2), weight, bias, padding=padding, groups=groups).transpose(1, 2)
        else:
            # Spectra are larger than what they are made of: for the backward pass they are made again.
            y = checkpoint(
                _by_spectra, given, weight, groups, padding, use_reentrant=False, preserve_rng_state=False
            )
            y = cast(Tensor, y)
            y = y if bias is None else y + bias
    return y.to(x.dtype)


def _by_spectra(x: Tensor, weight: Tensor, groups: int, padding: int) -> Tensor:
    """`long_conv` without bias."""
    n_taps = weight.shape[2]
    size, hop = 2 * n_taps, n_taps + 1
    n_frames = x.shape[1] + 2 * padding - n_taps + 1
    n_blocks = -(-n_frames // hop)
    x = F.pad(x, (0, 0, padding, n_blocks * hop + n_taps - 1 - padding - x.shape[1]))
    blocks = x.unfold(1, size, hop).transpose(2, 3)  # (B, n, size, C)
    cosine, sine, inverse = _fourier(size, x.dtype)
    taps = weight.unflatten(0, (groups, -1)).permute(3, 0, 2, 1)  # (K, G, C / G, D / G)
    real, imaginary = (
        (basis[:, :n_taps] @ taps.flatten(1)).view(-1, *taps.shape[2:]) for basis in (cosine, sine)
    )  # (bins G, C / G, D / G)
    spectra = torch.stack([cosine @ blocks, -sine @ blocks], 3)  # (B, n, bins, 2, C)
    turned = torch.stack([-spectra[:, :, :, 1], spectra[:, :, :, 0]], 3)  # times i
    rows = (_by_bin(s, groups).flatten(2, 4).flatten(0, 1) for s in (spectra, turned))
    found = torch.baddbmm(torch.bmm(next(rows), real), next(rows), imaginary)  # (bins G, B n 2, D / G)
    found = found.view(len(cosine), groups, len(x), n_blocks, 2, -1).permute(2, 3, 4, 0, 1, 5)
    y = inverse[:hop] @ found.reshape(len(x), n_blocks, 2 * len(cosine), -1)  # (B, n, hop, D)
    return y.flatten(1, 2)[:, :n_frames]


def _by_bin(spectra: Tensor, groups: int) -> Tensor:
    """(B, n, bins, 2, C) -> (bins, G, B, n, 2, C / G)."""
    return spectra.unflatten(4, (groups, -1)).permute(2, 4, 0, 1, 3, 5)


@lru_cache(maxsize=8)
@torch.inference_mode(False)  # they are kept, and used in training
def _fourier(size: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Real transforms as matrices: cosines and sines (bins, size), and back, (size, 2 bins)."""
    turns = torch.arange(size // 2 + 1)[:, None] * torch.arange(size) % size  # exact
    angles = 2 * torch.pi * turns.double() / size
    cosine, sine = angles.cos(), angles.sin()
    weights = torch.full((len(cosine), 1), 2.0 / size, dtype=torch.float64)
    weights[0] = weights[-1] = 1.0 / size  # these frequencies have no twin
    inverse = torch.cat([weights * cosine, -weights * sine]).t()
    return cosine.to(dtype), sine.to(dtype), inverse.to(dtype).contiguous()


class PositionalConv(nn.Module):
    """Relative positions by a grouped convolution over time, weight-normalised. (B, F, D) -> (B, F, D)."""

    def __init__(self, dim: int, kernel: int, groups: int):
        super().__init__()
        conv = nn.Conv1d(dim, dim, kernel, padding=kernel // 2, groups=groups)
        nn.init.normal_(conv.weight, std=(4.0 / (kernel * dim)) ** 0.5)
        assert conv.bias is not None
        nn.init.zeros_(conv.bias)
        self.conv = weight_norm(conv, name="weight", dim=2)

    @override
    def forward(self, x: Tensor) -> Tensor:
        conv = cast(nn.Conv1d, self.conv)
        (padding,) = cast(tuple[int], conv.padding)
        y = long_conv(x, conv.weight, conv.bias, conv.groups, padding)
        return F.gelu(y[:, : x.shape[1]])  # an even kernel gives one frame too many


class ConvLayer(nn.Module):
    """One convolution of the CNN, its normalisation and GELU. (B, F_in, C_in) -> (B, F_out, C_out).

    Whatever follows the frames that the input is long enough for means nothing.
    """

    def __init__(self, in_channels: int, channels: int, kernel: int, stride: int, *, bias: bool, norm: str):
        super().__init__()
        self.conv = nn.Conv1d(in_channels, channels, kernel, stride, bias=bias)
        nn.init.kaiming_normal_(self.conv.weight)
        if norm == "group":
            self.norm = nn.GroupNorm(channels, channels)
        elif norm == "layer":
            self.norm = nn.LayerNorm(channels)
        else:
            self.norm = None

    @override
    def forward(self, x: Tensor, lengths: Tensor | None) -> Tensor:
        """`lengths` (B,): valid frames of the output; None when every row is full."""
        if not isinstance(self.norm, nn.GroupNorm):
            x = strided_conv(x, self.conv)
            return F.gelu(x if self.norm is None else self.norm(x))
        if torch.compiler.is_compiling() or self.conv.bias is not None:
            x = strided_conv(x, self.conv)
            return F.gelu(masked_instance_norm(x.transpose(1, 2), lengths, self.norm).transpose(1, 2))
        return F.gelu(normalized_conv(x, lengths, self.conv, self.norm))


def masked_instance_norm(x: Tensor, lengths: Tensor | None, norm: nn.GroupNorm) -> Tensor:
    """Group norm with one channel a group, its statistics over valid frames only, in float32.

    x (B, C, F); lengths (B,) valid frames or None. Without padding this is exactly `nn.GroupNorm`.
    """
    with torch.autocast(x.device.type, enabled=False):
        full = x.float()
        if lengths is None:
            weight, bias = norm.weight.float(), norm.bias.float()
            return F.group_norm(full, norm.num_groups, weight, bias, norm.eps).to(x.dtype)
        # Few passes over memory: this is the largest tensor of the model.
        valid = frame_mask(lengths, x.shape[2]).float()  # (B, F)
        count = lengths[:, None, None]
        mean = full @ valid[:, :, None] / count  # (B, C, 1)
        centred = (full - mean) * valid[:, None]
        variance = torch.linalg.vector_norm(centred, dim=2, keepdim=True).square() / count
        scale = norm.weight[:, None] * torch.rsqrt(variance + norm.eps)
        return torch.addcmul(norm.bias[:, None], centred, scale).to(x.dtype)
