"""What models have in common whose layers can be read and disturbed.

Layers have names, in the order of the computation: `conv1`, `conv2`, ... the convolutions; `cnn` the last
one, the "local features" (layer 0 of Pasad et al. 2023); `0` the input of the transformer; `1` to `L` its
layers, the last one after the final layer norm of pre-norm models. `input` is what the first convolution
gets, after the normalisation of models that normalise: it can be disturbed, but is no layer. (Of SPIRAL,
whose convolutions get log-mel features, it is the waveform.)

Shapes: B utterances, T samples at 16 kHz, F frames of a layer, D features, L layers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from distill.errors import UsageError

CNN = "cnn"
"""The output of the last convolution."""
INPUT = "input"
"""What the first convolution gets."""


def ordered(layers: Iterable[str]) -> list[str]:
    """Names of layers in the order of the computation, each once."""

    def place(layer: str) -> tuple[int, int]:
        if layer.startswith("conv"):
            return 0, int(layer.removeprefix("conv"))
        return (1, 0) if layer == CNN else (2, int(layer))

    return sorted(set(layers), key=place)


@dataclass(frozen=True)
class Activations:
    """What layers put out for a batch."""

    states: dict[str, Tensor]
    """By layer, (B, F, D)."""
    lengths: dict[str, Tensor]
    """By layer, (B,) int64, valid frames."""

    def valid(self, layer: str) -> list[Tensor]:
        """The valid frames of each utterance, (F, D)."""
        lengths = self.lengths[layer].tolist()
        return [rows[:n_frames] for rows, n_frames in zip(self.states[layer], lengths, strict=True)]


class LayeredModel(ABC):
    """A model in eval mode, its layers by name."""

    name: str
    """For people; differs from those of other models that were opened with it."""
    layers: tuple[str, ...]
    """All names, in the order of the computation."""
    identity: str
    """A hash that changes with the activations."""
    device: torch.device
    """Of its weights; waveforms are moved there."""
    local: str = CNN
    """The last layer whose frames hear their own neighbourhood alone: the last convolution in front of any
    transformer."""
    receptive_field: int
    """Samples at 16 kHz that give one frame; shorter utterances have none."""
    rows: slice = slice(None)
    """Which rows of a batch run now: models that take utterances one by one give `injected`'s `change` these
    alone, without their padding."""

    @abstractmethod
    def activations(
        self, waveforms: Tensor, lengths: Tensor, layers: Collection[str] | None = None
    ) -> Activations:
        """What layers put out; differentiable with respect to the waveforms.

        Args:
            waveforms: (B, T), padded at the end.
            lengths: (B,) int64, valid samples.
            layers: wanted; None: all but the convolutions before `cnn`.

        Raises:
            UsageError: for a layer that does not exist.
        """

    @abstractmethod
    def hop(self, layer: str) -> int:
        """Samples from one frame of a layer to the next."""

    @abstractmethod
    def injected(self, layer: str, change: Callable[[Tensor], Tensor]) -> Any:
        """A context in which the output of a layer is changed before anything reads it.

        Args:
            layer: its name, or `input`, (B, T, 1).
            change: (B, F, D) -> (B, F, D).

        Raises:
            UsageError: for a layer that does not exist.
        """

    @abstractmethod
    def random_twin(self, seed: int) -> LayeredModel:
        """The same architecture with random weights: a control.

        Args:
            seed: of the weights.
        """

    @property
    def transformer(self) -> tuple[str, ...]:
        """`cnn`, if there is one, and the layers `0` to `L`."""
        return tuple(layer for layer in self.layers if not layer.startswith("conv"))

    def check(self, layers: Collection[str]) -> None:
        """Refuse layers that do not exist.

        Raises:
            UsageError: naming those that do.
        """
        for layer in layers:
            if layer not in self.layers:
                raise UsageError(f"{self.name} has no layer {layer!r}; it has {', '.join(self.layers)}")
