"""Projection-weighted CCA of layers that are in memory, regularised as suits a development part.

The scores are those of `pwcca` in a loop over layers, splits and pairs of epsilons, but for rounding (which
"reference" magnifies where y has a direction without variance, as labels do: there it flips signs). Sums of
products are taken once for the parts that splits have in common; `scoring` does the rest.

Shapes: n instances, D features of a layer, K of y.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from operator import add

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from distill.analysis.cca.correlations import (
    Definition,
    as_rows,
    check_enough,
    check_heldout,
    check_options,
    check_same_rows,
    check_varied,
    check_varying,
    float64_device,
)
from distill.analysis.cca.moments import Moments
from distill.analysis.cca.scoring import EPSILONS, FoldScore, score_fold
from distill.analysis.cca.segments import Split
from distill.errors import UsageError, listed

_USES = ("train", "dev", "test")


def cross_validate(
    layers: Mapping[str, Tensor],
    y: Tensor,
    splits: Sequence[Split],
    *,
    epsilons: Sequence[tuple[float, float]] = EPSILONS,
    definition: Definition = "centred",
    label: str = "cca",
) -> dict[str, list[FoldScore]]:
    """Score layers against y on each split, with the epsilons that score best on its development part.

    Args:
        layers: by name, (n, D), each of its own width; computed in float64 where the first one is.
        y: (n, K), row by row the same instances.
        splits: one score each.
        epsilons: pairs for x and y to choose from; of equals, the first is taken.
        definition: of the weights, see `pwcca`.
        label: of the progress bar.

    Returns:
        By layer, a score for each split.

    Raises:
        UserError: for data from which nothing can be learnt; names the layer and the split.
        UsageError: for options or splits that make no sense.
    """
    check_options(epsilons, definition)
    if not (layers and splits and epsilons):
        raise UsageError("nothing to score: name at least a layer, a split and a pair of epsilons")
    device = float64_device(next(iter(layers.values())))
    y = as_rows(y, "y", device)
    _check_splits(splits, len(y))
    _check_parts(y, "y", splits, 0)
    groups = _common_rows(splits, len(y))
    scores: dict[str, list[FoldScore]] = {}
    for name, layer in tqdm(layers.items(), desc=label, unit="layer", leave=False, disable=None):
        x = as_rows(layer, f"layer {name}", device)
        check_same_rows(x, y, f"layer {name}", "y")
        _check_parts(x, f"layer {name}", splits, min(layer.shape[1], y.shape[1]))
        moments = [(uses, Moments.of(x[rows], y[rows])) for uses, rows in groups]
        scores[name] = []
        for number in range(len(splits)):
            parts = {
                use: reduce(add, (found for uses, found in moments if uses[number] == use)) for use in _USES
            }
            scores[name].append(
                score_fold(**parts, epsilons=epsilons, definition=definition, name=f"layer {name}")
            )
    return scores


def _common_rows(splits: Sequence[Split], n_rows: int) -> list[tuple[list[str], Tensor]]:
    """Rows that have the same use in every split: the uses by split, and their numbers."""
    uses = np.full((n_rows, len(splits)), "", dtype="<U5")
    for number, split in enumerate(splits):
        for use in _USES:
            uses[getattr(split, use), number] = use
    patterns, group = np.unique(uses, axis=0, return_inverse=True)
    return [
        (pattern.tolist(), torch.from_numpy(np.flatnonzero(group.ravel() == number)))
        for number, pattern in enumerate(patterns)
        if pattern.any()
    ]


def _training(view: str, number: int) -> str:
    """What a message calls the training part of a split."""
    return f"{view}, training part of split {number + 1}"


def _check_splits(splits: Sequence[Split], n_rows: int) -> None:
    """Refuse row numbers that do not exist or have two uses."""
    for number, split in enumerate(splits, 1):
        for name in ("train", "dev", "test"):
            rows = np.asarray(getattr(split, name))
            if rows.ndim != 1 or not np.issubdtype(rows.dtype, np.integer):
                raise UsageError(f"split {number}: {name} must be a list of row numbers, not {rows.dtype}")
            wrong = rows[(rows < 0) | (rows >= n_rows)]
            if len(wrong):
                raise UsageError(f"split {number}: {name} names row {wrong[0]}; y has {n_rows} rows")
        rows, uses = np.unique(np.concatenate([split.train, split.dev, split.test]), return_counts=True)
        if (uses > 1).any():
            twice = rows[uses > 1].tolist()
            raise UsageError(f"split {number}: rows that are used twice: {listed(twice)}")


def _check_parts(rows: Tensor, name: str, splits: Sequence[Split], n_directions: int) -> None:
    """Refuse parts from which nothing can be learnt or that show nothing."""
    for number, split in enumerate(splits):
        training = _training(name, number)
        check_enough(len(split.train), rows.shape[1], training)
        check_varying(rows[torch.from_numpy(np.asarray(split.train)).to(rows.device)], training)
        for part, chosen in (("dev", split.dev), ("test", split.test)):
            where = f"{name}, {part} part of split {number + 1}"
            check_heldout(len(chosen), n_directions, where)
            check_varied(rows[torch.from_numpy(np.asarray(chosen)).to(rows.device)], where)
