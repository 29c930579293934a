"""Gaussian noise after one layer of a model (E2A of the robustness analysis of ASR models).

With h the output of a layer and g ~ N(0, I):

    additive        h + sigma g            (Eq. 1)
    multiplicative  h (1 + sigma g)        (Eq. 2)

The g of an utterance is drawn from a hash of seed, utterance and layer: the same at any batch size, for all
sigmas, both kinds of noise, and all models of one width.

Shapes: B utterances, F frames, D features.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from lhotse import CutSet
from lhotse.cut import Cut
from torch import Tensor
from tqdm import tqdm

from distill.analysis.layered import LayeredModel
from distill.analysis.models import OurModel, open_models
from distill.analysis.probes.judges import METRICS, DistanceJudge, ErrorJudge, Judge, LossJudge, Score, Speech
from distill.analysis.probes.records import open_record, with_interval
from distill.analysis.recognisers import open_recognisers, recognises
from distill.analysis.record import Record, Row
from distill.downstream.distorted_sets import DistortedSet
from distill.errors import UsageError
from distill.hashing import hash_number

KIND = "probe layers"
"""In the record of the analysis."""
KEY = ("model", "metric", "noise", "layer", "sigma")
"""Columns that identify a row."""
NOISES = ("additive", "multiplicative")
SIGMAS = tuple(round(0.1 * step, 1) for step in range(7))
"""Of the paper."""


class LayerNoise:
    """The noise of a batch at one layer.

    Args:
        model: into which it goes.
        ids: of the utterances.
        layer: after which it goes.
        seed: another seed, other noise.
    """

    def __init__(self, model: LayeredModel, ids: Sequence[str], layer: str, *, seed: int = 0):
        self.model, self.ids, self.layer, self.seed = model, ids, layer, seed
        self._drawn: dict[str, Tensor] = {}

    def change(self, noise: str, sigma: float) -> Callable[[Tensor], Tensor]:
        """What `LayeredModel.injected` takes.

        Args:
            noise: "additive" or "multiplicative".
            sigma: standard deviation of the noise, or of the factor.
        """

        def change(states: Tensor) -> Tensor:
            g = torch.stack([self._of(name, states) for name in self.ids[self.model.rows]])
            return states + sigma * g if noise == "additive" else states * (1 + sigma * g)

        return change

    def _of(self, name: str, states: Tensor) -> Tensor:
        """(F, D), whose first frames do not depend on F: what follows them is padding."""
        shape = states.shape[1:]
        if name not in self._drawn or self._drawn[name].shape != shape:
            key = hash_number("layer noise", self.seed, name, self.layer)
            generator = np.random.Generator(np.random.Philox(key=[key, 0]))
            drawn = generator.standard_normal(tuple(shape), dtype=np.float32)
            self._drawn[name] = torch.from_numpy(drawn).to(states.device)
        return self._drawn[name]


def open_judges(sources: Sequence[str], teacher: str | None = None) -> list[Judge]:
    """Models and what they are judged by.

    Args:
        sources: recognisers, which are judged by their errors; other models, by distances of the last layer.
        teacher: students are judged by their distillation loss against it instead.

    Raises:
        UsageError: if some are recognisers and others are not.
    """
    if teacher is not None:
        first, *models = open_models([teacher, *sources])
        return [LossJudge(model, first) for model in models]
    kinds = [recognises(source) for source in sources]
    if all(kinds):
        return [ErrorJudge(recogniser) for recogniser in open_recognisers(sources)]
    if any(kinds):
        without = sources[kinds.index(False)]
        raise UsageError(f"{without} has no head, but others have one: probe them one after the other")
    return [DistanceJudge(model) for model in open_models(sources)]


def probe_layers(
    judges: Sequence[Judge],
    cuts: Sequence[Cut],
    *,
    layers: Sequence[str] | None = None,
    noises: Sequence[str] = NOISES,
    sigmas: Sequence[float] = SIGMAS,
    seed: int = 0,
    batch_size: int = 8,
    out: Path | None = None,
) -> list[Row]:
    """Noise after each layer in turn.

    Args:
        judges: models and what they are judged by.
        cuts: utterances.
        layers: after which noise goes; None: `cnn` and 0 to L of each model.
        noises: of `NOISES`.
        sigmas: standard deviations.
        seed: of the noise.
        batch_size: utterances; the scores do not depend on it.
        out: folder of the record; what it has is not measured again.

    Returns:
        A row for each model, metric, noise, layer and sigma, also earlier ones of `out`: the value with its
        95 % interval over utterances, error rates in per cent.

    Raises:
        UserError: for a layer that does not exist, speech that cannot be judged, or another record.
    """
    _check(judges, cuts, layers, noises, sigmas)
    models = {judge.name: judge.identity for judge in judges}
    if len(models) < len(judges):
        raise UsageError(f"a model is given twice: {', '.join(judge.name for judge in judges)}")
    record = open_record(out, KIND, cuts, KEY, models=models, seed=seed)
    todo = [(j, layer) for j in judges for layer in layers or j.model.transformer]
    total = len(todo) * len(cuts) * len(noises) * sum(sigma != 0 for sigma in sigmas)
    with tqdm(total=total, desc="noise in layers", unit="utterance", disable=None) as progress:
        for judge, layer in todo:
            progress.set_postfix_str(f"{judge.name} {layer}")
            pairs = [(noise, sigma) for noise in noises for sigma in sigmas]
            pairs = [pair for pair in pairs if not _measured(record, judge, layer, *pair)]
            if pairs:
                found = _measure(judge, layer, pairs, cuts, seed, batch_size)
                record.add(*_rows(judge, layer, found, len(cuts)))
            progress.update(len(cuts) * len(noises) * sum(sigma != 0 for sigma in sigmas))
    return record.rows


def _check(
    judges: Sequence[Judge],
    cuts: Sequence[Cut],
    layers: Sequence[str] | None,
    noises: Sequence[str],
    sigmas: Sequence[float],
) -> None:
    if wrong := [noise for noise in noises if noise not in NOISES]:
        raise UsageError(f"unknown noise {wrong[0]!r}; there are {', '.join(NOISES)}")
    if wrong := [sigma for sigma in sigmas if not 0 <= sigma < float("inf")]:
        raise UsageError(f"sigma {wrong[0]:g}: at least 0")
    for judge in judges:
        for layer in layers or judge.model.transformer:
            judge.model.injected(layer, lambda states: states)  # refused here, before anything is measured
        judge.check(cuts)


def _measured(record: Record, judge: Judge, layer: str, noise: str, sigma: float) -> bool:
    key = {"model": judge.name, "metric": judge.metrics[0], "noise": noise, "layer": layer, "sigma": sigma}
    return key in record


_Found = dict[tuple[str, float], dict[str, dict[str, Score]]]
"""By noise and sigma, and by metric and utterance."""


@torch.inference_mode()
def _measure(
    judge: Judge,
    layer: str,
    pairs: Sequence[tuple[str, float]],
    cuts: Sequence[Cut],
    seed: int,
    batch_size: int,
) -> _Found:
    found: _Found = {pair: {metric: {} for metric in judge.metrics} for pair in pairs}
    encoders = [judge.model.encoder] if isinstance(judge.model, OurModel) else []
    speech = DistortedSet(CutSet.from_cuts(cuts), "clean", encoders=encoders)
    for batch, waveforms, lengths, _ in speech.batches(batch_size):
        part = Speech(batch, waveforms, lengths)
        reference = judge.reference(part)
        drawn = LayerNoise(judge.model, [cut.id for cut in batch], layer, seed=seed)
        clean = judge.scores(part, reference) if any(sigma == 0 for _, sigma in pairs) else []
        for noise, sigma in pairs:
            scores = clean
            if sigma:
                with judge.model.injected(layer, drawn.change(noise, sigma)):
                    scores = judge.scores(part, reference)
            for cut, own in zip(batch, scores, strict=True):
                for metric, score in own.items():
                    found[noise, sigma][metric][cut.id] = score
    return found


def _rows(judge: Judge, layer: str, found: _Found, n_utterances: int) -> list[Row]:
    return [
        {
            "model": judge.name,
            "identity": judge.identity,
            "metric": metric,
            "noise": noise,
            "layer": layer,
            "sigma": sigma,
            **with_interval(outcomes, percent="%" in METRICS[metric]),
            "utterances": n_utterances,
        }
        for (noise, sigma), by_metric in found.items()
        for metric, outcomes in by_metric.items()
    ]
