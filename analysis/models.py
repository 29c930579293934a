"""Speech models whose layers can be read and disturbed, under one interface: ours, and how any is opened.

The names of layers: `distill.analysis.layered`.

Shapes: B utterances, T samples at 16 kHz, F frames of a layer, C channels, D features, L layers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from typing_extensions import override

from distill.analysis.foreign_models import TransformersModel, is_foreign
from distill.analysis.layered import CNN, INPUT, Activations, LayeredModel
from distill.analysis.s3prl_models import PREFIX, S3prlModel
from distill.checkpoints.loading import load_any
from distill.downstream.embeddings import short_names
from distill.downstream.features import hash_encoder
from distill.encoder import Encoder
from distill.errors import CheckpointError
from distill.spiral.encoder import SpiralEncoder
from distill.student import Student, encoder_of
from distill.training.devices import best_device, device_of


class _Place(NamedTuple):
    """Where in an encoder a layer is."""

    module: nn.Module
    before: bool = False
    """Whether the layer is the module's first input, not its output."""
    strides: tuple[tuple[int, int], ...] = ()
    """(kernel, stride) of all convolutions up to here."""


class OurModel(LayeredModel):
    """A teacher, or a student with or without its prediction heads.

    SPIRAL's layers: `conv1`, ... all convolutions but the last one, `cnn`, those of both blocks counted
    through; `0` to `L` of block 2. The transformer of block 1 has no name: it stands between the last
    convolution of block 1, whose output is local, and the first of block 2, whose output is not.

    Args:
        model: on the device that it runs on.
        name: for people.
    """

    def __init__(self, model: Encoder | Student, name: str):
        self.model = model.eval().requires_grad_(False)
        self.encoder: Encoder = model.encoder if isinstance(model, Student) else model
        self.student = model if isinstance(model, Student) else None
        self.name, self.identity = name, hash_encoder(self.encoder)
        self.device = device_of(self.encoder)
        self.receptive_field = self.encoder.config.min_samples
        spiral = isinstance(self.encoder, SpiralEncoder)
        self._places = _places_of_spiral(self.encoder) if spiral else _places_of_hubert(self.encoder)
        self.layers = tuple(name for name in self._places if name != INPUT)
        if spiral:
            self.local = f"conv{len(self.encoder.config.block1_conv_layers)}"

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
        found = {name: states[name] if name in states else features[name] for name in wanted}
        n_samples = torch.tensor(waveforms.shape[1])  # a convolution may return more frames than it has
        found = {name: state[:, : int(self._frames(name, n_samples))] for name, state in found.items()}
        return Activations(found, {name: self._frames(name, lengths).to(self.device) for name in wanted})

    def _frames(self, layer: str, lengths: Tensor) -> Tensor:
        """(B,) samples -> (B,) frames of a layer."""
        for kernel, stride in self._places[layer].strides:
            lengths = (lengths - kernel) // stride + 1
        return lengths

    @override
    def hop(self, layer: str) -> int:
        self.check([layer])
        return math.prod(stride for _, stride in self._places[layer].strides)

    @override
    def injected(self, layer: str, change: Callable[[Tensor], Tensor]) -> Any:
        if layer != INPUT:
            self.check([layer])
        return self._hooked(layer, change)

    @contextmanager
    def _hooked(self, layer: str, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
        """Go on with what `change` makes of a layer's output, (B, F, D)."""
        place = self._places[layer]

        def changed(x: Tensor) -> Tensor:
            if x.dim() == 2:  # waveforms
                return change(x[:, :, None])[:, :, 0]
            return change(x)

        def before(_module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
            return changed(inputs[0]), *inputs[1:]

        def after(_module: nn.Module, _inputs: Any, output: Any) -> Any:
            if isinstance(output, tuple):  # a layer that hands on its attention map
                return changed(output[0]), *output[1:]
            return changed(output)

        if place.before:
            handle = place.module.register_forward_pre_hook(before)
        else:
            handle = place.module.register_forward_hook(after)
        try:
            yield
        finally:
            handle.remove()

    @override
    def random_twin(self, seed: int) -> LayeredModel:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            twin = encoder_of(self.encoder.config).to(self.device)
            return OurModel(twin, f"{self.name} (random weights)")


def _places_of_hubert(encoder: Any) -> dict[str, _Place]:
    """The layers of a `HubertEncoder` in the order of the computation, `input` before them."""
    config, strides = encoder.config, encoder.config.framing
    if encoder.logmel is None:
        places = {INPUT: _Place(encoder.cnn[0], before=True)}
        for number, module in enumerate(encoder.cnn[:-1], start=1):
            places[f"conv{number}"] = _Place(module, strides=strides[:number])
    else:
        places = {INPUT: _Place(encoder.logmel, before=True)}
        step = config.hop // math.prod(stride for _, _, stride in config.conv_layers)
        places["conv1"] = _Place(encoder.cnn[0], strides=((1, step),))  # as many as log-mel frames
    places[CNN] = _Place(encoder.cnn[-1], strides=strides)
    return places | _transformer(encoder.layers, strides)


def _places_of_spiral(encoder: Any) -> dict[str, _Place]:
    """The same of a `SpiralEncoder`. Its convolutions pad: ceil(n / stride) frames, as with a kernel of 1."""
    modules = [*encoder.block1.convs, *encoder.block2.convs]
    steps = [stride for _, _, stride in (*encoder.config.block1_conv_layers, *encoder.config.conv_layers)]
    strides = tuple((1, stride) for stride in (encoder.config.hop // math.prod(steps), *steps))
    places = {INPUT: _Place(encoder.logmel, before=True)}
    for number, module in enumerate(modules, start=1):
        name = CNN if number == len(modules) else f"conv{number}"
        places[name] = _Place(module, strides=strides[: number + 1])
    return places | _transformer(encoder.block2.layers, strides)


def _transformer(layers: Any, strides: tuple[tuple[int, int], ...]) -> dict[str, _Place]:
    """`0` to `L`."""
    places = {"0": _Place(layers[0], before=True, strides=strides)}
    return places | {str(n): _Place(layer, strides=strides) for n, layer in enumerate(layers, start=1)}


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
