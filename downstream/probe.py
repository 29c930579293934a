"""A linear probe: how much of a label can be read off the frozen last layer, clean and distorted.

The classifier is trained on clean speech only, as in the paper: what it loses on distorted speech, the
representation has lost.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from lhotse import CutSet
from lhotse.cut import Cut
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from distill.data import NoiseReader
from distill.distortions import DistortionConfig
from distill.errors import DataError
from downstream.distorted_sets import DistortedSet, embed

STRENGTHS = (0.001, 0.01, 0.1, 1.0)  # inverse regularisation, chosen on clean dev speech


@dataclass
class ProbeTask:
    """Labelled speech in three parts."""

    train: CutSet
    dev: CutSet
    test: CutSet
    label: Callable[[Cut], str]
    """The class of an utterance."""


def label_of(cut: Cut) -> str:
    """The class of a cut of our manifests: custom field `label` of the cut or of its supervision."""
    places = [getattr(cut, "custom", None) or {}, *(s.custom or {} for s in cut.supervisions)]
    for place in places:
        if "label" in place:
            return str(place["label"])
    raise DataError(f"{cut.id} has no label")


def features(
    encoder: torch.nn.Module, dataset: DistortedSet, label: Callable[[Cut], str]
) -> tuple[np.ndarray, np.ndarray]:
    """(N, D) features and N labels of a set."""
    encoder.eval()
    vectors, labels = [], []
    for cuts, waveforms, lengths, _ in dataset.batches():
        vectors.append(embed(encoder, waveforms, lengths).numpy())
        labels += [label(cut) for cut in cuts]
    return np.concatenate(vectors), np.array(labels)


def probe(
    encoder: torch.nn.Module,
    task: ProbeTask,
    conditions: Mapping[str, str | DistortionConfig],
    noises: NoiseReader,
    *,
    seed: int = 0,
) -> dict[str, float]:
    """Train on clean speech, test under each condition.

    Args:
        encoder: a `HubertEncoder` (a teacher, or `Student.encoder`).
        task: labelled speech.
        conditions: by the name to report, a condition.
        noises: what the conditions need.
        seed: of the distortions.

    Returns:
        Accuracy in per cent by condition.
    """
    train = features(encoder, DistortedSet(task.train, "clean"), task.label)
    dev = features(encoder, DistortedSet(task.dev, "clean"), task.label)
    classifiers = [fit_linear(train[0], train[1], strength) for strength in STRENGTHS]
    best = max(classifiers, key=lambda classifier: classifier.score(dev[0], dev[1]))
    accuracies = {}
    for name, condition in conditions.items():
        test = features(encoder, DistortedSet(task.test, condition, noises, seed=seed), task.label)
        accuracies[name] = 100.0 * float(best.score(test[0], test[1]))
    return accuracies


def fit_linear(vectors: np.ndarray, labels: np.ndarray, strength: float) -> Pipeline:
    """Standardised logistic regression."""
    classifier = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=300))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the ranking on dev decides, not the last digit
        return classifier.fit(vectors, labels)
