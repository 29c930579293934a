"""Which layer to feed a task, by CCA alone: no head is trained.

Pasad et al. 2023 (section 5.3): recognition of phones and words goes with the phones and words that CCA finds
in a layer; the meaning of what is said goes with the words alone; and one layer often does as well as all.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

USES: dict[str, tuple[tuple[str, ...], str]] = {
    "recognition": (("phone", "word"), "phone and speech recognition (PR, ASR)"),
    "meaning": (("word",), "keywords, intents, scenarios (KS, IC, SLURP)"),
}
"""What a layer may be for: the views whose scores rank the layers, and in words."""

Scores = Mapping[str, Sequence[float]]
"""By layer, its scores over samples and splits, in the same order for all layers."""


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """A layer's place."""

    layer: str
    score: float
    """Mean over the views of the score, relative to the view's best layer: 1 is best in all."""
    by_view: Mapping[str, float]
    """CCA similarity."""
    equal: bool
    """Whether it is as good as the first one, within what another sample of the speech would change."""


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """All layers for one use, the best first."""

    use: str
    layers: Sequence[Ranked]

    @property
    def advice(self) -> Ranked:
        """The lowest of the layers that are as good as the first one: it costs least."""
        return min((found for found in self.layers if found.equal), key=lambda found: int(found.layer))

    def reason(self, found: Ranked) -> str:
        """Why a layer is where it is, in a few words."""
        first = self.layers[0]
        if found is first:
            return "best" if found is self.advice else "best, but not by more than the spread"
        if found is self.advice:
            return f"as good as {first.layer} within the spread, and the cheapest that is"
        if found.equal:
            return f"as good as {first.layer} within the spread"
        return f"{100 * (1 - found.score / first.score):.0f} % below {first.layer}"


def scores_of(rows: Iterable[Mapping[str, Any]], model: str) -> dict[str, dict[str, list[float]]]:
    """By view and layer, the scores of a model over samples and splits (rows of `distill cca`)."""
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in sorted(rows, key=lambda row: (row["sample"], row["split"])):
        if row["model"] == model:
            found[row["view"]][row["layer"]].append(row["score"])
    return {view: dict(layers) for view, layers in found.items()}


def rank(views: Mapping[str, Scores]) -> list[Ranking]:
    """Rank the transformer's layers for every use that the views tell something about.

    A layer is as good as the first if the mean of their differences, sample by sample, is at most twice its
    standard error.

    Args:
        views: "phone", "word" or both, the same layers in each; layers whose names are no numbers (the
            convolutions) are left out.
    """
    rankings = []
    for use, (wanted, _) in USES.items():
        present = [view for view in wanted if view in views]
        if present:
            rankings.append(Ranking(use=use, layers=_rank({view: views[view] for view in present})))
    return rankings


def _rank(views: Mapping[str, Scores]) -> list[Ranked]:
    layers = [layer for layer in next(iter(views.values())) if layer.isdecimal()]
    tops = {view: max(mean(scores[layer]) for layer in layers) for view, scores in views.items()}
    relative = {
        layer: [
            mean(values)
            for values in zip(
                *([score / tops[view] for score in scores[layer]] for view, scores in views.items()),
                strict=True,
            )
        ]
        for layer in layers
    }
    order = sorted(layers, key=lambda layer: (-mean(relative[layer]), int(layer)))
    return [
        Ranked(
            layer=layer,
            score=mean(relative[layer]),
            by_view={view: mean(scores[layer]) for view, scores in views.items()},
            equal=_equal(relative[order[0]], relative[layer]),
        )
        for layer in order
    ]


def _equal(first: Sequence[float], other: Sequence[float]) -> bool:
    differences = [a - b for a, b in zip(first, other, strict=True)]
    if len(differences) < 2:
        return mean(differences) <= 0
    return mean(differences) <= 2 * stdev(differences) / math.sqrt(len(differences))
