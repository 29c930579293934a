"""Speech models whose layers can be read and disturbed, under one interface: ours, and how any is opened.

The names of layers: `distill.analysis.layered`.

Shapes: B utterances, T samples at 16 kHz, F frames of a layer, C channels, D features, L layers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from distill.analysis.foreign_models import TransformersModel, is_foreign
from distill.analysis.layered import CNN, INPUT, Activations, LayeredModel
from distill.analysis.s3prl_models import PREFIX, S3prlModel
from distill.checkpoints.loading import load_any
from distill.downstream.embeddings import short_names
from distill.downstream.features import hash_encoder
from distill.errors import CheckpointError
from distill.hubert import HubertEncoder
from distill.student import Student
from distill.training.devices import best_device, device_of


class OurModel(LayeredModel):
    """A teacher, or a student with or without its prediction heads.

    Args:
        model: on the device that it runs on.
        name: for people.
    """

    def __init__(self, model: HubertEncoder | Student, name: str):
        self.model = model.eval().requires_grad_(False)
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
        convolutions = self.encoder.config.conv_layers[: self._n_convolutions(layer)]
        return math.prod(stride for _, _, stride in convolutions)

    @override
    def injected(self, layer: str, change: Callable[[Tensor], Tensor]) -> Any:
        if layer != INPUT:
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

        def before_first(_module: nn.Module, inputs: tuple[Tensor, Any]) -> tuple[Tensor, Any]:
            return change(inputs[0].transpose(1, 2)).transpose(1, 2), inputs[1]

        if layer == INPUT:
            handle = self.encoder.cnn[0].register_forward_pre_hook(before_first)
        elif layer.startswith("conv") or layer == CNN:
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
            twin = HubertEncoder(self.encoder.config).to(self.device)
            return OurModel(twin, f"{self.name} (random weights)")


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
    """One of `open_models`: ours where it can be read as such, for speed."""
    if source.startswith(PREFIX):
        return S3prlModel(source, name)
    try:
        return OurModel(load_any(source)[0].to(best_device()), name)
    except CheckpointError:
        if not is_foreign(source):
            raise
        return TransformersModel.load(source, name)
