"""Curves of the training of heads by task, from folders that `distill evaluate` wrote.

Heads of the same model that differ only in seed or fold are averaged into one curve.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from distill.analysis.run_logs import Curve, read_curves, unique_labels
from distill.downstream.finding import find_below

_NAME = re.compile(r"(?P<task>[^-]+)(-fold\d+)?-(?P<features>.+)-seed\d+(-(?P<others>.+))?")

HeadCurves = dict[str, dict[str, Curve]]
"""By metric, by model (and features, protocol and learning rate, unless they are the task's own)."""


def read_heads(folders: Sequence[Path]) -> dict[str, HeadCurves]:
    """The curves of all heads in some folders and their subfolders, by task."""
    paths = {path.resolve().parent for folder in folders for path in find_below(folder, "heads/*/csv")}
    models = sorted({path.parents[1] for path in paths})
    labels = dict(zip(models, unique_labels(models), strict=True))
    found: dict[str, dict[str, dict[str, list[Curve]]]] = defaultdict(
        lambda: defaultdict(lambda: defaultdict(list))
    )
    for path in sorted(paths):
        parts = _NAME.fullmatch(path.name)
        if parts is None:
            continue
        features = None if parts["features"] == "last" else parts["features"]
        label = ", ".join(filter(None, [labels[path.parents[1]], features, parts["others"]]))
        for metric, curve in read_curves(path).items():
            found[parts["task"]][metric][label].append(curve)
    return {
        task: {metric: _means(curves) for metric, curves in metrics.items()}
        for task, metrics in found.items()
    }


def _means(curves: Mapping[str, Sequence[Curve]]) -> dict[str, Curve]:
    return {label: mean_curve(several) for label, several in curves.items()}


def mean_curve(curves: Sequence[Curve]) -> Curve:
    """The mean at the updates that all curves have; the first curve if no update is common to all."""
    steps = curves[0][0]
    for others, _ in curves[1:]:
        steps = np.intersect1d(steps, others)
    if not len(steps):
        return curves[0]
    return steps, np.mean([values[np.isin(own, steps)] for own, values in curves], axis=0)
