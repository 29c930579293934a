"""What the data workers hand to a training step. No audio library needed here.

Shapes: B utterances, T samples at 16 kHz.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from distill.distortions.plan import Plan


@dataclass
class View:
    """How one network hears a batch: a plan of distortions and the recordings that the plan asks for."""

    plan: Plan
    noises: list[Tensor | None]
    """Per utterance, the noise segment (samples at 16 kHz) or None."""
    rirs: list[Tensor | None]
    """Per utterance, the room impulse response or None."""

    def to(self, device: torch.device | str) -> View:
        """The same, its recordings on `device`."""
        return View(self.plan, _each(self.noises, device), _each(self.rirs, device))

    def __getitem__(self, rows: slice) -> View:
        return View(self.plan[rows], self.noises[rows], self.rirs[rows])


def _each(tensors: Sequence[Tensor | None], device: torch.device | str) -> list[Tensor | None]:
    return [None if x is None else x.to(device, non_blocking=True) for x in tensors]


@dataclass
class Batch:
    """Clean speech, padded at the end with zeros, and the views of it."""

    ids: list[str]
    waveforms: Tensor
    """(B, T)."""
    lengths: Tensor
    """(B,) int64, valid samples; stays on the CPU, where reading it costs nothing."""
    views: dict[str, View] = field(default_factory=dict)
    """By stream: "student" and "teacher", as far as the setup needs them."""
    targets: Tensor | None = None
    """(B, F) int64 cluster labels, -1 in the padding (masked prediction only)."""
    position: tuple[int, int] = (0, 0)
    """Epoch, and which of its batches this is: where a resumed run has to go on behind."""
    skipped: list[tuple[str, str]] = field(default_factory=list)
    """(id, reason) of utterances that were to be in it and could not be used."""
    noise_reads: int = 0
    """Recordings of noise and rooms that were to be read for its views."""
    noise_lost: list[tuple[str, str]] = field(default_factory=list)
    """(id, reason) of those that could not be read."""
    noise_silent: list[tuple[str, str]] = field(default_factory=list)
    """(id, reason) of those in which there is nothing but silence."""
    noise_pauses: int = 0
    """Those of which the stretch that was drawn is silent, and the rest is not."""

    def __len__(self) -> int:
        return len(self.ids)

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
        """The same on `device`, lengths excepted."""
        return Batch(
            self.ids,
            self.waveforms.to(device, non_blocking=True),
            self.lengths,
            {stream: view.to(device) for stream, view in self.views.items()},
            None if self.targets is None else self.targets.to(device, non_blocking=True),
            self.position,
            self.skipped,
            self.noise_reads,
            self.noise_lost,
            self.noise_silent,
            self.noise_pauses,
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
