"""What the data workers hand to a training step. No audio library needed here.

Shapes: B utterances, T samples at 16 kHz.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from distill.distortions import Distorter, Plan
from distill.distortions.clips import Clips


@dataclass
class Heard:
    """What the data workers have distorted."""

    waveforms: Tensor
    """(B, T)."""
    labels: Tensor
    """(B, 7), of what was applied."""
    left_out: list[int]
    """Per utterance, how many of noise and room silence made impossible."""


@dataclass
class View:
    """A batch as one network hears it: a plan of distortions and the recordings that the plan needs.

    Where the data workers distort (`distortion.where: workers`), what came of it in place of the recordings.
    """

    plan: Plan
    noises: Sequence[Tensor | None]
    """Per utterance, the noise segment (samples at 16 kHz) or None."""
    rirs: Sequence[Tensor | None]
    """Per utterance, the room impulse response or None; always on the CPU, where its level is looked at."""
    white: Sequence[Tensor | None] | None = None
    """Per utterance, the white noise that the plan asks for, or None; None: the distorter draws it."""
    heard: Heard | None = None
    """What the data workers have made of it."""
    reads: int = 0
    """Recordings of noise and rooms that it needs."""
    lost: list[tuple[str, str]] = field(default_factory=list)
    """(id, reason) of those that could not be read."""
    silent: list[tuple[str, str]] = field(default_factory=list)
    """(id, reason) of those that are silent from beginning to end."""
    pauses: int = 0
    """Number of those that are silent only in the stretch that was drawn."""

    def distort(self, distorter: Distorter, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Apply it to clean speech (B, T), unless the data workers have.

        Returns:
            Distorted waveforms (B, T), and labels (B, 7).
        """
        if self.heard is None:
            return distorter(waveforms, lengths, self.plan, self.noises, self.rirs, self.white)
        distorter.skipped = distorter.skipped + sum(self.heard.left_out)
        return self.heard.waveforms[:, : waveforms.shape[1]], self.heard.labels

    def distorted_by(self, distorter: Distorter, waveforms: Tensor, lengths: Tensor) -> View:
        """The same with what comes of it in place of the recordings."""
        out, applied = distorter.apply(waveforms, lengths, self.plan, self.noises, self.rirs, self.white)
        left_out = [
            (planned.rir != done.rir) + (planned.additive != done.additive)
            for planned, done in zip(self.plan, applied, strict=True)
        ]
        nothing = [None] * len(self.plan)
        heard = Heard(out, applied.labels(), left_out)
        return replace(self, noises=nothing, rirs=nothing, white=None, heard=heard)

    def to(self, device: torch.device | str) -> View:
        """The same, what is needed there on `device`."""
        if torch.device(device).type == "cpu":
            return self
        heard = self.heard
        if heard is not None:
            waveforms, labels = (x.to(device, non_blocking=True) for x in (heard.waveforms, heard.labels))
            heard = replace(heard, waveforms=waveforms, labels=labels)
        noises = Clips.pack(self.noises).to(device)
        white = None if self.white is None else Clips.pack(self.white).to(device)
        return replace(self, noises=noises, white=white, heard=heard)

    def pin_memory(self) -> View:
        """Called by the data loader when it pins memory; rooms are not copied to the device."""
        heard = self.heard
        if heard is not None:
            heard = replace(heard, waveforms=heard.waveforms.pin_memory(), labels=heard.labels.pin_memory())
        noises = Clips.pack(self.noises).pin_memory()
        white = None if self.white is None else Clips.pack(self.white).pin_memory()
        return replace(self, noises=noises, white=white, heard=heard)

    def __getitem__(self, rows: slice) -> View:
        heard = self.heard
        if heard is not None:
            heard = Heard(heard.waveforms[rows], heard.labels[rows], heard.left_out[rows])
        white = None if self.white is None else self.white[rows]
        return View(self.plan[rows], self.noises[rows], self.rirs[rows], white, heard)


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
            self.position,
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
        self.views = {stream: view.pin_memory() for stream, view in self.views.items()}
        if self.targets is not None:
            self.targets = self.targets.pin_memory()
        return self
