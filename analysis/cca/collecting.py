"""One pass of a model over speech: all that CCA needs of every layer.

Every layer is brought to the rate of the model's last one: the frames of an earlier convolution are averaged
over the stretch from one of its frames to the next.

Shapes: T samples, F frames of the last layer, D features of a layer, K of what it is compared with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from lhotse.cut import Cut
from torch import Tensor
from tqdm import tqdm

from distill.analysis.cca.mel import MOST_APART
from distill.analysis.cca.moments import Moments
from distill.analysis.cca.segments import Instance, pool
from distill.analysis.layered import LayeredModel
from distill.data.audio import read_audio, samples_at_16k
from distill.data.sources import check_names
from distill.errors import DataError, listed
from distill.waveforms import SAMPLE_RATE, pad

_BATCH_SAMPLES = 60 * SAMPLE_RATE
"""Samples of a batch, padding included: the first convolution's frames are the largest thing in memory."""

FrameView = Callable[[Tensor, Mapping[str, Tensor]], Tensor]
"""Samples (T,) and layers (F, D) of an utterance -> what layers are compared with, (F or a frame less, K)."""


@dataclass
class Wanted:
    """What to collect."""

    layers: Sequence[str]
    views: Mapping[str, FrameView] = field(default_factory=dict)
    """Of single frames, by name."""
    pieces: Mapping[str, Sequence[tuple[int, int]]] = field(default_factory=dict)
    """By utterance, the samples that it is in, each with the number of its piece."""
    instances: Mapping[str, Sequence[Instance]] = field(default_factory=dict)
    """By view of labels: what to average."""

    @property
    def utterances(self) -> set[str]:
        """All that must be read."""
        return {*self.pieces, *(i.utterance for found in self.instances.values() for i in found)}


@dataclass
class Collected:
    """Of one model."""

    frames: dict[tuple[int, int, str], Moments] = field(default_factory=dict)
    """By sample, piece and layer; y are all views of frames side by side."""
    columns: dict[str, slice] = field(default_factory=dict)
    """Where in y each view of frames is."""
    pooled: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    """By view of labels and layer, (instances, D) in their order."""


@torch.no_grad()
def collect(model: LayeredModel, cuts: Sequence[Cut], wanted: Wanted) -> Collected:
    """Run a model over the wanted utterances once.

    Args:
        model: its activations.
        cuts: the speech, with all wanted utterances.
        wanted: what of it.

    Raises:
        DataError: for an utterance that cannot be read, is too short for a frame, or has fewer frames than
            its instances need.
    """
    found = Collected()
    places = {
        view: _by_utterance(instances) for view, instances in wanted.instances.items()
    }  # utterance -> [(row, instance)]
    names = wanted.utterances
    chosen = sorted((cut for cut in cuts if cut.id in names), key=lambda cut: cut.duration)
    check_names(chosen, "the speech")
    if lacking := names - {cut.id for cut in chosen}:
        raise DataError(f"the speech has no utterance {listed(sorted(lacking))}")
    with tqdm(total=len(chosen), desc=model.name, unit="utterance", disable=None) as progress:
        for batch in _batches(chosen):
            waves = [read_wave(cut, model) for cut in batch]
            waveforms, lengths = pad(waves)
            out = model.activations(waveforms, lengths, wanted.layers)
            step = max(model.hop(layer) for layer in wanted.layers)
            rows = {name: out.valid(name) for name in wanted.layers}
            for number, (cut, wave) in enumerate(zip(batch, waves, strict=True)):
                layers = at_one_rate({n: rows[n][number] for n in wanted.layers}, model, step)
                if cut.id in wanted.pieces:
                    _add_frames(found, wanted, cut.id, wave, layers)
                for view, by_utterance in places.items():
                    total = len(wanted.instances[view])
                    try:
                        _add_pooled(found, view, total, by_utterance.get(cut.id, ()), layers)
                    except ValueError as error:  # a model that has fewer frames than samples promise
                        raise DataError(f"{model.name}: {error}") from None
            progress.update(len(batch))
    return found


def at_one_rate(layers: Mapping[str, Tensor], model: LayeredModel, step: int) -> dict[str, Tensor]:
    """Layers of an utterance, (F_layer, D) each, at one frame for `step` samples.

    Raises:
        DataError: if a layer's hop does not divide the step.
    """
    found = {}
    n_frames = min(len(rows) * model.hop(name) // step for name, rows in layers.items())
    for name, rows in layers.items():
        each, left = divmod(step, model.hop(name))
        if left:
            raise DataError(
                f"{model.name}: the hop of layer {name}, {model.hop(name)} samples, does not divide {step}"
            )
        found[name] = (
            rows[: n_frames * each].unflatten(0, (n_frames, each)).mean(1) if each > 1 else rows[:n_frames]
        )
    return found


def _batches(cuts: Sequence[Cut]) -> Iterator[list[Cut]]:
    """Cuts of similar length, the shortest first, together of limited size."""
    batch: list[Cut] = []
    for cut in cuts:
        if batch and (len(batch) + 1) * samples_at_16k(cut) > _BATCH_SAMPLES:
            yield batch
            batch = []
        batch.append(cut)
    if batch:
        yield batch


def read_wave(cut: Cut, model: LayeredModel) -> Tensor:
    """The samples of an utterance, enough for a frame of the model.

    Raises:
        DataError: if there are fewer, or they cannot be read.
    """
    wave = read_audio(cut)
    if len(wave) < model.receptive_field:
        raise DataError(
            f"{cut.id} has {len(wave)} samples, {model.name} needs {model.receptive_field} for a frame: "
            "leave it out"
        )
    return wave


def _by_utterance(instances: Sequence[Instance]) -> dict[str, list[tuple[int, Instance]]]:
    found: dict[str, list[tuple[int, Instance]]] = {}
    for row, instance in enumerate(instances):
        found.setdefault(instance.utterance, []).append((row, instance))
    return found


def _add_frames(
    found: Collected, wanted: Wanted, utterance: str, wave: Tensor, layers: Mapping[str, Tensor]
) -> None:
    """Add the frames of an utterance to its pieces."""
    views = {name: view(wave, layers) for name, view in wanted.views.items()}
    counts = [len(rows) for rows in (*views.values(), *layers.values())]
    n_frames = min(counts)
    if max(counts) - n_frames > MOST_APART:
        raise DataError(f"{utterance}: {n_frames} and {max(counts)} frames are not of the same speech")
    y = torch.cat([view[:n_frames] for view in views.values()], dim=1)
    start = 0
    for name, view in views.items():
        found.columns[name] = slice(start, start + view.shape[1])
        start += view.shape[1]
    for layer, rows in layers.items():
        moments = Moments.of(rows[:n_frames], y.to(rows.device))
        for sample, piece in wanted.pieces[utterance]:
            key = (sample, piece, layer)
            found.frames[key] = found.frames[key] + moments if key in found.frames else moments


def _add_pooled(
    found: Collected,
    view: str,
    total: int,
    places: Sequence[tuple[int, Instance]],
    layers: Mapping[str, Tensor],
) -> None:
    """Average the frames of an utterance's instances."""
    for layer, rows in layers.items():
        by_layer = found.pooled.setdefault(view, {})
        if layer not in by_layer:
            by_layer[layer] = torch.zeros(total, rows.shape[1], device=rows.device)
        if places:
            by_layer[layer][[row for row, _ in places]] = pool(rows, [instance for _, instance in places])
