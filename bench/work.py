"""The arithmetic of a distillation step, from the shapes of the models, and how fast a device multiplies.

Counted are multiply-adds of convolutions, linear layers and attention, as two operations each, over valid
frames: padding is no work. What is cheap in arithmetic (norms, activations, the loss, AdamW) is left out.
Convolutions count as they are defined: a contender that computes one by way of its spectrum does less, and
could pass the limit.

Shapes: F frames, D features, N prediction heads.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch

from bench.contenders import Contender
from distill.hubert import HubertConfig

GEMM_SIZE = {"cpu": 1536, "cuda": 8192}
GEMM_REPEATS = {"cpu": 4, "cuda": 20}


def step_flops(teacher: HubertConfig, student: HubertConfig, n_targets: int, lengths: Iterable[int]) -> float:
    """Floating-point operations of one step: the teacher's forward pass, the student's and its backward one.

    Args:
        teacher: its shape; all its layers are run.
        student: its shape.
        n_targets: N.
        lengths: valid samples of each utterance.
    """
    macs = 0
    for n_samples in lengths:
        first, rest = encoder_macs(student, n_samples)
        frames, dim = student.frames(n_samples), teacher.dim
        heads = frames * (student.dim * n_targets * dim + n_targets * dim * dim)
        # Backward: gradients of the weights and of the input; the waveform needs none.
        macs += sum(encoder_macs(teacher, n_samples)) + 2 * first + 3 * (rest + heads)
    return 2.0 * macs


def encoder_macs(config: HubertConfig, n_samples: int) -> tuple[int, int]:
    """Multiply-adds of a forward pass over one utterance: in the first convolution, and in all the rest."""
    macs, channels_in, frames = [], 1, n_samples
    for channels, kernel, stride in config.conv_layers:
        frames = (frames - kernel) // stride + 1
        macs.append(frames * channels * channels_in * kernel)
        channels_in = channels
    dim = config.dim
    position = dim * (dim // config.position_groups) * config.position_kernel
    layer = 4 * dim * dim + 2 * dim * config.ffn_dim + 2 * frames * dim  # the last: attention
    transformer = frames * (channels_in * dim + position + config.layers * layer)
    return macs[0], sum(macs[1:]) + transformer


def gemm(device: str, dtype: torch.dtype) -> tuple[Contender, float]:
    """The product of square matrices, to take turns with what it limits; and its operations."""
    size, repeats = GEMM_SIZE[device], GEMM_REPEATS[device]

    def make():
        a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
        out = torch.empty_like(a)

        def run(number: int) -> None:
            for _ in range(repeats):
                torch.mm(a, b, out=out)

        return run

    return Contender("GEMM", make, 0.0, device), 2.0 * size**3 * repeats
