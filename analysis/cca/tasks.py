"""Scores of heads on single layers beside what CCA says of these layers (Pasad et al. 2023, section 5.3).

`distill sweep --features layer:0 --features layer:1 ... --features weighted_sum` makes the scores.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean

from scipy.stats import spearmanr

from distill.atomic import read_json
from distill.downstream.finding import find_below
from distill.downstream.head_record import read_head
from distill.downstream.result_schema import check
from distill.downstream.results import METRICS, Result, read_results
from distill.downstream.table_choices import choose, choose_lr
from distill.downstream.table_notes import Notes
from distill.errors import DamagedFile, UserError

FEWEST_LAYERS = 3
"""A rank correlation over fewer says nothing."""


@dataclass(frozen=True, kw_only=True)
class LayerScores:
    """What heads on the single layers of a model reach on a task; higher is better throughout."""

    model: str
    """Its name in the analysis."""
    task: str
    metric: str
    """A key of `METRICS`; error rates are turned into 100 - rate."""
    scores: Mapping[str, float]
    """By layer, in per cent, mean over seeds and folds."""
    all_layers: float | None = None
    """Of heads on the weighted sum of all layers."""
    weights: Mapping[str, float] = field(default_factory=dict)
    """By layer, the learned weights of that sum, mean over seeds and folds."""

    @property
    def best(self) -> str:
        """The layer with the highest score; of equal ones the lowest."""
        return max(self.scores, key=lambda layer: (self.scores[layer], -int(layer)))


def read_layer_scores(
    folders: Sequence[Path],
    models: Mapping[str, str],
    *,
    condition: str = "clean",
    protocol: str | None = None,
    variant: str | None = None,
) -> list[LayerScores]:
    """The scores of models on every task that has been evaluated on single layers.

    Args:
        folders: evaluations or sweeps.
        models: name in the analysis by identity (`LayeredModel.identity`).
        condition: of the test speech.
        protocol: if there are several.
        variant: of the distortions, if there are several.

    Raises:
        UserError: if no result is of one of the models on a single layer, or the choice is open.
    """
    every = [
        result
        for result in read_results(folders)
        if result.checkpoint_hash in models and result.condition == condition and not result.lm
    ]
    by_task: dict[tuple[str, str], list[Result]] = defaultdict(list)
    for result in choose(every, protocol=protocol, variant=variant):
        by_task[models[result.checkpoint_hash], result.task].append(result)
    weights = read_weights(folders, models)
    found = []
    for (model, task), results in sorted(by_task.items()):
        by_features = _means(results, f"{model}, {task}")
        scores = {name.removeprefix("layer:"): value for name, value in by_features.items() if ":" in name}
        if scores:
            found.append(
                LayerScores(
                    model=model,
                    task=task,
                    metric=results[0].metric,
                    scores=dict(sorted(scores.items(), key=lambda pair: int(pair[0]))),
                    all_layers=by_features.get("weighted_sum"),
                    weights=weights.get((model, task), {}),
                )
            )
    if not found:
        names = ", ".join(map(str, folders))
        raise UserError(
            f"{names}: no result is of {' or '.join(models.values())} on single layers ({condition}): make "
            "some with distill sweep MODEL --task TASK --features layer:0 --features layer:1 ..."
        )
    return found


def _means(results: Sequence[Result], label: str) -> dict[str, float]:
    """By features of frozen models, the mean score over seeds and folds, higher being better."""
    by_features: dict[str, list[Result]] = defaultdict(list)
    for result in results:
        if result.features == "weighted_sum" or result.features.startswith("layer:"):
            by_features[result.features].append(result)
    found = {}
    for features, members in by_features.items():
        chosen = choose_lr(members, f"{label}, {features}", Notes())
        value = mean(result.value for result in chosen)
        higher = METRICS[chosen[0].metric].endswith("higher is better")
        found[features] = value if higher else 100.0 - value
    return found


def read_weights(
    folders: Iterable[Path], models: Mapping[str, str]
) -> dict[tuple[str, str], dict[str, float]]:
    """By model and task, the learned weight of each layer, mean over heads."""
    found: dict[tuple[str, str], list[list[float]]] = defaultdict(list)
    name = "heads/*/layer_weights.json"
    paths = {path.resolve() for folder in folders for path in find_below(folder, name)}
    for path in sorted(paths):
        model = models.get(read_head(path.parent).get("checkpoint", ""))
        if model is not None:
            try:
                weights = check(read_json(path).get("weights"), list[float], "weights")
            except ValueError as error:
                raise DamagedFile(f"{path} is damaged ({error}): evaluate again") from None
            found[model, path.parent.name.partition("-")[0]].append(weights)
    return {
        key: {str(layer): mean(values) for layer, values in enumerate(zip(*rows, strict=True))}
        for key, rows in found.items()
    }


def rank_correlation(one: Mapping[str, float], other: Mapping[str, float]) -> float | None:
    """Spearman's rho over the layers of both; None if they are too few, or either does not vary."""
    layers = [layer for layer in one if layer in other]
    if len(layers) < FEWEST_LAYERS:
        return None
    a, b = ([values[layer] for layer in layers] for values in (one, other))
    if len(set(a)) == 1 or len(set(b)) == 1:
        return None
    rho = float(spearmanr(a, b).statistic)  # pyright: ignore[reportAttributeAccessIssue]
    return rho if math.isfinite(rho) else None
