"""How fast a device multiplies matrices: the limit of a step, beside the work that it has to do.

That work is counted as `distill.training.flops` does. A contender that computes a convolution by way of its
spectrum does less, and could pass the limit.
"""

from __future__ import annotations

import torch

from bench.contenders import Contender

GEMM_SIZE = {"cpu": 1536, "cuda": 8192}
GEMM_REPEATS = {"cpu": 4, "cuda": 20}


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
