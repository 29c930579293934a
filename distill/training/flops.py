"""The arithmetic of a training step, and how much of it a device can do at best: together, its utilisation.

Counted are the multiply-adds of convolutions, linear layers and attention, as two operations each, over
valid frames, however they are computed: useful work, to which padding adds nothing, nor what activation
checkpointing computes again. What is cheap in arithmetic (norms, activations, mel features, distortions, the
loss, AdamW) is left out.

Shapes: F frames, D features.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl
import torch
from torch import Tensor

if TYPE_CHECKING:
    from distill.transformer import TransformerConfig

_LARGEST = {"cpu": 2048, "cuda": 8192}
_PRODUCT_S = 0.02
"""How long one of the products is to take by which a device is judged."""


@dataclass
class Work:
    """Multiply-adds of a forward pass."""

    first: float = 0.0
    """In the first convolution, whose input needs no gradient."""
    rest: float = 0.0
    channels: int = 1
    """Of the last output."""
    frames: Tensor = field(default_factory=lambda: torch.zeros(1))
    """Of it, by utterance."""

    def convolve(self, frames: Tensor, channels: int, kernel: int) -> None:
        """A convolution that makes so many frames and channels."""
        macs = float(frames.sum()) * channels * self.channels * kernel
        if self.first:
            self.rest += macs
        else:
            self.first = macs
        self.channels, self.frames = channels, frames

    def transform(self, config: TransformerConfig, layers: int) -> None:
        """Positions, and the first layers of a transformer.

        A layer that reuses an attention map has no work for it, though a fused kernel makes it again.
        """
        frames, dim = self.frames.double(), config.dim
        even = 1 - config.position_kernel % 2  # a frame too many, which is dropped
        position = dim * (dim // config.position_groups) * config.position_kernel
        layer = 4 * dim * dim + 2 * dim * config.ffn_dim
        gate = 8 * dim if config.relative_buckets else 0  # of a WavLM's position bias
        layer += gate
        attention = 2 * dim * frames.square()
        self.rest += float(((frames + even) * position + layers * (frames * layer + attention)).sum())
        if config.reuse_attention:  # no query, key, gate, no products
            self.rest -= layers // 2 * float((frames * (2 * dim * dim + gate) + attention / 2).sum())

    def heads(self, weights: Iterable[Tensor]) -> None:
        """Linear layers and convolutions behind the encoder, by their weights; vectors are biases."""
        self.rest += float(self.frames.sum()) * sum(w.numel() for w in weights if w.dim() > 1)


def forward(config: Any, lengths: Tensor, layers: int | None = None) -> Work:
    """The work of encoding utterances.

    Args:
        config: a `HubertConfig` or `SpiralConfig`.
        lengths: (B,) valid samples, on the CPU.
        layers: how many of its layers run; default: all.
    """
    work = Work()
    n_layers: int = config.layers if layers is None else layers
    if config.family == "spiral":
        work.channels = config.bands
        step = config.hop // config.stride  # samples from one mel frame to the next
        frames = (lengths + step - 1) // step
        blocks = (config.block1_conv_layers, config.block1_layers), (config.conv_layers, n_layers)
        for (convolutions, depth), transformer in zip(blocks, config.transformers, strict=True):
            for channels, kernel, stride in convolutions:
                frames = (frames + stride - 1) // stride
                work.convolve(frames, channels, kernel)
            work.transform(transformer, depth)
        return work
    frames = lengths
    if config.front == "mel":
        (first, kernel, _), (second, _, stride) = config.conv_layers
        step = config.hop // stride
        work.channels = config.mel_bands
        work.convolve((lengths + step - 1) // step, first, kernel)
        work.convolve(config.frames(lengths), second, kernel)
    else:
        for channels, kernel, stride in config.conv_layers:
            frames = (frames - kernel) // stride + 1
            work.convolve(frames, channels, kernel)
    frames = work.frames
    work.rest += float(frames.sum()) * work.channels * config.dim
    work.transform(config.transformer, n_layers)
    return work


def step_flops(module: pl.LightningModule, lengths: Tensor) -> float:
    """Floating-point operations of one training step; 0 for modules that do not say what they compute.

    A trained model's backward pass is its forward one twice, for the gradients of weights and of inputs;
    its first convolution has only the former.

    Args:
        module: its `passes()` name encoder, layers, weights of the heads, and whether they are trained.
        lengths: (B,) valid samples, on the CPU.
    """
    macs = 0.0
    passes: Any = getattr(module, "passes", tuple)
    for encoder, layers, heads, trained in passes():
        work = forward(encoder.config, lengths, layers)
        work.heads(heads)
        macs += 2 * work.first + 3 * work.rest if trained else work.first + work.rest
    return 2.0 * macs


@lru_cache
def device_flops(device: torch.device, dtype: torch.dtype) -> float:
    """Operations per second that a matrix product reaches here, the best of several: what is possible.

    Takes a quarter of a second, once. Under the load of other programs it is lower than it could be.
    """
    if device.type not in _LARGEST:
        return 0.0
    size, best = 256, 0.0
    if device.type == "cuda":
        size = _LARGEST["cuda"]
    else:  # of a size that takes about so long
        taken = min(_product_s(size, device, dtype) for _ in range(3))
        size = min(_LARGEST["cpu"], 64 * round(size * (_PRODUCT_S / taken) ** (1 / 3) / 64))
    for _ in range(6):
        best = max(best, 2.0 * size**3 / _product_s(size, device, dtype))
    return best


def _product_s(size: int, device: torch.device, dtype: torch.dtype) -> float:
    """Seconds of the product of two square matrices."""
    a, b = (torch.ones(size, size, device=device, dtype=dtype) for _ in range(2))
    out = torch.empty_like(a)
    _wait(device)
    started = time.perf_counter()
    torch.mm(a, b, out=out)
    _wait(device)
    return time.perf_counter() - started


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def dtype_of(precision: str) -> torch.dtype:
    """What matrix products are computed in, by the name of the trainer's precision."""
    kinds = {"16": torch.float16, "bf16": torch.bfloat16, "64": torch.float64}
    return kinds.get(str(precision).partition("-")[0], torch.float32)
