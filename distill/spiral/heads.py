"""What SPIRAL has behind its encoder in pre-training: a projection (both networks) and a predictor (student).

Legend: B utterances, F output frames (80 ms), D width of the encoder, P of the projection, C channels.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch import distributed as dist
from typing_extensions import override

from distill.waveforms import frame_mask

KERNEL = 5
"""Frames of every convolution here (Table 1)."""

ProjectionKind = Literal["linear", "convolution"]
PredictorNorm = Literal["batch", "layer", "none"]


class Projection(nn.Module):
    """The projection head, (B, F, D) -> (B, F, P).

    `linear` is SPIRAL's. `convolution` is that of Table 9: "a temporal convolution layer with LN and ReLU,
    and a linear layer" (section 5.3). The paper does not say how wide it is: here P channels and kernel 5,
    like the predictor, whose work it takes over.
    """

    def __init__(self, dim: int, out: int, *, kind: ProjectionKind = "linear"):
        super().__init__()
        if kind not in ("linear", "convolution"):
            raise ValueError(f"kind must be linear or convolution, not {kind}")
        self.convolution = ConvLayer(dim, out, norm="layer") if kind == "convolution" else None
        self.linear = nn.Linear(dim if self.convolution is None else out, out)

    @override
    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Project.

        Args:
            x: (B, F, D).
            lengths: (B,) valid frames.
        """
        if self.convolution is not None:
            x = self.convolution(x, frame_mask(lengths, x.shape[1]))
        return self.linear(x)


class Predictor(nn.Module):
    """Guesses the teacher's projection from the student's, (B, F, P) -> (B, F, P).

    Convolutions with norm and ReLU, and a linear layer. `norm` is batch in SPIRAL; Table 9 has layer.
    """

    def __init__(self, dim: int, width: int | None = None, *, layers: int = 2, norm: PredictorNorm = "batch"):
        super().__init__()
        width = dim if width is None else width
        self.convolutions = nn.ModuleList(
            ConvLayer(width if layer else dim, width, norm=norm) for layer in range(layers)
        )
        self.linear = nn.Linear(width if layers else dim, dim)

    @override
    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Predict.

        Args:
            x: (B, F, P).
            lengths: (B,) valid frames.
        """
        valid = frame_mask(lengths, x.shape[1])
        for convolution in self.convolutions:
            x = convolution(x, valid)
        return self.linear(x)


class ConvLayer(nn.Module):
    """Convolution over time, norm, ReLU. Padded frames enter as zeros.

    Without batch norm, which would take it out again, the convolution has a bias.
    """

    def __init__(self, dim: int, out: int, *, norm: PredictorNorm):
        super().__init__()
        if norm not in ("batch", "layer", "none"):
            raise ValueError(f"norm must be batch, layer or none, not {norm}")
        self.conv = nn.Conv1d(dim, out, KERNEL, padding=KERNEL // 2, bias=norm != "batch")
        nn.init.kaiming_normal_(self.conv.weight)
        self.norm = {"batch": ValidBatchNorm, "layer": nn.LayerNorm, "none": lambda _: None}[norm](out)

    @override
    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        """(B, F, D) and (B, F) bool, true where a frame is valid -> (B, F, C)."""
        x = x.masked_fill(~valid[..., None], 0.0)
        x = self.conv(x.transpose(1, 2)).transpose(1, 2)
        if isinstance(self.norm, ValidBatchNorm):
            x = self.norm(x, valid)
        elif self.norm is not None:
            x = self.norm(x)
        return x.relu()


class ValidBatchNorm(nn.Module):
    """Batch norm over the valid frames of the global batch: of all processes, and without padding.

    Momentum and epsilon are the reference's; its statistics are of each process alone and count padded
    frames. Parameters and buffers are named as torch's. In float32 whatever the autocast.
    """

    weight: Tensor
    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, channels: int, *, momentum: float = 0.01, eps: float = 1e-3):
        super().__init__()
        self.momentum, self.eps = momentum, eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))
        self.register_buffer("num_batches_tracked", torch.tensor(0))

    @override
    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        """(B, F, C) and (B, F) bool, true where a frame is valid -> (B, F, C) float32.

        In training every process must call it equally often: they wait for each other.
        """
        with torch.autocast(x.device.type, enabled=False):
            x = x.float()
            mean, variance = (
                self._statistics(x, valid) if self.training else (self.running_mean, self.running_var)
            )
            scale = self.weight.float() * torch.rsqrt(variance + self.eps)
            return (x - mean) * scale + self.bias.float()

    def _statistics(self, x: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and biased variance of each channel, (C,); the running ones follow them."""
        padded = ~valid[..., None]
        count = valid.sum().float()[None]
        sums = _sum_over_processes(torch.cat([x.masked_fill(padded, 0.0).sum((0, 1)), count]))
        count = sums[-1].detach().clamp(min=1)
        mean = sums[:-1] / count
        # About the mean, in a second round: the difference of two large sums would lose digits.
        squares = (x - mean).masked_fill(padded, 0.0).square().sum((0, 1))
        variance = _sum_over_processes(squares) / count
        self._follow(mean.detach(), variance.detach() * count / (count - 1).clamp(min=1))
        return mean, variance

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor) -> None:
        """Move the running statistics, by an unbiased variance as torch does.

        Not by what is not finite: the step is then not counted, but they would never be finite again.
        """
        for running, new in ((self.running_mean, mean), (self.running_var, variance)):
            new = torch.where(new.isfinite(), new, running)
            running.lerp_(new.to(running.dtype), self.momentum)
        self.num_batches_tracked += 1


class _SumOverProcesses(torch.autograd.Function):
    """The sum over processes; its gradient is the sum of their gradients."""

    @staticmethod
    @override
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """Sum in a copy."""
        x = x.clone()
        dist.all_reduce(x)
        return x

    @staticmethod
    @override
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        """Every process's loss depends on this one's numbers."""
        gradient = gradients[0].contiguous().clone()
        dist.all_reduce(gradient)
        return gradient


def _sum_over_processes(x: Tensor) -> Tensor:
    """The sum over all processes, if there are several."""
    alone = not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1
    return x if alone else _SumOverProcesses.apply(x)
