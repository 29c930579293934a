"""Models of transformers that are built like wav2vec 2.0.

Every utterance gets in a batch what it gets alone. Most of these models pay no attention to padding when
they are told its mask, but two parts of some do not know masks: the group norm of the first convolution,
whose statistics are taken over valid frames here; and the stacked positional convolutions of data2vec and the
convolutions of Conformers, for which utterances run one by one.

Shapes: B utterances, T samples at 16 kHz, F frames of a layer, C channels, D features, L layers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from distill.analysis.layered import CNN, INPUT, Activations, LayeredModel
from distill.atomic import read_json
from distill.checkpoints.huggingface import is_hub_id
from distill.convolution import masked_instance_norm
from distill.downstream.features import hash_weights
from distill.errors import CheckpointError, first_line, listed
from distill.training.devices import best_device, device_of
from distill.waveforms import SAMPLE_RATE, frame_mask

_MOST_BYTES = 1 << 20
"""Of a `config.json`; they have a few KiB."""
_WITH_MASKS = ("hubert", "unispeech", "unispeech-sat", "wav2vec2", "wavlm")
"""Types of models that can run in padded batches."""
_ONE_BY_ONE = ("data2vec-audio", "wav2vec2-conformer")
_EPSILON = 1e-7  # of transformers' normalisation of waveforms


class TransformersModel(LayeredModel):
    """A model of transformers, without a head.

    Args:
        model: such as a `HubertModel`; moved to the best device.
        name: for people.
        normalizes: whether waveforms are normalised first; None: if it has layer norm in its convolutions.

    Raises:
        CheckpointError: if it is not built like wav2vec 2.0.
    """

    def __init__(self, model: Any, name: str, *, normalizes: bool | None = None):
        self.config = config = model.config
        if config.model_type not in (*_WITH_MASKS, *_ONE_BY_ONE):
            known = ", ".join((*_WITH_MASKS, *_ONE_BY_ONE))
            raise CheckpointError(f"{name} is a model of type {config.model_type!r}, expected {known}")
        if getattr(config, "add_adapter", False):
            raise CheckpointError(
                f"{name} has an adapter above its transformer: its frames are of another rate"
            )
        self.network: Any = model.to(best_device()).eval().requires_grad_(False)
        self.name = name
        norm = getattr(config, "feat_extract_norm", "layer")  # data2vec has layer norms, and does not say so
        self.normalizes = norm == "layer" if normalizes is None else normalizes
        self.device = device_of(self.network)
        settings = f"{config.model_type} {self.normalizes} {config.hidden_act} {config.num_attention_heads}"
        self.identity = hash_weights(self.network.state_dict(), settings)
        convolutions = [f"conv{number}" for number in range(1, len(config.conv_kernel))]
        self.layers = (*convolutions, CNN, *map(str, range(config.num_hidden_layers + 1)))
        self.receptive_field = 1
        for kernel, stride in reversed(self._convolutions(CNN)):
            self.receptive_field = (self.receptive_field - 1) * stride + kernel

    @classmethod
    def load(cls, source: str, name: str) -> TransformersModel:
        """From a folder or the hub; code that comes with a model is never run.

        Raises:
            CheckpointError: if it cannot be loaded.
        """
        model = load_pretrained("AutoModel", source)
        return cls(model, name, normalizes=normalizes(source))

    @override
    def activations(
        self, waveforms: Tensor, lengths: Tensor, layers: Collection[str] | None = None
    ) -> Activations:
        wanted = self.transformer if layers is None else [name for name in self.layers if name in set(layers)]
        self.check(layers or ())
        inputs = self._inputs(waveforms.to(self.device), lengths.to(self.device))
        if self.config.model_type in _WITH_MASKS:
            states = self._run(inputs, lengths.to(self.device), wanted)
        else:
            states = self._run_one_by_one(inputs, lengths, wanted)
        return Activations(states, {name: self._frames(name, lengths).to(self.device) for name in wanted})

    def _run_one_by_one(self, inputs: Tensor, lengths: Tensor, wanted: Collection[str]) -> dict[str, Tensor]:
        found: list[dict[str, Tensor]] = []
        try:
            for row, n_samples in enumerate(lengths.tolist()):
                self.rows = slice(row, row + 1)
                found.append(self._run(inputs[row : row + 1, :n_samples], lengths[row : row + 1], wanted))
        finally:
            self.rows = slice(None)
        pad = partial(nn.utils.rnn.pad_sequence, batch_first=True)
        return {name: pad([each[name][0] for each in found]) for name in wanted}

    def _run(self, inputs: Tensor, lengths: Tensor, wanted: Collection[str]) -> dict[str, Tensor]:
        """(B, T) -> by layer, (B, F, D)."""
        states: dict[str, Tensor] = {}
        full = bool((lengths == inputs.shape[1]).all())  # then no masks are needed
        with ExitStack() as stack:
            if not full and getattr(self.config, "feat_extract_norm", "layer") == "group":
                stack.enter_context(self._masked_norm(self._frames("conv1", lengths)))
            for name in wanted:
                stack.enter_context(self._hooked(name, partial(states.setdefault, name), final=True))
            mask = None if full else frame_mask(lengths, inputs.shape[1]).long()
            self.network(inputs, attention_mask=mask)
        return {name: states[name] for name in wanted}

    @contextmanager
    def _masked_norm(self, frames: Tensor) -> Iterator[None]:
        norm = self.network.feature_extractor.conv_layers[0].layer_norm
        handle = norm.register_forward_hook(
            lambda module, inputs, _output: masked_instance_norm(inputs[0], frames, module)
        )
        try:
            yield
        finally:
            handle.remove()

    def _inputs(self, waveforms: Tensor, lengths: Tensor) -> Tensor:
        """Normalised as by transformers' feature extractor, zero in the padding. (B, T) -> (B, T)."""
        valid = frame_mask(lengths, waveforms.shape[1])
        waveforms = waveforms.masked_fill(~valid, 0.0)
        if not self.normalizes:
            return waveforms
        count = lengths[:, None]
        centred = (waveforms - waveforms.sum(1, keepdim=True) / count).masked_fill(~valid, 0.0)
        return centred / torch.sqrt(centred.square().sum(1, keepdim=True) / count + _EPSILON)

    def _convolutions(self, layer: str) -> list[tuple[int, int]]:
        """(kernel, stride) of the convolutions up to a layer."""
        every = list(zip(self.config.conv_kernel, self.config.conv_stride, strict=True))
        return every[: int(layer.removeprefix("conv"))] if layer.startswith("conv") else every

    def _frames(self, layer: str, lengths: Tensor) -> Tensor:
        """(B,) samples -> (B,) frames of a layer."""
        for kernel, stride in self._convolutions(layer):
            lengths = (lengths - kernel) // stride + 1
        return lengths

    @override
    def hop(self, layer: str) -> int:
        self.check([layer])
        return math.prod(stride for _, stride in self._convolutions(layer))

    @override
    def injected(self, layer: str, change: Callable[[Tensor], Tensor]) -> Any:
        if layer != INPUT:
            self.check([layer])
        return self._hooked(layer, change)

    @contextmanager
    def _hooked(
        self, layer: str, change: Callable[[Tensor], Tensor], *, final: bool = False
    ) -> Iterator[None]:
        """Go on with what `change` makes of a layer's output; `final`: of the last, after the layer norm."""
        convolutions, encoder = self.network.feature_extractor.conv_layers, self.network.encoder
        if layer == INPUT:
            handle = convolutions[0].register_forward_pre_hook(_of_channels(change, before=True))
        elif layer.startswith("conv") or layer == CNN:
            number = len(self._convolutions(layer)) - 1
            handle = convolutions[number].register_forward_hook(_of_channels(change))
        elif layer == "0":
            handle = encoder.layers[0].register_forward_pre_hook(_of_input(change), with_kwargs=True)
        elif final and layer == self.layers[-1]:
            handle = encoder.register_forward_hook(_of_encoder(change))
        else:
            handle = encoder.layers[int(layer) - 1].register_forward_hook(_of_output(change))
        try:
            yield
        finally:
            handle.remove()

    @override
    def random_twin(self, seed: int) -> LayeredModel:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            twin = type(self.network)(self.config)
        return TransformersModel(twin, f"{self.name} (random weights)", normalizes=self.normalizes)


_Change = Callable[[Tensor], Tensor]


def _of_channels(change: _Change, *, before: bool = False) -> Callable[..., Any]:
    """A hook of a convolution, (B, C, F)."""

    def after(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
        return change(output.transpose(1, 2)).transpose(1, 2)

    def ahead(_module: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        return (change(inputs[0].transpose(1, 2)).transpose(1, 2),)

    return ahead if before else after


def _of_input(change: _Change) -> Callable[..., Any]:
    """A hook before a layer of the transformer."""

    def hook(_module: nn.Module, inputs: tuple[Any, ...], words: dict[str, Any]) -> tuple[Any, Any]:
        if inputs:
            return (change(inputs[0]), *inputs[1:]), words
        return inputs, words | {"hidden_states": change(words["hidden_states"])}

    return hook


def _of_output(change: _Change) -> Callable[..., Any]:
    """A hook after a layer of the transformer, which puts out states, or states and more."""

    def hook(_module: nn.Module, _inputs: Any, output: Any) -> Any:
        return change(output) if isinstance(output, Tensor) else (change(output[0]), *output[1:])

    return hook


def _of_encoder(read: _Change) -> Callable[..., None]:
    """A hook that reads what the transformer puts out."""

    def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
        read(output[0])

    return hook


def is_foreign(source: str) -> bool:
    """Whether a folder or hub id says that it holds one of these models."""
    return config_of(source).get("model_type") in (*_WITH_MASKS, *_ONE_BY_ONE)


def config_of(source: str) -> dict[str, Any]:
    """The `config.json` of a folder or hub id; empty if there is none, or it cannot be asked."""
    path = Path(source) / "config.json"
    try:
        if path.is_file():
            return read_json(path, most_bytes=_MOST_BYTES)
        if not is_hub_id(source):
            return {}
        import transformers  # takes seconds

        return transformers.PretrainedConfig.get_config_dict(source)[0]
    except (OSError, ValueError, RecursionError):
        return {}


def load_pretrained(kind: str, source: str) -> Any:
    """What an "AutoModel", "AutoTokenizer" and so on of transformers makes of a folder or hub id.

    Code that comes with it is never run, and weights in a pickle are read as tensors only.

    Raises:
        CheckpointError: if it cannot be loaded, or weights are missing.
    """
    import transformers  # takes seconds

    is_model = kind.startswith("AutoModel")
    with _quiet():
        try:
            words = {"output_loading_info": True} if is_model else {}
            found = getattr(transformers, kind).from_pretrained(source, trust_remote_code=False, **words)
        except Exception as error:  # those of its readers and of its network stack differ between versions
            raise CheckpointError(f"{source}: transformers cannot load it: {first_line(error)}") from error
    if not is_model:
        return found
    model, info = found
    missing = [key for key in info["missing_keys"] if not key.endswith("masked_spec_embed")]
    if wrong := [*missing, *(str(key) for key in info["mismatched_keys"])]:
        raise CheckpointError(
            f"{source}: weights are missing or have another shape: {listed(sorted(wrong))}; is it fine-tuned?"
        )
    return model


def normalizes(source: str) -> bool | None:
    """Whether the feature extractor of a folder or hub id normalises waveforms; None if it has none.

    Raises:
        CheckpointError: if it is for another sampling rate.
    """
    from transformers.utils import cached_file

    names = ("preprocessor_config.json", "processor_config.json")
    if not any(cached_file(source, name, _raise_exceptions_for_missing_entries=False) for name in names):
        return None
    extractor = load_pretrained("AutoFeatureExtractor", source)
    if extractor.sampling_rate != SAMPLE_RATE:
        raise CheckpointError(f"{source} is for speech at {extractor.sampling_rate} Hz, not {SAMPLE_RATE}")
    return bool(getattr(extractor, "do_normalize", False))


@contextmanager
def _quiet() -> Iterator[None]:
    """Without its reports of heads that are not loaded, and its progress bars."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
