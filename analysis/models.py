"""Speech models whose layers can be read and disturbed, under one interface.

Layers have names, in the order of the computation: `conv1`, `conv2`, ... the convolutions; `cnn` the last
one, the "local features" (layer 0 of Pasad et al. 2023); `0` the input of the transformer; `1` to `L` its
layers, the last one after the final layer norm of pre-norm models.

Shapes: B utterances, T samples at 16 kHz, F frames of a layer, C channels, D features, L layers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from distill.checkpoints.loading import load_any
from distill.downstream.embeddings import short_names
from distill.downstream.features import hash_encoder
from distill.errors import UsageError
from distill.hubert import HubertEncoder
from distill.student import Student
from distill.training.devices import best_device, device_of

CNN = "cnn"
"""The output of the last convolution."""


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
    receptive_field: int
    """Samples at 16 kHz that give one frame; shorter utterances have none."""

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
            layer: its name.
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


class OurModel(LayeredModel):
    """A teacher, or a student with or without its prediction heads.

    Args:
        model: moved to the best device.
        name: for people.
    """

    def __init__(self, model: HubertEncoder | Student, name: str):
        self.model = model.to(best_device()).eval().requires_grad_(False)
        self.encoder: HubertEncoder = model.encoder if isinstance(model, Student) else model
        self.student = model if isinstance(model, Student) else None
        self.name, self.identity = name, hash_encoder(self.encoder)
        self.device = device_of(self.encoder)
        config = self.encoder.config
        self.receptive_field = config.receptive_field
        convolutions = [f"conv{number}" for number in range(1, len(config.conv_layers))]
        self.layers = (*convolutions, CNN, *map(str, range(config.layers + 1)))

    @override
    def activations(
        self, waveforms: Tensor, lengths: Tensor, layers: Collection[str] | None = None
    ) -> Activations:
        wanted = self.transformer if layers is None else [name for name in self.layers if name in set(layers)]
        self.check(layers or ())
        states: dict[str, Tensor] = {}
        with ExitStack() as stack:
            for name in wanted:
                if name.startswith("conv") or name in (CNN, "0"):  # also what `injected` made of it
                    stack.enter_context(self._hooked(name, partial(states.setdefault, name)))
            full = bool((lengths == waveforms.shape[1]).all())  # then no masks are needed
            out = self.encoder(waveforms.to(self.device), None if full else lengths)
        features = {str(number): state for number, state in enumerate(out.features)}
        states = {name: states[name] if name in states else features[name] for name in wanted}
        return Activations(states, {name: self._frames(name, lengths).to(self.device) for name in wanted})

    def _frames(self, layer: str, lengths: Tensor) -> Tensor:
        """(B,) samples -> (B,) frames of a layer."""
        for _, kernel, stride in self.encoder.config.conv_layers[: self._n_convolutions(layer)]:
            lengths = (lengths - kernel) // stride + 1
        return lengths

    def _n_convolutions(self, layer: str) -> int:
        if layer.startswith("conv"):
            return int(layer.removeprefix("conv"))
        return len(self.encoder.config.conv_layers)

    @override
    def hop(self, layer: str) -> int:
        self.check([layer])
        hop = 1
        for _, _, stride in self.encoder.config.conv_layers[: self._n_convolutions(layer)]:
            hop *= stride
        return hop

    @override
    def injected(self, layer: str, change: Callable[[Tensor], Tensor]) -> Any:
        self.check([layer])
        return self._hooked(layer, change)

    @contextmanager
    def _hooked(self, layer: str, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
        """Go on with what `change` makes of a layer's output, (B, F, D)."""

        def after_convolution(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
            return change(output.transpose(1, 2)).transpose(1, 2)

        def after_layer(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
            return change(output)

        def before_transformer(_module: nn.Module, inputs: tuple[Tensor, Any]) -> tuple[Tensor, Any]:
            return change(inputs[0]), inputs[1]

        if layer.startswith("conv") or layer == CNN:
            handle = self.encoder.cnn[self._n_convolutions(layer) - 1].register_forward_hook(
                after_convolution
            )
        elif layer == "0":
            handle = self.encoder.layers[0].register_forward_pre_hook(before_transformer)
        else:
            handle = self.encoder.layers[int(layer) - 1].register_forward_hook(after_layer)
        try:
            yield
        finally:
            handle.remove()

    @override
    def random_twin(self, seed: int) -> LayeredModel:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return OurModel(HubertEncoder(self.encoder.config), f"{self.name} (random weights)")


def open_models(sources: Sequence[str]) -> list[LayeredModel]:
    """Teachers, students and models of other libraries.

    Args:
        sources: whatever `distill.load_teacher` and `distill.load_student` read; a folder or hub id of any
            model of transformers that is built like wav2vec 2.0; "s3prl:NAME" or "s3prl:NAME=CHECKPOINT".

    Raises:
        CheckpointError: saying what was found and what was expected.
    """
    return [open_model(source, name) for source, name in zip(sources, short_names(sources), strict=True)]


def open_model(source: str, name: str) -> LayeredModel:
    """One of `open_models`."""
    return OurModel(load_any(source)[0], name)
