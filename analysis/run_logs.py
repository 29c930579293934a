"""What run folders hold: recipe, versions, and the curves of training, put together after resumes."""

from __future__ import annotations

import csv
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from distill.atomic import read_bytes, read_json
from distill.downstream.finding import find_below
from distill.errors import UserError, first_line
from distill.markdown import shortened
from distill.training.run_folder import RunFolder

logger = logging.getLogger(__name__)

MOST_LOG_BYTES = 8 << 20
"""Of a part of the log: that of 2 million updates, at 200 letters for every 50 of them."""
MOST_METRICS = 500
"""Columns of a log; ours have about 30."""
MOST_UPDATES = 1e12
LARGEST_VALUE = 1e30
"""Of a metric: beyond it axes cannot be divided, and a loss has broken down long before."""
MOST_RECIPE_BYTES = 128 << 10
"""Resolved recipes have 5 KiB; PyYAML takes up to three seconds for as much as this."""
MOST_VERSIONS = 50
"""Packages that are listed."""

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
    """The recipe, its values as they are written; empty if it cannot be parsed."""
    versions: dict[str, str]
    """Of the software, by name."""
    finished: bool
    """Whether training was completed."""
    curves: dict[str, Curve]
    """By metric."""

    @property
    def kind(self) -> str:
        """What was trained: distil, adapt, ...; empty for other folders."""
        return (self.stated("kind") or "distil") if self.recipe_text or self.curves else ""

    def stated(self, key: str, section: str = "") -> str:
        """A value of the recipe as it is written, in short; empty if the recipe does not state one."""
        part = self.recipe.get(section) if section else self.recipe
        value = part.get(key) if isinstance(part, dict) else None
        return shortened(value, 300) if isinstance(value, str) and value not in ("null", "~") else ""

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
        own = any(any(folder.glob(mark)) for mark in ("recipe.yaml", "csv/metrics*.csv", "results/*.json"))
        if not own and not any(any(find_below(folder, mark)) for mark in ("results/*.json", "analysis.json")):
            raise UserError(
                f"{folder} holds neither a run (recipe.yaml, csv/) nor results of evaluations or analyses"
            )
    return [
        RunLog(
            label=label,
            folder=folder,
            recipe_text=(text := _read_recipe((run := RunFolder(folder)).recipe)),
            recipe=_parse_recipe(text, run.recipe),
            versions=_read_versions(run.versions),
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
    """By metric, values by number of updates. Cells that hold no usable number are left out."""
    points: dict[str, dict[int, float]] = {}
    try:
        rows = csv.reader(read_within(file, MOST_LOG_BYTES).replace("\0", "").splitlines())
        names = next(rows, [])[:MOST_METRICS]
        for row in rows:
            cells = dict(zip(names, row, strict=False))
            step = _number(cells.pop("step", None), most=MOST_UPDATES)
            for name, cell in cells.items():
                value = _number(cell, most=LARGEST_VALUE)
                if step is not None and value is not None and name != "epoch":
                    points.setdefault(name, {})[int(step) + 1] = value  # Lightning counts from 0
    except (OSError, ValueError, csv.Error) as error:
        logger.warning("%s is left out: %s", file, first_line(error))
        return {}
    return points


def _number(cell: str | None, *, most: float) -> float | None:
    """A number whose size is at most `most`, or None."""
    try:
        value = float(cell or "")
    except ValueError:
        return None
    return value if abs(value) <= most else None  # NaN is not


def _read_recipe(path: Path) -> str:
    """The text of a recipe; empty, with a warning, if it is too large or no file."""
    if not path.exists():
        return ""
    try:
        return read_within(path, MOST_RECIPE_BYTES)
    except (OSError, ValueError) as error:
        logger.warning("%s is left out: %s", path, first_line(error))
        return ""


def _parse_recipe(text: str, path: Path) -> dict[str, Any]:
    """The mapping in YAML; empty for other values and, with a warning, for damaged text.

    Its values stay the texts that they are written as: nothing is built from tags, dates or merged keys, and
    what an alias stands for exists once, however often it is named.
    """
    import yaml

    try:
        values = yaml.load(text, Loader=yaml.BaseLoader)  # noqa: S506 it makes texts, lists and dicts only
    except (ValueError, TypeError, RecursionError, yaml.YAMLError) as error:
        logger.warning("%s cannot be read: %s", path, first_line(error))
        return {}
    return values if isinstance(values, dict) else {}


def _read_versions(path: Path) -> dict[str, str]:
    """By name, in short; empty, with a warning, for a damaged file."""
    if not path.exists():
        return {}
    try:
        found = read_json(path, most_bytes=MOST_RECIPE_BYTES)
    except (OSError, ValueError) as error:
        logger.warning("%s cannot be read: %s", path, first_line(error))
        return {}
    texts = {name: value for name, value in found.items() if isinstance(value, str)}
    return {shortened(name, 80): shortened(value, 80) for name, value in list(texts.items())[:MOST_VERSIONS]}


def read_within(path: Path, most_bytes: int) -> str:
    """A text file that anybody may have written; what is not UTF-8 in it is replaced.

    Raises:
        OSError: it cannot be read.
        DamagedFile: it is no file, or larger than that.
    """
    return read_bytes(path, most_bytes).decode("utf-8", errors="replace")
