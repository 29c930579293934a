"""How layers answer to disturbed speech: Figs. 13 and 14 of the robustness analysis of ASR models, tables."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from distill import markdown
from distill.analysis import figures
from distill.analysis.layered import ordered
from distill.analysis.probes.activations import METRICS
from distill.analysis.record import Row

_PANEL_IN = 1.7


def draw(rows: Sequence[Row], out: Path) -> list[Path]:
    """For each metric, figures against the layer.

    `METRIC_by_layer` has a panel for each model with a line for each disturbance (Fig. 14);
    `METRIC_DISTURBANCE` a line for each model, for the weakest noise (Fig. 13) and for each condition.

    Returns:
        The files.
    """
    written = []
    for metric in METRICS:
        own = [row for row in rows if row["metric"] == metric and row["value"] is not None]
        own = figures.seeds_as_one(own, ["disturbance", "layer"], "value")
        disturbances = list(dict.fromkeys(row["disturbance"] for row in own))
        if len(disturbances) > 1:
            written += _by_model(metric, own, out)
        noises = sorted((name for name in disturbances if _is_noise(name)), key=_rho)
        for name in [*noises[:1], *(name for name in disturbances if not _is_noise(name))]:
            written += _by_disturbance(metric, name, own, out)
    return written


def _is_noise(disturbance: str) -> bool:
    return disturbance.startswith("noise ")


def _rho(disturbance: str) -> float:
    return float(disturbance.removeprefix("noise "))


def label_of(disturbance: str) -> str:
    """What a disturbance is called in legends."""
    return f"\u03c1 = {_rho(disturbance):g}" if _is_noise(disturbance) else disturbance


def _by_model(metric: str, rows: Sequence[Row], out: Path) -> list[Path]:
    models = list(dict.fromkeys(row["model"] for row in rows))
    n_columns = 1 if len(models) < 5 else 2
    n_rows = -(-len(models) // n_columns)
    width = figures.COLUMN_IN if n_columns == 1 else figures.PAGE_IN
    figure = figures.new_figure(width_in=width, height_in=0.3 + _PANEL_IN * n_rows)
    axes = figure.subplots(n_rows, n_columns, squeeze=False, sharey=True).flatten()
    for axis in axes[len(models) :]:
        axis.set_axis_off()
    order = [label_of(name) for name in dict.fromkeys(row["disturbance"] for row in rows)]
    for axis, model in zip(axes, models, strict=False):
        own = [row for row in rows if row["model"] == model]
        _draw(axis, own, "disturbance", order, title=model)
    most = max(axes[: len(models)], key=lambda axis: len(axis.get_legend_handles_labels()[1]))
    figures.add_legend(figure, most, columns=5)
    return figures.save(figure, out / f"{metric}_by_layer", rows)


def _by_disturbance(metric: str, disturbance: str, rows: Sequence[Row], out: Path) -> list[Path]:
    own = [row for row in rows if row["disturbance"] == disturbance]
    figure = figures.new_figure()
    axis = figure.subplots()
    _draw(axis, own, "model", None, title=f"{label_of(disturbance)}, {own[0]['utterances']} utterances")
    figures.add_legend(figure, axis)
    return figures.save(figure, out / f"{metric}_{disturbance.replace(' ', '_')}", own)


def _draw(axis: Any, rows: Sequence[Row], of: str, order: Sequence[str] | None, *, title: str) -> None:
    """A line for each value of a column, against the layer."""
    places = {layer: place for place, layer in enumerate(ordered(row["layer"] for row in rows))}
    lines: dict[str, Any] = {}
    bands: dict[str, Any] = {}
    for name in dict.fromkeys(row[of] for row in rows):
        own = sorted((row for row in rows if row[of] == name), key=lambda row: places[row["layer"]])
        label = label_of(name) if of == "disturbance" else name
        lines[label] = ([places[row["layer"]] for row in own], [row["value"] for row in own])
        ends = zip(*((_or_nan(row["low"]), _or_nan(row["high"])) for row in own), strict=True)
        bands[label] = tuple(map(list, ends))
    figures.draw_lines(
        axis, lines, bands=bands, order=order, xlabel="layer", ylabel=METRICS[rows[0]["metric"]], title=title
    )
    axis.set_xticks(range(len(places)), list(places))


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value


def tables(rows: Sequence[Row]) -> str:
    """A Markdown table for each metric: models and disturbances by layer."""
    parts = []
    for metric in METRICS:
        own = [row for row in rows if row["metric"] == metric]
        if not own:
            continue
        layers = ordered(row["layer"] for row in own)
        cells: dict[tuple[str, str], dict[str, str]] = {}
        for row in own:
            text = "" if row["value"] is None else f"{row['value']:.3f}"
            cells.setdefault((row["model"], label_of(row["disturbance"])), {})[row["layer"]] = text
        body = [[*key, *(found.get(layer, "") for layer in layers)] for key, found in cells.items()]
        head = ["model", "", *(f"layer {layer}" for layer in layers)]
        heading = f"{METRICS[metric]}, {own[0]['utterances']} utterances"
        parts.append(f"{heading}\n\n{markdown.table(head, body, numbers_from=2)}")
    return "\n\n".join(parts)
