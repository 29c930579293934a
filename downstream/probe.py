"""A linear probe: how well labels can be predicted from the frozen last layer, clean and distorted.

The classifier is trained on clean speech only, as in the paper: what it loses on distorted speech is lost by
the representation.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from lhotse import CutSet
from lhotse.cut import Cut
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from tqdm import tqdm

from distill import markdown
from distill.data.noise import NoiseReader
from distill.downstream.distorted_sets import DistortedSet
from distill.downstream.embeddings import embed_set, load_encoders
from distill.downstream.truths import class_of

STRENGTHS = (0.001, 0.01, 0.1, 1.0)  # inverse regularisation, chosen on clean dev speech


@dataclass
class ProbeTask:
    """Labelled speech in three parts."""

    train: CutSet
    dev: CutSet
    test: CutSet
    column: str = "label"
    """Name of the class: a custom field of the cut (a column of its TSV) or of its supervision."""

    def label(self, cut: Cut) -> str:
        """The class of an utterance.

        Raises:
            DataError: if it has none, or an empty one.
        """
        return class_of(cut, self.column, "name the column with the classes")


def probe(
    encoders: Mapping[str, torch.nn.Module],
    task: ProbeTask,
    conditions: Sequence[str],
    noises: NoiseReader,
    *,
    seed: int = 0,
) -> dict[str, dict[str, float]]:
    """Train on clean speech, test under each condition.

    Args:
        encoders: by name, an `Encoder` (a teacher, or `Student.encoder`).
        task: labelled speech.
        conditions: names of conditions or of single distortions (see `find_condition`).
        noises: reader of the noise that the conditions need.
        seed: of the distortions.

    Returns:
        By encoder and condition, the accuracy in per cent.
    """
    models = list(encoders.values())
    # Made first, to check what they need before any training.
    tests = {c: DistortedSet(task.test, c, noises, seed=seed, encoders=models) for c in conditions}
    train, train_labels = features(encoders, task, DistortedSet(task.train, "clean", encoders=models))
    dev, dev_labels = features(encoders, task, DistortedSet(task.dev, "clean", encoders=models))
    classifiers = {}
    for name in encoders:
        tried = [fit_linear(train[name], train_labels, strength) for strength in STRENGTHS]
        classifiers[name] = max(tried, key=lambda c, name=name: c.score(dev[name], dev_labels))
    accuracies: dict[str, dict[str, float]] = {name: {} for name in encoders}
    for condition, dataset in tqdm(tests.items(), desc="probe", unit="condition", disable=None):
        test, labels = features(encoders, task, dataset)
        for name, classifier in classifiers.items():
            accuracies[name][condition] = 100.0 * float(classifier.score(test[name], labels))
    return accuracies


def features(
    encoders: Mapping[str, torch.nn.Module], task: ProbeTask, dataset: DistortedSet
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """By encoder (N, D) features, and the N labels of a set."""
    cuts, vectors = embed_set(encoders, dataset)
    return vectors, np.array([task.label(cut) for cut in cuts])


def fit_linear(vectors: np.ndarray, labels: np.ndarray, strength: float) -> Pipeline:
    """Standardised logistic regression."""
    classifier = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=300))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the ranking on dev decides, not the last digit
        return classifier.fit(vectors, labels)


def probe_all(
    checkpoints: Sequence[str],
    task: ProbeTask,
    conditions: Sequence[str],
    noises: NoiseReader,
    *,
    seed: int = 0,
) -> str:
    """Probe several models; a Markdown table of accuracies in per cent, a row each."""
    encoders = load_encoders(checkpoints)
    rows = [
        [name, *(f"{accuracies[condition]:.1f}" for condition in conditions)]
        for name, accuracies in probe(encoders, task, conditions, noises, seed=seed).items()
    ]
    return markdown.table(["accuracy (%)", *conditions], rows)
