"""Optimisation: AdamW, its settings, and the schedule of the learning rate."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from distill.errors import check_finite


@dataclass(kw_only=True)
class OptimConfig:
    """How the student is optimised. Defaults: the paper and DistilHuBERT's configuration."""

    lr: float = 2e-4
    """Peak learning rate of the student."""
    betas: tuple[float, float] = (0.9, 0.98)
    """Of AdamW."""
    eps: float = 1e-6
    """Of AdamW."""
    weight_decay: float = 1e-6
    """Of AdamW."""
    warmup: float = 0.07
    """Share of the steps over which the learning rate rises; it then falls linearly to 0."""
    max_steps: int = 20_000
    """Student updates."""
    clip_norm: float = 5.0
    """Largest norm of the student's gradient; 0: no clipping."""
    accumulate: int = 1
    """Micro-batches into which a batch is split to save memory."""
    max_nonfinite: int = 20
    """Consecutive updates that may be left out because their gradient is not finite."""

    def __post_init__(self) -> None:
        check_finite(self)
        if self.max_steps < 1:
            raise ValueError(f"max_steps must be at least 1, not {self.max_steps}")
        if self.max_nonfinite < 1:
            raise ValueError(f"max_nonfinite must be at least 1, not {self.max_nonfinite}")
        if self.accumulate < 1:
            raise ValueError(f"accumulate must be at least 1, not {self.accumulate}")
        if not 0.0 <= self.warmup < 1.0:
            raise ValueError(f"warmup must be in [0, 1), a share of max_steps, not {self.warmup}")
        if self.lr <= 0:
            raise ValueError(f"lr must be positive, not {self.lr}")
        if self.weight_decay < 0:
            raise ValueError(f"weight_decay must not be negative, not {self.weight_decay}")
        if self.eps < 0:
            raise ValueError(f"eps must not be negative, not {self.eps}")
        if not all(0.0 <= beta < 1.0 for beta in self.betas):
            raise ValueError(f"betas must be in [0, 1), not {list(self.betas)}")
        if self.clip_norm < 0:
            raise ValueError(f"clip_norm must be 0 (off) or positive, not {self.clip_norm}")

    def schedule(self, update: int) -> float:
        """Factor on the peak learning rate of an update, the first of which is 1: that of s3prl's optimisers.

        Linear warm-up over the share `warmup` of the updates, then linear decay to 0 at the last one.
        """
        progress = update / self.max_steps
        if progress < self.warmup:
            return progress / self.warmup
        return max(0.0, (1.0 - progress) / (1.0 - self.warmup))

    def next_factor(self, updates: int) -> float:
        """The factor of the update after `updates` of them, as torch's schedulers count."""
        return self.schedule(updates + 1)


def adamw(parameters: Iterable[Tensor], optim: OptimConfig, lr: float | None = None) -> torch.optim.AdamW:
    """AdamW with a recipe's settings."""
    return torch.optim.AdamW(
        parameters, lr=lr or optim.lr, betas=optim.betas, eps=optim.eps, weight_decay=optim.weight_decay
    )
