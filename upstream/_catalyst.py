"""The one class that s3prl takes from catalyst, whose last release pip 24.1 and newer refuse to install."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from torch.utils.data import DistributedSampler, Sampler


class DistributedSamplerWrapper(DistributedSampler):
    """Deals out what another sampler draws to the processes of a distributed run, without shuffling it again.

    Args:
        sampler: has to draw the same on every process.
        num_replicas: processes; those of the process group if not given.
        rank: of this process.
        shuffle: of the order within an epoch.
    """

    def __init__(
        self,
        sampler: Sampler,
        num_replicas: int | None = None,
        rank: int | None = None,
        shuffle: bool = True,
    ):
        # Given only to be counted: what it draws is listed again in every epoch.
        super().__init__(sampler, num_replicas=num_replicas, rank=rank, shuffle=shuffle)  # pyright: ignore
        self.sampler = sampler

    def __iter__(self) -> Iterator[Any]:
        drawn = list(self.sampler)
        return iter([drawn[place] for place in super().__iter__()])


def supply() -> list[str]:
    """Make `from catalyst.data.sampler import DistributedSamplerWrapper` work; returns what was supplied."""
    names = ("catalyst", "catalyst.data", "catalyst.data.sampler")
    modules = {name: ModuleType(name, __doc__) for name in names}
    modules["catalyst.data.sampler"].DistributedSamplerWrapper = DistributedSamplerWrapper  # pyright: ignore
    modules["catalyst"].data = modules["catalyst.data"]  # pyright: ignore
    modules["catalyst.data"].sampler = modules["catalyst.data.sampler"]  # pyright: ignore
    sys.modules.update(modules)
    return ["catalyst.data.sampler.DistributedSamplerWrapper"]
