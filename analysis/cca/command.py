"""What `distill cca` and `distill layers` do with models, speech and scores of tasks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from distill import markdown
from distill.analysis.cca.figures import (
    correlation_rows,
    draw_best_layers,
    draw_correlations,
    draw_scatters,
    draw_views,
)
from distill.analysis.cca.layerwise import CcaOptions, analyse, tables
from distill.analysis.cca.ranking import USES, Ranking, rank, scores_of
from distill.analysis.cca.tasks import LayerScores, rank_correlation, read_layer_scores
from distill.analysis.layered import LayeredModel
from distill.analysis.models import open_models
from distill.analysis.record import Record
from distill.errors import UserError


def compare_layers(
    sources: Sequence[str],
    speech: str,
    options: CcaOptions,
    out: Path,
    *,
    random: bool = False,
    scores: Sequence[Path] = (),
    protocol: str | None = None,
) -> str:
    """Compare the layers of models with the views, draw figures, and compare with scores of tasks.

    Args:
        sources: as for `open_models`.
        speech: manifest, TSV or folder of audio.
        options: what is compared.
        out: folder for scores and figures.
        random: analyse each model with random weights too.
        scores: folders of evaluations on single layers, if any.
        protocol: of these, if there are several.

    Returns:
        Markdown tables.
    """
    models = open_models(sources)
    found = read_layer_scores(scores, names(models), protocol=protocol) if scores else []
    if random:
        models += [model.random_twin(options.seed) for model in models]
    record = analyse(models, speech, options, out)
    draw_views(record.rows, out)
    text = tables(record, [model.name for model in models])
    if found:
        text += f"\n\n{compare_with_tasks(record, found, out)}"
    return f"{text}\n\nscores and figures: {out}"


def names(models: Sequence[LayeredModel]) -> dict[str, str]:
    """Names by identity."""
    return {model.identity: model.name for model in models}


def compare_with_tasks(record: Record, scores: Sequence[LayerScores], out: Path) -> str:
    """Figs. 5-7 and their numbers: how well CCA, and learned weights, say which layer a task wants."""
    correlations = correlation_rows(record.rows, scores)
    draw_correlations(correlations, out)
    draw_scatters(record.rows, scores, out)
    draw_best_layers(scores, out)
    measures = list(dict.fromkeys(row["measure"] for row in correlations))
    rows = []
    for entry in scores:
        rho = {
            r["measure"]: r["rho"]
            for r in correlations
            if (r["model"], r["task"]) == (entry.model, entry.task)
        }
        every = "" if entry.all_layers is None else f"{entry.all_layers:.1f}"
        best = f"{entry.scores[entry.best]:.1f} (layer {entry.best})"
        rows.append([entry.model, entry.task, *(_rho(rho.get(measure)) for measure in measures), best, every])
    header = ["Spearman's rho", "", *measures, "best layer", "all layers"]
    return markdown.table(header, rows)


def _rho(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def recommend(
    source: str, speech: str, options: CcaOptions, out: Path, *, scores: Sequence[Path] = ()
) -> str:
    """Which layer to feed a task, with reasons.

    Args:
        source: as for `open_models`.
        speech: manifest, TSV or folder of audio.
        options: with views of labels.
        out: folder for scores and figures.
        scores: folders of evaluations on single layers, to check the ranking against.

    Returns:
        Markdown: for every use a table of the layers, the best first, and a line of advice.
    """
    (model,) = open_models([source])
    found = read_layer_scores(scores, names([model])) if scores else []
    ranked = options.layers or tuple(layer for layer in model.layers if layer.isdecimal())
    record = analyse([model], speech, replace(options, layers=ranked), out)
    draw_views(record.rows, out)
    views = {
        view: layers for view, layers in scores_of(record.rows, model.name).items() if view in options.views
    }
    rankings = rank(views)
    if not rankings:
        raise UserError("say where words or phones are: --words, --phones")
    texts = [describe(ranking, model.layers[-1]) for ranking in rankings]
    texts += [line for entry in found for ranking in rankings if (line := check(ranking, entry))]
    return "\n\n".join([*texts, f"scores and figures: {out}"])


def check(ranking: Ranking, scores: LayerScores) -> str:
    """How well a ranking agrees with heads on the single layers; empty if they have too few in common."""
    rho = rank_correlation({each.layer: each.score for each in ranking.layers}, scores.scores)
    if rho is None:
        return ""
    text = f"{scores.task} ({ranking.use}): Spearman's rho with heads on the single layers {rho:.2f}; "
    text += f"the best of them is layer {scores.best} ({scores.scores[scores.best]:.1f} %)"
    advised = ranking.advice.layer
    if advised != scores.best and advised in scores.scores:
        text += f", the advised {advised} has {scores.scores[advised]:.1f} %"
    return text


def describe(ranking: Ranking, last: str) -> str:
    """A table of the layers, the best first, and a line of advice."""
    advised = ranking.advice
    views = list(advised.by_view)
    rows = [
        [each.layer, *(f"{each.by_view[view]:.3f}" for view in views), ranking.reason(each)]
        for each in ranking.layers
    ]
    above = int(last) - int(advised.layer)
    saved = f": the {above} above it need not be computed" if above > 1 else ""
    table = markdown.table(["layer", *(f"CCA {view}" for view in views), "why here"], rows)
    return f"For {USES[ranking.use][1]}: layer {advised.layer} of {last}{saved}.\n\n{table}"
