"""What counts as samples of audio: tensors of floating point, within +-1."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def check_samples(name: str, samples: Any) -> None:
    """Refuse what is no tensor of floating-point numbers.

    Integers are not converted: whether 16, 24 or 32 bits of them are in use is not seen in the tensor.

    Raises:
        ValueError: saying what to do.
    """
    if not isinstance(samples, Tensor):
        raise ValueError(
            f"{name} must be a torch tensor, not {type(samples).__name__}: torch.from_numpy makes one of an "
            "array"
        )
    if not samples.is_floating_point():
        found = str(samples.dtype).removeprefix("torch.")
        raise ValueError(
            f"{name} must hold floating-point samples within +-1, not {found}: divide 16-bit ones by 32768"
        )
