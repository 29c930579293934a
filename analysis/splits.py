"""Representations of speech under six kinds of distortion, averaged over parts of it: the data of Fig. 2.

Representations are averaged over the time of each utterance, then over the utterances of each of 100 splits
of the set (section 6.1 of the paper). Splits are utterances that follow each other by name, as nearly equal
in number as possible; in corpora whose names begin with a speaker, a split is mostly one speaker.

Shapes: S splits, D features.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lhotse import CutSet
from tqdm import tqdm

from distill.analysis.models import LayeredModel, OurModel
from distill.atomic import atomic
from distill.data.arrays import DAMAGED, read_arrays
from distill.data.noise import NoiseReader
from distill.downstream.distorted_sets import DistortedSet, find_condition
from distill.errors import DataError, UserError, first_line, listed
from distill.waveforms import masked_mean

logger = logging.getLogger(__name__)

KINDS = ("clean", "musan", "gaussian", "reverb", "fsd", "dns")
"""Of speech, in the order of the paper."""
SPLITS = 100
"""Of the paper."""

MOST_BYTES = 256 << 20
"""Of a file of splits: 40 models of 1024 features in 6 kinds of speech and 100 splits have 100 MB."""

Vectors = dict[str, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Splits:
    """Averages over splits of the same utterances, for all models and kinds of speech."""

    means: dict[str, dict[str, np.ndarray]]
    """By model and kind of speech, (S, D)."""
    identities: dict[str, str]
    """By model, a hash that changes with its representations."""
    utterances: tuple[str, ...]
    """Names, sorted, of those in the splits."""

    @property
    def number(self) -> int:
        """Of splits."""
        return len(next(iter(next(iter(self.means.values())).values())))

    @property
    def kinds(self) -> tuple[str, ...]:
        """Of speech."""
        return tuple(next(iter(self.means.values())))

    def __str__(self) -> str:
        """How many points there are, and why they are fewer than the paper's 600, if they are."""
        n_kinds, n_utterances = len(self.kinds), len(self.utterances)
        lacking = [kind for kind in KINDS if kind not in self.kinds]
        each = ", each an utterance," if self.number == n_utterances else f" of {n_utterances} utterances"
        text = f"{self.number * n_kinds} points: {self.number} splits{each} in {n_kinds} conditions"
        return f"{text} (without {', '.join(lacking)})" if lacking else text


def make_splits(
    models: Sequence[LayeredModel],
    cuts: CutSet,
    noises: NoiseReader,
    *,
    kinds: Sequence[str] | None = None,
    splits: int = SPLITS,
    seed: int = 0,
) -> Splits:
    """Average the last layers of models, which all hear the same audio.

    An utterance that cannot be used, or that stays as it is under one kind because its speech or noise is
    silent, is left out under every kind; a warning gives their number.

    Args:
        models: with different names.
        cuts: clean utterances.
        noises: of the kinds.
        kinds: of speech; None: the `possible_kinds`.
        splits: at most; with fewer utterances, each is a split.
        seed: of distortions.

    Raises:
        DataError: if fewer than two utterances are left, or noise is missing or broken.
        UserError: for a model whose last layer is not finite.
    """
    kinds = possible_kinds(noises) if kinds is None else kinds
    names = [str(cut.id) for cut in cuts]  # pyright: ignore
    vectors: dict[tuple[str, str], Vectors] = {}
    left_out: dict[str, str] = {}
    with tqdm(total=len(kinds) * len(names), desc="embedding", unit="utterance", disable=None) as bar:
        for kind in kinds:
            for model, found in _embed(models, cuts, kind, noises, seed, left_out, bar).items():
                vectors[model, kind] = found
    kept = _kept(names, left_out)
    means: dict[str, Vectors] = {model.name: {} for model in models}
    for (model, kind), found in vectors.items():
        rows = np.stack([found[name] for name in kept])
        if not np.isfinite(rows).all():
            raise UserError(f"{model}: its last layer is not finite for {kind} speech: the model is damaged")
        means[model][kind] = np.stack([part.mean(0) for part in np.array_split(rows, min(splits, len(kept)))])
    return Splits(means=means, identities={model.name: model.identity for model in models}, utterances=kept)


def _kept(names: Sequence[str], left_out: Mapping[str, str]) -> tuple[str, ...]:
    """The utterances that are not left out, sorted; a warning gives the others' number."""
    kept = tuple(sorted(set(names) - left_out.keys()))
    some = listed(f"{name} ({why})" for name, why in sorted(left_out.items()))
    if len(kept) < 2:
        reason = f": {some}" if left_out else ""
        raise DataError(f"{len(kept)} of {len(names)} utterances can be used, at least 2 are needed{reason}")
    if left_out:
        logger.warning("%d of %d utterances are left out: %s", len(left_out), len(names), some)
    return kept


def possible_kinds(noises: NoiseReader) -> list[str]:
    """The kinds of speech whose noise is given; a warning names the others."""
    lacking = {kind: sorted(set(find_condition(kind).corpora) - noises.corpora.keys()) for kind in KINDS}
    left_out = [
        f"{kind} (add {' '.join(f'--noise {name}=SOURCE' for name in names)})"
        for kind, names in lacking.items()
        if names
    ]
    if left_out:
        logger.warning("t-SNE is without %s", ", ".join(left_out))
    return [kind for kind in KINDS if not lacking[kind]]


@torch.no_grad()
def _embed(
    models: Sequence[LayeredModel],
    cuts: CutSet,
    kind: str,
    noises: NoiseReader,
    seed: int,
    left_out: dict[str, str],
    bar: tqdm,
) -> dict[str, Vectors]:
    """By model and utterance, the last layer averaged over time, (D,).

    What cannot be used is added to `left_out`, with the reason.
    """
    encoders = [model.encoder for model in models if isinstance(model, OurModel)]
    speech = DistortedSet(cuts, kind, noises, seed=seed, skip=True, encoders=encoders)
    vectors: dict[str, Vectors] = {model.name: {} for model in models}
    for batch, waveforms, lengths, _, reasons in speech.reasoned_batches():
        for cut, why in zip(batch, reasons, strict=True):
            if why:
                left_out.setdefault(cut.id, why)
        for model in models:
            last = model.layers[-1]
            out = model.activations(waveforms, lengths, [last])
            means = masked_mean(out.states[last], out.lengths[last]).float().cpu().numpy()
            for cut, mean, n_frames in zip(batch, means, out.lengths[last].tolist(), strict=True):
                vectors[model.name][cut.id] = mean
                if n_frames < 1:
                    left_out.setdefault(cut.id, f"no frame in {model.name}")
        bar.update(len(batch))
    for name, why in speech.skipped:
        left_out.setdefault(name, why)
    return vectors


def save_splits(path: Path, splits: Splits) -> None:
    """Write splits to a `.npz`, so that other models can be added (`load_splits`)."""
    arrays: dict[str, Any] = {
        f"{splits.identities[model]}/{kind}": points
        for model, kinds in splits.means.items()
        for kind, points in kinds.items()
    }
    with atomic(path) as temporary:
        np.savez(temporary, utterances=np.array(splits.utterances), **arrays)


def load_splits(path: Path, identities: Mapping[str, str]) -> Splits | None:
    """Splits that were saved, of those of some models that the file holds; None if it holds none.

    Args:
        path: of `save_splits`.
        identities: by model.

    Raises:
        UserError: if the file is damaged.
    """
    if not path.exists():
        return None
    means: dict[str, Vectors] = {}
    try:
        arrays = read_arrays(path, MOST_BYTES)
        utterances = tuple(arrays["utterances"].tolist())
        for model, identity in identities.items():
            found = {kind: arrays[key] for kind in KINDS if (key := f"{identity}/{kind}") in arrays}
            if found:
                means[model] = found
        _check(means, utterances)
    except (UserError, *DAMAGED) as error:
        why = first_line(error)
        raise UserError(f"{path} is damaged ({why}): remove it to measure again") from None
    held = {model: identities[model] for model in means}
    return Splits(means=means, identities=held, utterances=utterances) if means else None


def _check(means: Mapping[str, Vectors], utterances: Sequence[Any]) -> None:
    """Refuse arrays that are not (S, D), finite, and of the same splits.

    Raises:
        ValueError: if they are not.
    """
    if not all(isinstance(name, str) for name in utterances):
        raise ValueError("names of utterances that are none")
    sizes = set()
    for kinds in means.values():
        widths = {points.shape[-1:] for points in kinds.values()}
        sizes |= {points.shape[:-1] for points in kinds.values()}
        plain = all(points.dtype.kind == "f" and np.isfinite(points).all() for points in kinds.values())
        if not plain or len(widths) > 1 or "clean" not in kinds:
            raise ValueError("averages that are none")
    if any(len(size) != 1 or not 2 <= size[0] <= len(utterances) for size in sizes) or len(sizes) > 1:
        raise ValueError("averages of different splits")


def joined(parts: Sequence[Splits]) -> Splits:
    """Splits of different models as one, the models of later ones last.

    Raises:
        UserError: if they are not of the same utterances.
    """
    utterances = parts[0].utterances
    if any(part.utterances != utterances for part in parts):
        raise UserError(
            "these models and those measured earlier cannot use the same utterances: choose another --out"
        )
    means = {model: kinds for part in parts for model, kinds in part.means.items()}
    identities = {model: identity for part in parts for model, identity in part.identities.items()}
    return Splits(means=means, identities=identities, utterances=utterances)
