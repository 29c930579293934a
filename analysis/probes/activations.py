"""How layers answer to disturbed speech (E2B of the robustness analysis of ASR models).

With a and b the activations of a layer, (F, D), on speech x and on disturbed speech:

    distance   ||a - b||_2 / sqrt(F D)               (Eq. 3), averaged over utterances
    relative   ||a - b||_2 / ||a||_2                 the same over the layer's RMS: layers differ in scale
    cosine     cos(a_t, b_t), averaged over all frames
    cca, pwcca mean and projection-weighted mean of the held-out canonical correlations of a and b

Disturbed is x + rho s g at the model's input, after the normalisation of models that normalise: g ~ N(0, 1),
s the standard deviation of the utterance there, which is 1 for those models. So the noise is
-20 log10(rho) dB below the speech for every model; g is a hash of seed and utterance. Or any condition of
test sets.

CCA takes as many frames of each utterance as give `CCA_FRAMES`; directions are learnt on half of the
utterances and held out on the other, both ways.

Shapes: B utterances, T samples at 16 kHz, F frames, D features, n frames of several utterances.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from lhotse import CutSet
from lhotse.cut import Cut
from torch import Tensor
from tqdm import tqdm

from distill.analysis.cca import pwcca
from distill.analysis.layered import INPUT, Activations, LayeredModel
from distill.analysis.models import OurModel
from distill.analysis.probes.records import open_record, with_interval
from distill.analysis.record import Record, Row
from distill.data.contents import contents_of
from distill.data.noise import NoiseReader
from distill.downstream.distorted_sets import DistortedSet, find_condition
from distill.errors import UsageError, UserError
from distill.hashing import hash_lines, hash_number
from distill.waveforms import frame_mask

logger = logging.getLogger(__name__)

KIND = "probe activations"
"""In the record of the analysis."""
KEY = ("model", "disturbance", "layer", "metric")
"""Columns that identify a row."""
RHOS = (0.1, 0.2, 0.3, 0.4, 0.5)
"""Of the paper."""
CCA_FRAMES = 8_000
"""Frames that CCA takes of all utterances together."""
METRICS = {
    "distance": "L2 distance per activation",
    "relative": "L2 distance over L2 norm",
    "cosine": "cosine",
    "cca": "mean canonical correlation",
    "pwcca": "projection-weighted CCA",
}
"""What metrics are called."""
_EPSILON = 1e-6  # of CCA, relative to the largest variance of a layer
_Scores = dict[str, tuple[float, float]]


@dataclass
class Comparison:
    """Activations of one layer on two versions of the same speech."""

    n_frames: int = 0
    """Frames of each utterance to keep for CCA; 0: none."""
    scores: dict[str, _Scores] = field(default_factory=lambda: defaultdict(dict))
    """By metric and utterance, a sum and what to divide it by."""
    kept: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    """By utterance, the frames of both for CCA, (n, D)."""

    def add(self, ids: Sequence[str], layer: str, one: Activations, other: Activations) -> None:
        """Compare a batch.

        Args:
            ids: of the utterances.
            layer: to look at.
            one: clean.
            other: disturbed.
        """
        a, b = one.states[layer], other.states[layer].to(one.states[layer].device)
        frames = one.lengths[layer].to(a.device)
        invalid = ~frame_mask(frames, a.shape[1])
        difference = (a - b).masked_fill(invalid[:, :, None], 0.0).flatten(1).norm(dim=1).double()
        size = a.masked_fill(invalid[:, :, None], 0.0).flatten(1).norm(dim=1).double()
        cosines = F.cosine_similarity(a, b, dim=2).double().masked_fill(invalid, 0.0).sum(1)
        found = {
            "distance": (difference / (frames * a.shape[2]).double().sqrt(), torch.ones_like(difference)),
            "relative": (difference / size, torch.ones_like(difference)),
            "cosine": (cosines, frames),
        }
        for metric, (sums, counts) in found.items():
            self.scores[metric] |= zip(
                ids, zip(sums.tolist(), map(float, counts.tolist()), strict=True), strict=True
            )
        if self.n_frames:
            for row, (name, count) in enumerate(zip(ids, frames.tolist(), strict=True)):
                chosen = _some(name, count, self.n_frames).to(a.device)
                self.kept[name] = (a[row, chosen].cpu(), b[row, chosen].cpu())

    def mean(self, metric: str) -> float:
        """A metric over all utterances."""
        total, count = (sum(part) for part in zip(*self.scores[metric].values(), strict=True))
        return total / count

    def correlations(self) -> dict[str, float]:
        """`cca` and `pwcca`.

        Raises:
            UserError: if there are too few frames, or a layer is constant.
        """
        names = sorted(self.kept, key=lambda name: hash_number("halves", name))
        halves = [self._frames(names[::2]), self._frames(names[1::2])]
        results = [
            pwcca(*halves[train], *halves[1 - train], epsilon_x=_EPSILON, epsilon_y=_EPSILON)
            for train in (0, 1)
        ]
        return {
            "cca": float(np.mean([result.heldout_correlations.mean() for result in results])),
            "pwcca": float(np.mean([result.score for result in results])),
        }

    def _frames(self, names: Sequence[str]) -> tuple[Tensor, Tensor]:
        one, other = zip(*(self.kept[name] for name in names), strict=True)
        return torch.cat(one), torch.cat(other)


def _some(name: str, count: int, wanted: int) -> Tensor:
    """Some of an utterance's frames: the same in all layers, models and disturbances."""
    generator = np.random.Generator(np.random.Philox(key=[hash_number("frames", name), 0]))
    return torch.from_numpy(np.sort(generator.permutation(count)[:wanted]))


class Disturbance:
    """Clean speech x and what is done to it.

    Args:
        name: "noise RHO", or a condition.
        reader: noise for conditions.
        seed: of noise and distortions.

    Raises:
        UserError: for an unknown condition, or noise that is missing.
    """

    def __init__(self, name: str, reader: NoiseReader, *, seed: int = 0):
        self.name, self.reader, self.seed = name, reader, seed
        words = name.split(" ")
        self.rho = float(words[1]) if words[0] == "noise" and len(words) == 2 else None
        self.noise = ""
        if self.rho is None:
            corpora = find_condition(name).corpora
            known = [
                contents_of(list(reader.corpora[c]), in_full=False) for c in corpora if c in reader.corpora
            ]
            self.noise = hash_lines(known)

    def pairs(
        self, model: LayeredModel, cuts: Sequence[Cut], layers: Collection[str], batch_size: int
    ) -> Iterator[tuple[list[str], Activations, Activations]]:
        """Ids, and activations on clean and on disturbed speech, batch by batch."""
        words: dict[str, Any] = {"seed": self.seed, "encoders": encoders_of(model)}
        clean = DistortedSet(CutSet.from_cuts(cuts), "clean", **words)
        other = (
            DistortedSet(CutSet.from_cuts(cuts), self.name, self.reader, **words)
            if self.rho is None
            else clean
        )
        batches = zip(clean.batches(batch_size), other.batches(batch_size), strict=True)
        for (batch, waveforms, lengths, _), (_, others, _, _) in batches:
            ids = [cut.id for cut in batch]
            one = model.activations(waveforms, lengths, layers)
            with self._noise(model, ids, lengths):
                yield ids, one, model.activations(others, lengths, layers)

    def _noise(self, model: LayeredModel, ids: Sequence[str], lengths: Tensor) -> Any:
        rho = self.rho
        if rho is None:
            return nullcontext()

        def change(x: Tensor) -> Tensor:  # (B, T, 1)
            rows = zip(x[:, :, 0], ids[model.rows], lengths[model.rows].tolist(), strict=True)
            return torch.stack([input_noise(w, n, rho, name, seed=self.seed) for w, name, n in rows])[
                :, :, None
            ]

        return model.injected(INPUT, change)


def input_noise(waveform: Tensor, n_samples: int, rho: float, name: str, *, seed: int = 0) -> Tensor:
    """The sum x + rho s g in the valid samples of an utterance; s is the standard deviation of x.

    Args:
        waveform: (T,), padded at the end.
        n_samples: valid ones.
        rho: standard deviation of the noise over that of the utterance.
        name: of the utterance.
        seed: another seed, other noise.
    """
    key = hash_number("input noise", seed, name)
    drawn = np.random.Generator(np.random.Philox(key=[key, 0])).standard_normal(n_samples, dtype=np.float32)
    g = torch.from_numpy(drawn).to(waveform.device)
    deviation = waveform[:n_samples].std(correction=0)
    return waveform + F.pad(rho * deviation * g, (0, len(waveform) - n_samples))


def encoders_of(model: LayeredModel) -> list[torch.nn.Module]:
    """What `DistortedSet` checks the length of utterances for."""
    return [model.encoder] if isinstance(model, OurModel) else []


def probe_activations(
    models: Sequence[LayeredModel],
    cuts: Sequence[Cut],
    *,
    rhos: Sequence[float] = RHOS,
    conditions: Sequence[str] = (),
    reader: NoiseReader | None = None,
    layers: Sequence[str] | None = None,
    cca: bool = True,
    seed: int = 0,
    batch_size: int = 8,
    out: Path | None = None,
) -> list[Row]:
    """Compare layers on disturbed and clean speech.

    Args:
        models: any.
        cuts: utterances.
        rhos: of white noise at the input.
        conditions: of test sets: 2-dist, fsd, musan ...
        reader: noise for the conditions.
        layers: to look at; None: `cnn` and 0 to L of each model.
        cca: also canonical correlations.
        seed: of noise and distortions.
        batch_size: utterances; the scores do not depend on it.
        out: folder of the record; what it has is not measured again.

    Returns:
        A row for each model, disturbance, layer and metric, also earlier ones of `out`: the value, and but
        for CCA its 95 % interval over utterances.

    Raises:
        UserError: for a layer or condition that does not exist, noise that is missing, or another record.
    """
    if wrong := [rho for rho in rhos if not 0 < rho < float("inf")]:
        raise UsageError(f"rho {wrong[0]:g}: above 0")
    identities = {model.name: model.identity for model in models}
    if len(identities) < len(models):
        raise UsageError(f"a model is given twice: {', '.join(model.name for model in models)}")
    for model in models:
        model.check(layers or ())
    record = open_record(out, KIND, cuts, KEY, models=identities, seed=seed)
    names = [*(f"noise {rho:g}" for rho in rhos), *conditions]
    disturbances = [Disturbance(name, reader or NoiseReader({}), seed=seed) for name in names]
    _refuse_other_noise(record, disturbances)
    todo = [(model, each) for model in models for each in disturbances]
    for model, each in tqdm(todo, desc="activations", unit="disturbance", disable=None):
        wanted = [
            layer
            for layer in layers or model.transformer
            if not _measured(record, model, each, layer, "pwcca" if cca else "distance")
        ]
        if wanted:
            found = compare_layers(model, each, cuts, wanted, cca=cca, batch_size=batch_size)
            record.add(*_rows(model, each, found, len(cuts)))
    return record.rows


def _refuse_other_noise(record: Record, disturbances: Sequence[Disturbance]) -> None:
    noise = {each.name: each.noise for each in disturbances}
    for row in record.rows:
        if noise.get(row["disturbance"], row["noise"]) != row["noise"]:
            raise UserError(
                f"{record.folder} has {row['disturbance']} with other noise recordings: choose another --out"
            )


def _measured(record: Record, model: LayeredModel, each: Disturbance, layer: str, metric: str) -> bool:
    return {"model": model.name, "disturbance": each.name, "layer": layer, "metric": metric} in record


@torch.inference_mode()
def compare_layers(
    model: LayeredModel,
    disturbance: Disturbance,
    cuts: Sequence[Cut],
    layers: Sequence[str],
    *,
    cca: bool = False,
    batch_size: int = 8,
) -> dict[str, Comparison]:
    """By layer, activations on clean and on disturbed speech, compared.

    Args:
        model: any.
        disturbance: of the speech.
        cuts: utterances.
        layers: to look at.
        cca: keep frames for canonical correlations.
        batch_size: utterances.
    """
    n_frames = -(-CCA_FRAMES // len(cuts)) if cca else 0
    found = {layer: Comparison(n_frames) for layer in layers}
    for ids, one, other in disturbance.pairs(model, cuts, layers, batch_size):
        for layer, comparison in found.items():
            comparison.add(ids, layer, one, other)
    return found


def _rows(
    model: LayeredModel, disturbance: Disturbance, found: dict[str, Comparison], n_utterances: int
) -> list[Row]:
    about = {"model": model.name, "identity": model.identity, "disturbance": disturbance.name}
    rows: list[Row] = []
    for layer, comparison in found.items():
        scores: dict[str, Any] = {
            metric: with_interval(outcomes, percent=False) for metric, outcomes in comparison.scores.items()
        }
        if comparison.n_frames:
            scores |= {
                m: {"value": v, "low": None, "high": None} for m, v in _correlations(comparison, layer)
            }
        rows += [
            about
            | {"layer": layer, "metric": metric, **score}
            | {"utterances": n_utterances, "noise": disturbance.noise}
            for metric, score in scores.items()
        ]
    return rows


def _correlations(comparison: Comparison, layer: str) -> list[tuple[str, float | None]]:
    """Of `Comparison.correlations`; None, with a warning, where there are too few frames."""
    try:
        return list(comparison.correlations().items())
    except UserError as error:
        logger.warning("no CCA of layer %s: %s", layer, error)
        return [("cca", None), ("pwcca", None)]
