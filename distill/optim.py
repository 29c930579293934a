"""Optimisation: AdamW, its settings, and the schedule of the learning rate."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from distill.errors import check_finite

DECAYS = ("linear", "cosine", "tri-stage")


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
    """Share of the steps over which the learning rate rises."""
    decay: str = "linear"
    """What follows: "linear" to 0, "cosine" to 0, or "tri-stage": `hold`, then linear to `floor`."""
    hold: float = 0.4
    """Share of the steps, after the warm-up, at the peak; of tri-stage only."""
    floor: float = 0.0
    """Factor on the peak at the last step; of tri-stage only."""
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
        if self.decay not in DECAYS:
            raise ValueError(f"decay must be one of {', '.join(DECAYS)}, not {self.decay!r}")
        if self.decay == "tri-stage" and not 0.0 <= self.hold <= 1.0 - self.warmup:
            raise ValueError(f"hold must be in [0, 1 - warmup], a share of max_steps, not {self.hold}")
        if not 0.0 <= self.floor <= 1.0:
            raise ValueError(f"floor must be in [0, 1], a factor on lr, not {self.floor}")
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
        """Factor on the peak learning rate of an update, the first of which is 1.

        "linear" is that of s3prl's optimisers: a linear warm-up over the share `warmup` of the updates, then
        linear decay to 0 at the last one. "cosine" is SPIRAL's, in its code's counting: with N updates of
        which W = warmup N warm up, update i from 0 has (i + 1) / (W + 1) up to i = W, then
        (1 + cos(pi (i - W) / (N - W))) / 2. "tri-stage" (Baevski et al. 2020, section 4.3, with a floor)
        warms up, holds the peak and falls linearly.
        """
        progress = update / self.max_steps
        if self.decay == "cosine":
            return self._cosine(update - 1)
        if progress < self.warmup:
            return progress / self.warmup
        if self.decay == "tri-stage":
            falling = 1.0 - self.warmup - self.hold
            left = min(1.0, max(0.0, 1.0 - progress) / falling) if falling else 1.0
            return self.floor + (1.0 - self.floor) * left
        return max(0.0, (1.0 - progress) / (1.0 - self.warmup))

    def _cosine(self, before: int) -> float:
        """SPIRAL's factor of the update that has so many before it."""
        warm = self.warmup * self.max_steps
        if before <= warm:
            return (before + 1) / (warm + 1)
        if before >= self.max_steps:
            return 0.0
        return (1.0 + math.cos(math.pi * (before - warm) / (self.max_steps - warm))) / 2.0

    def next_factor(self, updates: int) -> float:
        """The factor of the update after `updates` of them, as torch's schedulers count."""
        return self.schedule(updates + 1)


class FusedAdamW(torch.optim.AdamW):
    """AdamW in one kernel, which can leave an update out without anybody waiting for the device.

    Where `found_inf` is 1, parameters, moments and the count of updates stay as they are.
    """

    found_inf: Tensor | None = None
    """() float32, 1 where the gradient of the last update was not finite; torch hands it to the kernel."""

    def __init__(self, parameters: Iterable[Any], **settings: Any):
        super().__init__(parameters, fused=True, **settings)
        # It could undo the loss scale of float16, too, but then the gradient could not be clipped before.
        self._step_supports_amp_scaling = False

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Also a state whose optimiser was not fused, as in checkpoints of earlier versions."""
        groups = [group | {"fused": True, "foreach": None} for group in state_dict["param_groups"]]
        super().load_state_dict(state_dict | {"param_groups": groups})

    def clip(self, limit: float) -> Tensor:
        """Scale the gradient down to the norm `limit` (0: never); leave the update out if it is not finite.

        Returns:
            The norm before, a scalar.
        """
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        norm = torch.nn.utils.clip_grad_norm_(parameters, limit or math.inf)
        self.found_inf = (~norm.isfinite()).float()
        return norm


def adamw(parameters: Iterable[Tensor], optim: OptimConfig, lr: float | None = None) -> FusedAdamW:
    """AdamW with a recipe's settings."""
    return FusedAdamW(
        parameters, lr=lr or optim.lr, betas=optim.betas, eps=optim.eps, weight_decay=optim.weight_decay
    )
