"""Figures of layer-wise CCA, after Figs. 1-7 of Pasad et al. 2023."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from distill.analysis.cca.ranking import scores_of
from distill.analysis.cca.tasks import LayerScores, rank_correlation
from distill.analysis.figures import (
    COLUMN_IN,
    PAGE_IN,
    add_legend,
    by_seed,
    draw_bars,
    draw_lines,
    draw_scatter,
    new_figure,
    save,
)
from distill.analysis.layered import ordered

YLABELS = {
    "local": "CCA with local features",
    "mel": "CCA with mel filter banks",
    "phone": "CCA with phones",
    "word": "CCA with words",
}
"""By view; its figure has the name of the view."""

Row = Mapping[str, Any]


def draw_views(rows: Sequence[Row], out: Path) -> list[Path]:
    """Figs. 1-4: similarity by layer, a line for each model.

    Bands reach from the lowest to the highest score of all samples and splits; of models that differ in their
    seed, which share a line, from the lowest to the highest mean.

    Args:
        rows: of `distill cca`.
        out: folder.

    Returns:
        The files.
    """
    models = list(dict.fromkeys(row["model"] for row in rows))
    by_model = {model: scores_of(rows, model) for model in models}
    written = []
    for view, ylabel in YLABELS.items():
        shown = {model: views[view] for model, views in by_model.items() if view in views}
        if not shown:
            continue
        order = ordered(name for layers in shown.values() for name in layers)
        place = {layer: number for number, layer in enumerate(order)}
        series, bands = {}, {}
        for group, members in by_seed(shown).items():
            layers = {
                name: _spread([shown[member][name] for member in members])
                for name in sorted(shown[members[0]], key=place.__getitem__)
            }
            x = [place[name] for name in layers]
            middles, lows, highs = zip(*layers.values(), strict=True)
            series[group], bands[group] = (x, middles), (lows, highs)
        figure = new_figure(height_in=2.2)
        axis = figure.subplots()
        draw_lines(axis, series, bands=bands, xlabel=_xlabel(order), ylabel=ylabel)
        ticks = range(0, len(order), 1 if len(order) <= 16 else 2)
        axis.set_xticks(list(ticks), [_tick(order[number]) for number in ticks])
        axis.set_ylim(bottom=min(0.0, axis.get_ylim()[0]))
        add_legend(figure, axis)
        data = [
            {
                "model": model,
                "layer": name,
                "cca": mean(v),
                "lowest": min(v),
                "highest": max(v),
                "scores": len(v),
            }
            for model, layers in shown.items()
            for name, v in layers.items()
        ]
        written += save(figure, out / view, data)
    return written


def _spread(models: Sequence[Sequence[float]]) -> tuple[float, float, float]:
    """Mean, lowest and highest: of the scores of one model, or of the means of several seeds."""
    scores = models[0] if len(models) == 1 else [mean(scores) for scores in models]
    return mean(scores), min(scores), max(scores)


def _tick(layer: str) -> str:
    return layer.replace("conv", "C").replace("cnn", "CNN")


def _xlabel(order: Sequence[str]) -> str:
    return (
        "layer"
        if not order[0].startswith("conv")
        else "layer (C: convolution, CNN: the last one, 0: transformer's input)"
    )


def correlation_rows(rows: Sequence[Row], scores: Sequence[LayerScores]) -> list[dict[str, Any]]:
    """Spearman's rho between the similarity of layers and heads' scores on them, and learned weights' rho.

    Returns:
        A row for each model, task and measure: the views, and "layer weights".
    """
    found = []
    for entry in scores:
        views = scores_of(rows, entry.model)
        measures = {view: {layer: mean(v) for layer, v in layers.items()} for view, layers in views.items()}
        if entry.weights:
            measures["layer weights"] = dict(entry.weights)
        for measure, by_layer in measures.items():
            rho = rank_correlation(by_layer, entry.scores)
            common = len(by_layer.keys() & entry.scores.keys())
            found.append(
                {"model": entry.model, "task": entry.task, "measure": measure, "rho": rho, "layers": common}
            )
    return found


def draw_correlations(correlations: Sequence[Row], out: Path) -> list[Path]:
    """Fig. 5: rho by task and model, a bar for each measure."""
    groups: dict[str, dict[str, float]] = {}
    for row in correlations:
        if row["rho"] is not None:
            groups.setdefault(f"{row['task']}\n{row['model']}", {})[row["measure"]] = row["rho"]
    if not groups:
        return []
    figure = new_figure(width_in=PAGE_IN if len(groups) > 4 else COLUMN_IN, height_in=2.4)
    axis = figure.subplots()
    draw_bars(axis, groups, ylabel="Spearman's rho")
    add_legend(figure, axis)
    return save(figure, out / "task_correlations", correlations)


def draw_scatters(rows: Sequence[Row], scores: Sequence[LayerScores], out: Path) -> list[Path]:
    """Fig. 6: the similarity of layers against the scores on them, a panel for each task and view."""
    panels = []
    for entry in scores:
        for view, layers in scores_of(rows, entry.model).items():
            points = [(mean(v), entry.scores[n], n) for n, v in layers.items() if n in entry.scores]
            if view in ("phone", "word", "mel") and len(points) > 1:
                panels.append((entry, view, points))
    if not panels:
        return []
    columns = min(3, len(panels))
    n_rows = -(-len(panels) // columns)
    figure = new_figure(width_in=PAGE_IN if columns > 1 else COLUMN_IN, height_in=2.2 * n_rows)
    axes = figure.subplots(n_rows, columns, squeeze=False)
    for axis in axes.flat[len(panels) :]:
        axis.axis("off")
    for axis, (entry, view, points) in zip(axes.flat, panels, strict=False):
        rho = rank_correlation({n: x for x, _, n in points}, {n: y for _, y, n in points})
        said = "" if rho is None else f", rho {rho:.2f}"
        title = f"{entry.model}: {entry.task}{said}"
        draw_scatter(axis, points, xlabel=YLABELS[view], ylabel=_score_label(entry), title=title)
    data = [
        {"model": entry.model, "task": entry.task, "view": view, "layer": n, "cca": x, "score": y}
        for entry, view, points in panels
        for x, y, n in points
    ]
    return save(figure, out / "task_scatter", data)


def draw_best_layers(scores: Sequence[LayerScores], out: Path) -> list[Path]:
    """Fig. 7: the best single layer, with its number, beside the weighted sum of all layers."""
    shown = [entry for entry in scores if entry.all_layers is not None]
    if not shown:
        return []
    groups, labels, data = {}, {}, []
    for entry in shown:
        assert entry.all_layers is not None
        group = f"{entry.task}\n{entry.model}"
        groups[group] = {"all layers": entry.all_layers, "best layer": entry.scores[entry.best]}
        labels[group, "best layer"] = entry.best
        data.append(
            {
                "model": entry.model,
                "task": entry.task,
                "all_layers": entry.all_layers,
                "best_layer": entry.best,
                "best_score": entry.scores[entry.best],
            }
        )
    figure = new_figure(width_in=PAGE_IN if len(groups) > 4 else COLUMN_IN, height_in=2.4)
    axis = figure.subplots()
    draw_bars(axis, groups, ylabel="score (%)", labels=labels)
    add_legend(figure, axis)
    return save(figure, out / "best_layers", data)


def _score_label(entry: LayerScores) -> str:
    return "accuracy (%)" if entry.metric in ("accuracy", "f1") else f"100 - {entry.metric.upper()} (%)"
