"""Projection-weighted CCA of many layers, regularised as suits a development part: fast, with shared work.

The scores are those of `pwcca` in a loop over layers, splits and pairs of epsilons, but for rounding (which
"reference" magnifies where y has a direction without variance, as labels do: there it flips signs). What
depends on fewer of them is computed once: sums of products of parts that splits have in common; eigenvectors,
which S + epsilon I shares with S as long as no more features are dropped; and, for each epsilon of x, the few
directions of x that the covariance with y reaches at all, so that only small matrices are left for each pair.

Shapes: n instances, D features of a layer, K of y, k kept by an epsilon, r directions of x.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from distill.analysis.cca.correlations import (
    NULL,
    Definition,
    as_rows,
    check_enough,
    check_heldout,
    check_options,
    check_same_rows,
    check_varied,
    check_varying,
    correlate,
    float64_device,
    importance,
    inverse_root,
    singular,
)
from distill.analysis.cca.spectra import Spectrum, TrainingSums, View, decompose
from distill.errors import UsageError, listed

EPSILONS: tuple[tuple[float, float], ...] = tuple(
    (x, y) for values in ((1e-11, 1e-10, 1e-9), (1e-8, 1e-7, 1e-6, 1e-5)) for x, y in product(values, values)
)
"""(epsilon_x, epsilon_y) to choose from, as in Pasad et al. 2023."""
TIE = 1e-9
"""Development scores that differ by less are equal: rounding must not choose."""
BATCH_BYTES = 2**28
"""Of covariances that are decomposed together."""


@dataclass(frozen=True, eq=False)
class Split:
    """Which rows directions are learnt from, epsilons chosen on and scores taken of; no row has two uses."""

    train: np.ndarray
    """Row numbers, (n_train,)."""
    dev: np.ndarray
    test: np.ndarray


@dataclass(frozen=True)
class FoldScore:
    """What a layer shares with y in one split."""

    score: float
    """Of the test part."""
    dev_score: float
    """Of the development part; the best of all pairs of epsilons."""
    epsilon_x: float
    epsilon_y: float


@torch.no_grad()
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
    for name, layer in layers.items():
        rows = as_rows(layer, f"layer {name}", device)
        check_same_rows(rows, y, f"layer {name}", "y")
        _check_parts(rows, f"layer {name}", splits, min(layer.shape[1], y.shape[1]))
    _check_parts(y, "y", splits, 0)
    sums = TrainingSums([split.train for split in splits], y)
    eps_x, eps_y = (sorted(set(column)) for column in zip(*epsilons, strict=True))
    of_y = decompose(sums.of(y)[0], eps_y, [_training("y", number) for number in range(len(splits))])
    folds = [Fold(split, y, view) for split, view in zip(splits, of_y, strict=True)]
    scores: dict[str, list[FoldScore]] = {}
    with tqdm(total=len(layers) * len(folds), desc=label, unit="fold", leave=False, disable=None) as bar:
        for names in _batches(layers, len(folds)):
            covariances, crosses = zip(*(sums.of(layers[name]) for name in names), strict=True)
            where = [_training(f"layer {name}", number) for name in names for number in range(len(folds))]
            views = iter(decompose(torch.cat(covariances), eps_x, where))
            for name, cross in zip(names, crosses, strict=True):
                scores[name] = []
                for fold, view, products in zip(folds, views, cross, strict=False):
                    scores[name].append(Search(fold, layers[name], view, products, definition).best(epsilons))
                    bar.update()
    return {name: scores[name] for name in layers}


def _training(view: str, number: int) -> str:
    """What a message calls the training part of a split."""
    return f"{view}, training part of split {number + 1}"


def _batches(layers: Mapping[str, Tensor], n_splits: int) -> Iterator[list[str]]:
    """Names of layers of equal width, so many that their covariances are not too large."""
    widths: dict[int, list[str]] = defaultdict(list)
    for name, layer in layers.items():
        widths[layer.shape[1]].append(name)
    for width, names in widths.items():
        size = max(1, BATCH_BYTES // (8 * width**2 * n_splits))
        for start in range(0, len(names), size):
            yield names[start : start + size]


class Part:
    """Development or test rows of a view, less their mean, of the features that are kept.

    Args:
        rows: (n, k).
    """

    def __init__(self, rows: Tensor):
        mean = rows.mean(0)
        self.n, self.mean, self.centred = len(rows), mean.cpu(), rows - mean
        self.corner = torch.linalg.qr(self.centred).R.cpu()
        """(min(n, k), k): lengths and products of combinations of its columns are those of the features'."""

    def importance(self, directions: Tensor, null: Tensor, definition: Definition) -> Tensor:
        """Weights of directions (k, r): (r,)."""
        projections, features = self.corner @ directions, self.corner
        if definition == "centred":
            return importance(projections, features, null)
        # Orthogonal to all that is centred and as long as n times the mean.
        mean = math.sqrt(self.n) * self.mean[None]
        return importance(torch.cat([projections, mean]), torch.cat([features, mean]))


class Fold:
    """What all layers have in common in a split: the view y.

    Args:
        split: its rows.
        y: (n, K) float64.
        view: the training part of y.
    """

    def __init__(self, split: Split, y: Tensor, view: View):
        self.y = view
        self.rows = [torch.from_numpy(np.asarray(part)).to(y.device) for part in (split.dev, split.test)]
        self.parts = {
            len(spectrum.kept): [Part(y[rows][:, spectrum.kept]) for rows in self.rows]
            for spectrum in view.spectra.values()
        }
        """Development and test part, by the number of features kept."""


@dataclass(frozen=True, eq=False)
class Reach:
    """Whitened directions of x, as many as matter, under an epsilon of x; all but `basis` on the CPU."""

    basis: Tensor
    """(k_x, r)."""
    metric: Tensor
    """(r, r): products of the basis."""
    reached: Tensor
    """(r, k_y): covariance with y in training, along the eigenvectors of y."""
    within: list[Tensor]
    """(r, r): products of the projections of the development and the test part."""
    cross: list[Tensor]
    """(r, k_y): with the features of y."""


class Search:
    """One layer in one split, under any pair of epsilons.

    Args:
        fold: the split.
        layer: (n, D).
        view: its training part.
        cross: its covariance with y there, (D, K).
        definition: of the weights.
    """

    def __init__(self, fold: Fold, layer: Tensor, view: View, cross: Tensor, definition: Definition):
        self.fold, self.view = fold, view
        self.definition: Definition = definition
        self.cross = cross / math.sqrt(view.scale * fold.y.scale)
        self.rows = [layer[rows.to(layer.device)].to(cross) for rows in fold.rows]
        self.turned: dict[tuple[int, int], Tensor] = {}
        self.reaches: dict[tuple[float, int], Reach] = {}
        self.parts: dict[int, list[Part]] = {}

    def best(self, epsilons: Sequence[tuple[float, float]]) -> FoldScore:
        """The scores under the pair that is best on the development part; of equals, the first."""
        found = {pair: self.scores(*pair) for pair in epsilons}
        best = max(dev for dev, _ in found.values())
        chosen = next(pair for pair in epsilons if found[pair][0] >= best - TIE)
        dev, test = found[chosen]
        return FoldScore(test, dev, *chosen)

    def scores(self, epsilon_x: float, epsilon_y: float) -> list[float]:
        """Of the development and the test part."""
        x, y = self.view.spectra[epsilon_x], self.fold.y.spectra[epsilon_y]
        reach = self.reach(epsilon_x, y)
        roots, rotation = inverse_root(y.values, epsilon_y).cpu(), y.vectors.cpu()
        matrix = reach.reached * roots
        if self.definition == "reference":  # the matrix that is decomposed there, for the signs
            u, _, vh = singular(matrix @ rotation.T)
            along_y = rotation @ (roots[:, None] * (rotation.T @ vh.T))
        else:
            u, _, vh = singular(matrix)
            along_y = rotation @ (roots[:, None] * vh.T)
        length_x = (u * (reach.metric @ u)).sum(0).sqrt() * math.sqrt(self.view.scale)
        length_y = along_y.norm(dim=0) * math.sqrt(self.fold.y.scale)
        scores = []
        for number, part in enumerate(self.fold.parts[len(y.kept)]):
            floor = NULL * math.sqrt(part.n - 1)
            correlations, null_x, null_y = correlate(
                (u * (reach.cross[number] @ along_y)).sum(0),
                (u * (reach.within[number] @ u)).sum(0).clamp(min=0).sqrt(),
                (part.corner @ along_y).norm(dim=0),
                floor * length_x,
                floor * length_y,
            )
            if len(x.kept) < len(y.kept):
                narrow = self.parts_of_x(x)[number]
                weights = narrow.importance(reach.basis.cpu() @ u, null_x, self.definition)
            else:
                weights = part.importance(along_y, null_y, self.definition)
            scores.append(float((weights * correlations).sum()))
        return scores

    def reach(self, epsilon: float, y: Spectrum) -> Reach:
        """The directions of x, the same for every epsilon of y that keeps these features."""
        key = epsilon, len(y.kept)
        if key not in self.reaches:
            self.reaches[key] = self._reach(self.view.spectra[epsilon], epsilon, y)
        return self.reaches[key]

    def _reach(self, x: Spectrum, epsilon: float, y: Spectrum) -> Reach:
        roots = inverse_root(x.values, epsilon)[:, None]
        key = len(x.kept), len(y.kept)
        if key not in self.turned:
            self.turned[key] = x.vectors.T @ self.cross[x.kept][:, y.kept] @ y.vectors
        reached = roots * self.turned[key]
        if self.definition == "reference":
            turn, reached = x.vectors.T, x.vectors @ reached
        elif len(x.kept) > len(y.kept):  # other directions have no covariance with y
            turn, reached = torch.linalg.qr(reached)
        else:
            turn = torch.eye(len(x.kept)).to(roots)
        turned = roots * turn
        basis = x.vectors @ turned
        projected = [rows[:, x.kept] @ basis for rows in self.rows]
        projected = [rows - rows.mean(0) for rows in projected]
        parts = self.fold.parts[len(y.kept)]
        return Reach(
            basis,
            (turned.T @ turned).cpu(),
            reached.cpu(),
            [(rows.T @ rows).cpu() for rows in projected],
            [(rows.T @ part.centred).cpu() for rows, part in zip(projected, parts, strict=True)],
        )

    def parts_of_x(self, x: Spectrum) -> list[Part]:
        """Development and test part of the layer."""
        if len(x.kept) not in self.parts:
            self.parts[len(x.kept)] = [Part(rows[:, x.kept]) for rows in self.rows]
        return self.parts[len(x.kept)]


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
