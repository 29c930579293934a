"""Which devices to compute on: those that a recipe names, or the best there is."""

from __future__ import annotations

import torch
from torch import nn

from distill.needs import layout_of
from distill.options import Recipe


def best_device() -> torch.device:
    """Where to compute when nobody says: a GPU, if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def devices_of(recipe: Recipe) -> list[torch.device]:
    """Those of this machine that the recipe's trainer section asks for, one for each process.

    Raises:
        ConfigError: `devices` is neither a number of them nor a list.
    """
    layout = layout_of(recipe)
    if not layout.gpu or not torch.cuda.is_available():
        return [torch.device("cpu")] * layout.processes
    return [torch.device("cuda", number) for number in layout.numbers or range(layout.processes)]


def device_of(module: nn.Module) -> torch.device:
    """Where a module is; the CPU if it has no parameters."""
    parameter = next(module.parameters(), None)
    return torch.device("cpu") if parameter is None else parameter.device
