"""Upstreams of s3prl, as models whose layers can be read.

Their layers are their hidden states, `0` the first one; what those are differs between upstreams. Utterances
run one by one, as most upstreams let padding change what an utterance gets.

Shapes: B utterances, T samples at 16 kHz, F frames, D features.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Collection
from contextlib import contextmanager
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from distill.analysis.layered import INPUT, Activations, LayeredModel
from distill.downstream.features import hash_weights
from distill.errors import CheckpointError, UserError, first_line
from distill.hubert import HubertConfig
from distill.training.devices import best_device

PREFIX = "s3prl:"
_SECOND = 16_000


class S3prlModel(LayeredModel):
    """An upstream of s3prl.

    Args:
        source: "s3prl:NAME", or "s3prl:NAME=CHECKPOINT" for upstreams that take one, such as hubert_local.
        name: for people.

    Raises:
        UserError: if s3prl is not installed.
        CheckpointError: if there is no such upstream, or it cannot be loaded.
    """

    def __init__(self, source: str, name: str):
        self.name = name
        self.device = best_device()
        self.network: Any = _load(source).to(self.device).eval()
        self.identity = hash_weights(self.network.state_dict(), source)
        self._change: Callable[[Tensor], Tensor] | None = None  # of the waveforms
        with torch.no_grad():
            states = self._states(torch.zeros(_SECOND))
        self.layers = tuple(map(str, range(len(states))))
        self._hop = _hop(self.network, len(states[-1]))
        self.receptive_field = HubertConfig().receptive_field  # 25 ms, which most hear

    @override
    def activations(
        self, waveforms: Tensor, lengths: Tensor, layers: Collection[str] | None = None
    ) -> Activations:
        wanted = self.layers if layers is None else [name for name in self.layers if name in set(layers)]
        self.check(layers or ())
        found: list[list[Tensor]] = []
        try:
            for row, n_samples in enumerate(lengths.tolist()):
                self.rows = slice(row, row + 1)
                found.append(self._states(waveforms[row, :n_samples]))
        finally:
            self.rows = slice(None)
        by_layer = {name: [each[int(name)] for each in found] for name in wanted}
        counts = {name: [len(state) for state in states] for name, states in by_layer.items()}
        return Activations(
            {name: nn.utils.rnn.pad_sequence(states, batch_first=True) for name, states in by_layer.items()},
            {name: torch.tensor(each, device=self.device) for name, each in counts.items()},
        )

    def _states(self, waveform: Tensor) -> list[Tensor]:
        """(T,) -> (F, D) for each layer."""
        waveform = waveform.to(self.device)
        if self._change is not None:
            waveform = self._change(waveform[None, :, None])[0, :, 0]
        found = self.network([waveform])
        states = found.get("hidden_states", found.get("last_hidden_state"))
        return [state[0] for state in (states if isinstance(states, list | tuple) else [states])]

    @override
    def hop(self, layer: str) -> int:
        self.check([layer])
        return self._hop

    @override
    def injected(self, layer: str, change: Callable[[Tensor], Tensor]) -> Any:
        """Only `input`, which is the waveform, before an upstream normalises it.

        Raises:
            UserError: for a layer: hidden states of s3prl's upstreams can be read but not changed.
        """
        if layer == INPUT:
            return self._changed(change)
        self.check([layer])
        raise UserError(
            f"{self.name}: the layers of an upstream of s3prl can be read but not disturbed; name "
            "the model as a checkpoint or a folder of transformers"
        )

    @contextmanager
    def _changed(self, change: Callable[[Tensor], Tensor]) -> Any:
        self._change = change
        try:
            yield
        finally:
            self._change = None

    @override
    def random_twin(self, seed: int) -> LayeredModel:
        raise UserError(f"{self.name}: s3prl cannot make an upstream with random weights")


def _load(source: str) -> nn.Module:
    name, _, checkpoint = source.removeprefix(PREFIX).partition("=")
    try:
        from distill.upstream import s3prl_compat

        s3prl_compat.apply()
        hub = importlib.import_module("s3prl.hub")  # after that
    except ImportError:
        raise UserError(
            f"{source}: s3prl is not installed: pip install 'robust-distilhubert[s3prl]'"
        ) from None
    make: Any = getattr(hub, name, None)
    if not isinstance(make, FunctionType) or name.startswith("_"):
        raise CheckpointError(f"{source}: s3prl has no upstream {name!r}; s3prl.hub.options() lists them")
    try:
        return make(ckpt=checkpoint) if checkpoint else make()
    except Exception as error:  # every upstream has its own
        raise CheckpointError(f"{source}: s3prl cannot load it: {first_line(error)}") from error


def _hop(network: Any, n_frames: int) -> int:
    """Samples from one frame to the next, as stated, or from the frames of a second."""
    if hasattr(network, "get_downsample_rates"):
        return int(network.get_downsample_rates("hidden_states"))
    return round(_SECOND / n_frames)
