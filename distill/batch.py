"""What the data workers hand to a training step. No audio library needed here.

Shapes: B utterances, T samples at 16 kHz.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from distill.distortions.plan import Plan


@dataclass
class View:
    """A batch as one network hears it: a plan of distortions and the recordings that the plan needs."""

    plan: Plan
    noises: list[Tensor | None]
    """Per utterance, the noise segment (samples at 16 kHz) or None."""
    rirs: list[Tensor | None]
    """Per utterance, the room impulse response or None."""
    reads: int = 0
    """Recordings of noise and rooms that it needs."""
    lost: list[tuple[str, str]] = field(default_factory=list)
    """(id, reason) of those that could not be read."""
    silent: list[tuple[str, str]] = field(default_factory=list)
    """(id, reason) of those that are silent from beginning to end."""
    pauses: int = 0
    """Number of those that are silent only in the stretch that was drawn."""

    def to(self, device: torch.device | str) -> View:
        """The same, its recordings on `device`."""
        return replace(self, noises=_each(self.noises, device), rirs=_each(self.rirs, device))

    def __getitem__(self, rows: slice) -> View:
        return View(self.plan[rows], self.noises[rows], self.rirs[rows])


def _each(tensors: Sequence[Tensor | None], device: torch.device | str) -> list[Tensor | None]:
    return [None if x is None else x.to(device, non_blocking=True) for x in tensors]


@dataclass
class Batch:
    """Clean speech, padded at the end with zeros, and the views of the networks."""

    ids: list[str]
    waveforms: Tensor
    """(B, T)."""
    lengths: Tensor
    """(B,) int64, valid samples; stays on the CPU, where reading it costs nothing."""
    views: dict[str, View] = field(default_factory=dict)
    """By name: "student", "teacher" or both, as the setup needs."""
    targets: Tensor | None = None
    """(B, F) int64 cluster labels, -1 in the padding (masked prediction only)."""
    position: tuple[int, int] = (0, 0)
    """Epoch, and number of this batch in it: a resumed run continues after it."""
    skipped: list[tuple[str, str]] = field(default_factory=list)
    """(id, reason) of utterances of this batch that could not be used."""

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def noise_reads(self) -> int:
        """Recordings of noise and rooms that its views need."""
        return sum(view.reads for view in self.views.values())

    @property
    def noise_lost(self) -> list[tuple[str, str]]:
        """(id, reason) of those that could not be read."""
        return [lost for view in self.views.values() for lost in view.lost]

    @property
    def noise_silent(self) -> list[tuple[str, str]]:
        """(id, reason) of those that are silent from beginning to end."""
        return [silent for view in self.views.values() for silent in view.silent]

    @property
    def noise_pauses(self) -> int:
        """Number of those that are silent only in the stretch that was drawn."""
        return sum(view.pauses for view in self.views.values())

    def __getitem__(self, rows: slice) -> Batch:
        """A micro-batch, cut to its own longest utterance."""
        lengths = self.lengths[rows]
        return Batch(
            self.ids[rows],
            self.waveforms[rows, : int(lengths.max())],
            lengths,
            {stream: view[rows] for stream, view in self.views.items()},
            None if self.targets is None else self.targets[rows],
        )

    def split(self, parts: int) -> list[Batch]:
        """At most `parts` micro-batches of nearly equal size."""
        size = -(-len(self) // parts)
        return [self[start : start + size] for start in range(0, len(self), size)]

    def to(self, device: torch.device | str) -> Batch:
        """The same on `device`; lengths stay on the CPU."""
        return Batch(
            self.ids,
            self.waveforms.to(device, non_blocking=True),
            self.lengths,
            {stream: view.to(device) for stream, view in self.views.items()},
            None if self.targets is None else self.targets.to(device, non_blocking=True),
            self.position,
            self.skipped,
        )

    def pin_memory(self) -> Batch:
        """Called by the data loader when it pins memory."""
        self.waveforms = self.waveforms.pin_memory()
        for view in self.views.values():
            view.noises = [None if x is None else x.pin_memory() for x in view.noises]
            view.rirs = [None if x is None else x.pin_memory() for x in view.rirs]
        if self.targets is not None:
            self.targets = self.targets.pin_memory()
        return self
