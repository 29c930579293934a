"""Which devices to compute on: those that a recipe names, or the best available."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from distill.errors import ConfigError
from distill.options import Recipe

# More than any machine, or cluster, has: starting or waiting for a million processes would take for ever.
_MOST_DEVICES, _MOST_NODES = 1024, 16_384


def best_device() -> torch.device:
    """A GPU if one is available, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def devices_of(recipe: Recipe) -> list[torch.device]:
    """The devices of this machine that the recipe's trainer section asks for, one for each process.

    Raises:
        ConfigError: `devices` is neither a number of them nor a list.
    """
    layout = layout_of(recipe)
    if not layout.gpu or not torch.cuda.is_available():
        return [torch.device("cpu")] * layout.processes
    return [torch.device("cuda", number) for number in layout.numbers or range(layout.processes)]


def device_of(module: nn.Module) -> torch.device:
    """The device of a module; the CPU if it has no parameters."""
    parameter = next(module.parameters(), None)
    return torch.device("cpu") if parameter is None else parameter.device


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Which processes train."""

    processes: int
    """On each machine."""
    nodes: int
    """Machines."""
    gpu: bool
    """Whether each has a GPU."""
    numbers: tuple[int, ...] = ()
    """Indices of the GPUs, if they are named; otherwise the first ones are used."""


def layout_of(recipe: Recipe) -> Layout:
    """The processes that the trainer section asks for; "auto" is one for each GPU of this machine.

    Raises:
        ConfigError: `devices` or `num_nodes` is no number of them.
    """
    options = recipe.trainer
    found = torch.cuda.device_count()
    accelerator = str(options.get("accelerator", "auto"))
    gpu = accelerator in ("gpu", "cuda") or (accelerator == "auto" and found > 0)
    devices: Any = options.get("devices", "auto")
    if isinstance(devices, str) and "," in devices:
        devices = [part.strip() for part in devices.split(",") if part.strip()]
    numbers: tuple[int, ...] = ()
    if isinstance(devices, list | tuple) and devices and all(str(part).isdecimal() for part in devices):
        count, numbers = len(devices), tuple(int(part) for part in devices)
    elif str(devices) in ("auto", "-1"):
        count = found if gpu else 1
    else:
        count = _positive("devices", devices, "auto, a positive number or a list of GPUs", most=_MOST_DEVICES)
    nodes = _positive("num_nodes", options.get("num_nodes", 1), "a positive number", most=_MOST_NODES)
    return Layout(processes=max(1, count), nodes=nodes, gpu=gpu, numbers=numbers)


def _positive(key: str, value: Any, expected: str, *, most: int) -> int:
    text = str(value)
    if not text.isdecimal() or len(text) > 9 or not 1 <= int(text) <= most:
        raise ConfigError(f"trainer.{key} must be {expected} (at most {most}), not {text[:40]!r}")
    return int(text)
