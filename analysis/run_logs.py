"""What run folders hold: recipe, versions, and the curves of training, put together after resumes."""

from __future__ import annotations

import csv
import json
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from distill.errors import UserError
from distill.training.run_folder import RunFolder

logger = logging.getLogger(__name__)

Curve = tuple[np.ndarray, np.ndarray]
"""Updates (N,) and values (N,)."""


@dataclass(frozen=True, kw_only=True)
class RunLog:
    """A training run, or a folder of evaluations or analyses, as far as its files could be read."""

    label: str
    """The folder's name, with as many parents as tell it apart from the others."""
    folder: Path
    """Its path as it was given."""
    recipe_text: str
    """The resolved recipe; empty if there is none."""
    recipe: dict[str, Any]
    """The parsed recipe; empty if it cannot be parsed."""
    versions: dict[str, Any]
    """Of the software, by name."""
    finished: bool
    """Whether training was completed."""
    curves: dict[str, Curve]
    """By metric."""

    @property
    def kind(self) -> str:
        """What was trained: distil, adapt, ...; empty for other folders."""
        return str(self.recipe.get("kind", "distil")) if self.recipe_text or self.curves else ""

    def best(self, metric: str) -> tuple[float, int] | None:
        """Lowest value of a metric, and the update after which it was measured."""
        if metric not in self.curves:
            return None
        steps, values = self.curves[metric]
        where = int(values.argmin())
        return float(values[where]), int(steps[where])


def read_runs(folders: Sequence[Path]) -> list[RunLog]:
    """Read run folders; damaged files are warned about and left out.

    Raises:
        UserError: for a folder that is missing, or holds no run and no results of evaluations or analyses.
    """
    unique = list({folder.resolve(): folder for folder in folders}.values())
    for folder in unique:
        if not folder.is_dir():
            raise UserError(f"{folder} is not a folder: name run folders, folders of evaluations or analyses")
        marks = ("recipe.yaml", "csv/metrics*.csv", "results/*.json", "**/results/*.json", "**/analysis.json")
        if not any(any(folder.glob(mark)) for mark in marks):
            raise UserError(
                f"{folder} holds neither a run (recipe.yaml, csv/) nor results of evaluations or analyses"
            )
    return [
        RunLog(
            label=label,
            folder=folder,
            recipe_text=(text := _read_text((run := RunFolder(folder)).recipe)),
            recipe=_as_mapping(text, run.recipe),
            versions=_as_mapping(_read_text(run.versions), run.versions),
            finished=run.finished.is_file(),
            curves=read_curves(folder),
        )
        for folder, label in zip(unique, unique_labels(unique), strict=True)
    ]


def unique_labels(folders: Sequence[Path]) -> list[str]:
    """Last parts of different paths, as many as it takes to tell them apart."""
    paths = [folder.resolve() for folder in folders]
    for depth in range(1, max((len(path.parts) for path in paths), default=1) + 1):
        labels = ["/".join(path.parts[-depth:]) for path in paths]
        if len(set(labels)) == len(labels):
            return labels
    raise ValueError("the same folder twice")


def read_curves(folder: Path) -> dict[str, Curve]:
    """All metrics of a run from `csv/metrics*.csv`.

    A resumed run has a file for each part. It continues from a checkpoint, so what the previous part logged
    after that checkpoint does not belong to the run: of each part, updates from the first one of the next
    part on are dropped.
    """
    merged: dict[str, dict[int, float]] = {}
    for file in sorted(folder.glob("csv/metrics*.csv"), key=_age):
        part = _read_part(file)
        first = min((step for points in part.values() for step in points), default=math.inf)
        merged = {name: {s: v for s, v in points.items() if s < first} for name, points in merged.items()}
        for name, points in part.items():
            merged.setdefault(name, {}).update(points)
    return {
        name: (np.array(sorted(points)), np.array([points[step] for step in sorted(points)]))
        for name, points in sorted(merged.items())
        if points
    }


def _age(file: Path) -> tuple[float, str]:
    """Sort key of the parts: metrics-1.csv, metrics-2.csv, ..., and metrics.csv last."""
    number = file.stem.removeprefix("metrics-")
    return (int(number) if number.isdecimal() else math.inf, file.name)


def _read_part(file: Path) -> dict[str, dict[int, float]]:
    """By metric, values by number of updates. Cells that hold no finite number are left out."""
    points: dict[str, dict[int, float]] = {}
    text = file.read_text(encoding="utf-8", errors="replace").replace("\0", "")
    for row in csv.DictReader(text.splitlines()):
        step = _number(row.get("step"))
        for name, cell in row.items():
            value = _number(cell)
            if step is not None and value is not None and name not in (None, "step", "epoch"):
                points.setdefault(name, {})[int(step) + 1] = value  # Lightning counts from 0
    return points


def _number(cell: Any) -> float | None:
    """A finite number, or None."""
    try:
        value = float(cell)
    except (TypeError, ValueError):
        return None
    return value if math.isfinite(value) else None


def _read_text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def _as_mapping(text: str, path: Path) -> dict[str, Any]:
    """The mapping in YAML or JSON; empty for other values and, with a warning, for damaged text."""
    import yaml

    try:
        values = json.loads(text) if path.suffix == ".json" and text else yaml.safe_load(text)
    except (ValueError, yaml.YAMLError) as error:
        logger.warning("%s cannot be read: %s", path, str(error).splitlines()[0])
        return {}
    return values if isinstance(values, dict) else {}
