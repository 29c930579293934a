"""The teacher of SPIRAL: a moving average of its student (paper, Eq. 1)."""

from __future__ import annotations

import copy
import math
from typing import TypeVar

import torch
from torch import Tensor, nn

Module = TypeVar("Module", bound=nn.Module)


def alpha(step: int, *, base: float, final: float, steps: int) -> float:
    """How much of the teacher stays when `step` updates have been made: a cosine from `base` to `final`.

        final + (base - final) (1 + cos(pi step / steps)) / 2

    and `final` from `steps` on.
    """
    if step >= steps:
        return final
    return final + (base - final) * (1 + math.cos(math.pi * step / steps)) / 2


def teacher_of(student: Module) -> Module:
    """A copy that begins as its student, in float32, and gets no gradients."""
    return copy.deepcopy(student).float().requires_grad_(False)


@torch.no_grad()
def update(teacher: nn.Module, student: nn.Module, alpha: float, left_out: Tensor | None = None) -> None:
    """Move every parameter of the teacher to alpha * teacher + (1 - alpha) * student, in place, in float32.

    The two factors of a normalised weight are averaged each by itself. Buffers stay. The student may have
    parameters of its own besides: its predictor.

    The average is computed as teacher + (1 - alpha) * (student - teacher): near the end of the schedule alpha
    itself is 1 in float32, and the first form would let the teacher's norm drift.

    Where `left_out`, a scalar on the device, is 1 and not 0, nothing moves.

    Raises:
        ValueError: if a parameter of the teacher is not in float32, or not one of the student's.
    """
    own = dict(teacher.named_parameters())
    theirs = dict(student.named_parameters())
    for name, parameter in own.items():
        if parameter.dtype != torch.float32:
            raise ValueError(f"the teacher's {name} must be in float32, not {parameter.dtype}")
        if name not in theirs or theirs[name].shape != parameter.shape:
            raise ValueError(f"the student has no parameter {name} of shape {tuple(parameter.shape)}")
    if own:
        students = [theirs[name].detach().float() for name in own]
        share = 1 - alpha if left_out is None else [(1 - alpha) * (1 - left_out)] * len(own)
        torch._foreach_lerp_([parameter.detach() for parameter in own.values()], students, share)
