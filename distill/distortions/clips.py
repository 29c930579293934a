"""Recordings of a batch in one tensor: one copy to a device in place of one for each utterance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import overload

import torch
from torch import Tensor


class Clips(Sequence["Tensor | None"]):
    """A list of 1-D tensors, and None where an utterance has none, that lie one after another in memory.

    Args:
        samples: (N,) all of them.
        places: of each utterance's, the first sample and the one after the last, or None.
    """

    def __init__(self, samples: Tensor, places: Sequence[tuple[int, int] | None]) -> None:
        self.samples, self.places = samples, list(places)

    @classmethod
    def pack(cls, clips: Sequence[Tensor | None]) -> Clips:
        """Lay the tensors of a list one after another."""
        if isinstance(clips, Clips):
            return clips
        places: list[tuple[int, int] | None] = []
        total = 0
        for clip in clips:
            places.append(None if clip is None else (total, total + len(clip)))
            total += 0 if clip is None else len(clip)
        present = [clip for clip in clips if clip is not None]
        return cls(torch.cat(present) if present else torch.zeros(0), places)

    def to(self, device: torch.device | str) -> Clips:
        """The same on `device`, in one copy that is not waited for."""
        return Clips(self.samples.to(device, non_blocking=True), self.places)

    def pin_memory(self) -> Clips:
        """The same in memory from which a GPU copies by itself."""
        return Clips(self.samples.pin_memory(), self.places)

    def __len__(self) -> int:
        return len(self.places)

    @overload
    def __getitem__(self, index: int) -> Tensor | None: ...
    @overload
    def __getitem__(self, index: slice) -> Clips: ...
    def __getitem__(self, index: int | slice) -> Tensor | Clips | None:
        if isinstance(index, slice):
            return Clips(self.samples, self.places[index])
        place = self.places[index]
        return None if place is None else self.samples[slice(*place)]
