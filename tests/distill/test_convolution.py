"""Convolutions as matrix products, against those of torch."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from distill.convolution import by_products, long_conv, normalized_conv, strided_conv


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gradients(y, gradient, *inputs):
    return torch.autograd.grad(y, inputs, gradient)


@pytest.mark.parametrize(("kernel", "stride"), [(3, 2), (2, 2), (10, 5), (1, 2), (5, 2), (3, 1)])
@pytest.mark.parametrize("n_frames", [40, 43])
@pytest.mark.parametrize("bias", [True, False])
def test_strided_convolution(kernel, stride, n_frames, bias):
    conv = nn.Conv1d(6, 7, kernel, stride, bias=bias).double()
    x = random(3, n_frames, 6).requires_grad_()
    expected = conv(x.transpose(1, 2)).transpose(1, 2)
    assert by_products(x)
    whole = strided_conv(x, conv)
    found = whole[:, : expected.shape[1]]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    assert whole.isfinite().all()
    inputs, gradient = (x, *conv.parameters()), random(*expected.shape, seed=1)
    for a, b in zip(gradients(found, gradient, *inputs), gradients(expected, gradient, *inputs), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def test_what_follows_the_frames_of_an_utterance_changes_nothing():
    """The last frames of a row mix with the next row: no gradient may come from there."""
    conv = nn.Conv1d(4, 4, 3, 2, bias=False).double()
    x = random(2, 20, 4)
    other = torch.cat([x[:1], 1e6 * x[1:]])
    first, second = (strided_conv(rows, conv)[:1, :9] for rows in (x, other))
    assert torch.equal(first, second)
    a, b = (torch.autograd.grad(y.sum(), conv.weight)[0] for y in (first, second))
    torch.testing.assert_close(a, b, rtol=1e-9, atol=0)


@pytest.mark.parametrize("padded", [True, False])
def test_the_group_norm_becomes_part_of_the_taps(padded):
    conv, norm = nn.Conv1d(1, 8, 10, 5, bias=False).double(), nn.GroupNorm(8, 8).double()
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    x = (0.3 + random(2, 1000, 1)).requires_grad_()  # with an offset
    frames = torch.tensor([199, 120]) if padded else None
    found = normalized_conv(x, frames, conv, norm)
    inputs = (x, conv.weight, norm.weight, norm.bias)
    for row, n_frames in enumerate([199, 120] if padded else [199, 199]):
        alone = norm(conv(x[row : row + 1].transpose(1, 2)[:, :, : 5 * n_frames + 5]))[0].t()
        own = found[row, :n_frames]
        torch.testing.assert_close(own, alone, rtol=0, atol=1e-10)
        gradient = random(*alone.shape, seed=row)
        given = torch.autograd.grad(own, inputs, gradient, retain_graph=True)
        expected = torch.autograd.grad(alone, inputs, gradient, retain_graph=True)
        for a, b in zip(given, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-9)


def test_statistics_of_low_voices_do_not_cancel():
    """A hum 60 dB above what a channel listens to: in float32 its variance would be mostly rounding."""
    conv, norm = nn.Conv1d(1, 1, 10, 5, bias=False), nn.GroupNorm(1, 1)
    with torch.no_grad():
        conv.weight.copy_(torch.tensor([1.0, -4, 6, -4, 1, 0, 0, 0, 0, 0])[None, None])  # a fourth difference
    t = torch.arange(16_000, dtype=torch.float64) / 16_000
    x = 0.5 * (2 * torch.pi * 50 * t).sin() + 5e-4 * random(16_000)
    expected = F.group_norm(F.conv1d(x[None, None], conv.weight.double(), stride=5), 1, eps=norm.eps)[0, 0]
    found = normalized_conv(x.float()[None, :, None], None, conv, norm)[0, : len(expected), 0]
    assert (found - expected).abs().max() < 2e-3  # float32 samples alone make 1e-3 of it


@pytest.mark.parametrize("n_taps", [8, 7])
@pytest.mark.parametrize("n_frames", [1, 5, 40, 100])
@pytest.mark.parametrize("bias", [True, False])
def test_a_convolution_of_many_taps(n_taps, n_frames, bias):
    x = random(3, n_frames, 12).requires_grad_()
    weight, offset = random(6, 4, n_taps, seed=1).requires_grad_(), random(6, seed=2).requires_grad_()
    inputs = (x, weight, offset) if bias else (x, weight)
    found = long_conv(x, weight, offset if bias else None, 3, n_taps // 2)
    y = F.conv1d(
        x.transpose(1, 2), weight, offset if bias else None, padding=n_taps // 2, groups=3
    ).transpose(1, 2)
    torch.testing.assert_close(found, y, rtol=0, atol=1e-11)
    gradient = random(*y.shape, seed=3)
    for a, b in zip(gradients(found, gradient, *inputs), gradients(y, gradient, *inputs), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10)


def test_a_pass_without_gradients_does_not_spoil_later_ones():
    """What is kept between calls must not belong to inference mode."""
    x, weight = random(2, 300, 4), random(4, 2, 6).requires_grad_()
    with torch.inference_mode():
        long_conv(x, weight, None, 2, 3)
    long_conv(x, weight, None, 2, 3).sum().backward()
    assert weight.grad is not None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype):
    """Under autocast, results are those of float32 to the precision of the type, and have the type."""
    conv, x = nn.Conv1d(16, 16, 3, 2, bias=False), random(2, 60, 16).float()
    weight = 0.1 * random(16, 8, 12).float()
    with torch.autocast("cpu", dtype=dtype):
        found, long = strided_conv(x, conv), long_conv(x.to(dtype), weight, None, 2, 6)
    assert found.dtype == long.dtype == dtype
    torch.testing.assert_close(found.float()[:, :29], strided_conv(x, conv)[:, :29], rtol=0, atol=2e-2)
    torch.testing.assert_close(long.float(), long_conv(x, weight, None, 2, 6), rtol=0, atol=4e-2)
