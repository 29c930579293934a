"""How far distortions move a representation, in units of how far other speech moves it.

Shapes: S splits of some speech, C conditions, D features, R rounds of the bootstrap.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from distill.downstream.bootstrap import LEVEL, ROUNDS
from distill.downstream.result_schema import check

FEWEST_SPLITS = 10
"""With fewer, no interval is given: a bootstrap over so few is far too narrow."""


@dataclass(frozen=True, kw_only=True)
class Separation:
    """The number that a picture of t-SNE stands for, and what it is made of."""

    ratio: float | None
    """`within` over `between`; None if `between` is 0: the representation does not depend on speech."""
    low: float | None
    """Lower end of the interval; None where it is not known."""
    high: float | None
    """Upper end of the interval; None where it is not known."""
    within: float
    """Distance between conditions within a split, in the representation's unit."""
    between: float
    """Distance between splits under the same condition."""

    def __str__(self) -> str:
        if self.ratio is None:
            return "undefined"
        digits = min(max(2, 1 - math.floor(math.log10(self.ratio))), 12) if self.ratio > 0 else 2
        text = f"{self.ratio:.{digits}f}"
        return text if self.low is None else f"{text} [{self.low:.{digits}f}, {self.high:.{digits}f}]"


def separation(
    points: Mapping[str, np.ndarray], *, level: float = LEVEL, rounds: int = ROUNDS, seed: int = 0
) -> Separation:
    """Distance within splits over distance between splits, with a percentile bootstrap over splits.

    With z(s, c) the representation of split s under condition c, averaged over time and utterances, and |.|
    the Euclidean distance, as in t-SNE:

        within  = mean over s and over pairs c < c' of |z(s, c) - z(s, c')|
        between = mean over c and over pairs s < s' of |z(s, c) - z(s', c)|
        ratio   = within / between

    0: distortions do not move the representation; 1: they move it as far as other speech does. The ratio does
    not change if the representation is scaled, shifted or rotated. It does depend on the number of utterances
    in a split: averaging n of them makes `between` smaller by about sqrt(n), but not a shift that all speech
    of a condition has in common. So compare models on the same splits.

    The bootstrap draws splits with replacement; a split is not compared with copies of itself. The draws
    depend on the seed and S alone: they are the same for all models.

    Args:
        points: by condition, (S, D), the same splits in the same order.
        level: of the interval.
        rounds: of the bootstrap.
        seed: of the draws.

    Raises:
        ValueError: for fewer than two conditions or splits, or points that are not finite.
    """
    z = np.stack(list(points.values())).astype(np.float64)  # (C, S, D)
    n_conditions, n_splits, _ = z.shape
    if n_conditions < 2 or n_splits < 2 or not np.isfinite(z).all():
        raise ValueError(f"{n_conditions} conditions, {n_splits} splits: at least 2 each, all finite")
    pairs = itertools.combinations(z, 2)
    moved = np.mean([np.linalg.norm(one - other, axis=1) for one, other in pairs], axis=0)  # (S,)
    apart = np.mean([_distances(each) for each in z], axis=0)  # (S, S), 0 on the diagonal
    within, between = float(moved.mean()), float(apart.sum() / (n_splits * (n_splits - 1)))
    # What differs by rounding alone is the same.
    if between <= 1e-6 * float(np.abs(z).max()):
        return Separation(ratio=None, low=None, high=None, within=within, between=between)
    low = high = None
    if n_splits >= FEWEST_SPLITS:
        generator = np.random.Generator(np.random.Philox(key=[seed, 1]))
        drawn = generator.multinomial(n_splits, np.full(n_splits, 1 / n_splits), size=rounds)  # (R, S)
        n_pairs = n_splits**2 - (drawn**2).sum(1)  # of different splits; never 0 in practice
        ratios = (drawn @ moved / n_splits) * n_pairs / ((drawn @ apart) * drawn).sum(1)
        low, high = map(float, np.quantile(ratios, [(1 - level) / 2, (1 + level) / 2]))
    return Separation(ratio=within / between, low=low, high=high, within=within, between=between)


def ratio_cells(rows: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """The cells of a table of ratios: a row for each model, a column for each condition.

    Args:
        rows: each with a "model", a "condition" and the fields of a `Separation`.

    Returns:
        Header, and cells.

    Raises:
        KeyError: if one is missing.
        ValueError: if one of the fields is no number.
    """
    conditions = list(dict.fromkeys(str(row["condition"]) for row in rows))
    models: dict[str, dict[str, str]] = {}
    for row in rows:
        fields = {name: row[name] for name in ("ratio", "low", "high", "within", "between")}
        for name, value in fields.items():
            check(value, float if name in ("within", "between") else float | None, name)
        models.setdefault(str(row["model"]), {})[str(row["condition"])] = str(Separation(**fields))
    cells = [[model, *(found.get(name, "") for name in conditions)] for model, found in models.items()]
    return ["within / between splits", *conditions], cells


def _distances(points: np.ndarray) -> np.ndarray:
    """(S, D) -> (S, S); row by row, as (S, S, D) may be large."""
    return np.stack([np.linalg.norm(points - point, axis=1) for point in points])
