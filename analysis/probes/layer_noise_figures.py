"""What noise after single layers did: Figs. 9 to 12 of the robustness analysis of ASR models, and tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from distill import markdown
from distill.analysis import figures
from distill.analysis.layered import ordered
from distill.analysis.probes.judges import METRICS
from distill.analysis.record import Row

_PANEL_IN = 1.7
_SYMBOL = {"additive": "h + \u03c3g", "multiplicative": "h(1 + \u03c3g)"}


def draw(rows: Sequence[Row], out: Path) -> list[Path]:
    """For each metric and noise, two figures with a panel for each model.

    `NOISE_METRIC_by_layer`: against the layer, a line for each sigma (Figs. 9 and 11);
    `NOISE_METRIC_by_sigma`: against sigma, a line for each layer (Figs. 10 and 12).

    Returns:
        The files.
    """
    written = []
    for metric, noise, every in _parts(rows):
        own = figures.seeds_as_one(every, ["layer", "sigma"], "value")
        models = list(dict.fromkeys(row["model"] for row in own))
        sizes = {"width_in": figures.COLUMN_IN if len(models) < 5 else figures.PAGE_IN}
        n_columns = 1 if len(models) < 5 else 2
        n_rows = -(-len(models) // n_columns)
        order = ordered(row["layer"] for row in own)
        sigmas = sorted({row["sigma"] for row in own})
        for of_layers in (True, False):
            figure = figures.new_figure(height_in=0.3 + _PANEL_IN * n_rows, **sizes)
            axes = figure.subplots(n_rows, n_columns, squeeze=False).flatten()
            for axis in axes[len(models) :]:
                axis.set_axis_off()
            for axis, model in zip(axes, models, strict=False):
                panel = [row for row in own if row["model"] == model]
                _by_layer(axis, panel, model, sigmas) if of_layers else _by_sigma(axis, panel, model, order)
            most = max(axes[: len(models)], key=lambda axis: len(axis.get_legend_handles_labels()[1]))
            figures.add_legend(figure, most, columns=4 if of_layers else 7)
            stem = out / f"{noise}_{metric}_by_{'layer' if of_layers else 'sigma'}"
            written += figures.save(figure, stem, own)
    return written


def _parts(rows: Sequence[Row]) -> Iterator[tuple[str, str, list[Row]]]:
    """By metric and noise, in the order of `METRICS`, rows with more than one sigma."""
    for metric in METRICS:
        for noise in _SYMBOL:
            own = [row for row in rows if row["metric"] == metric and row["noise"] == noise]
            if own:
                yield metric, noise, own


def _by_layer(axis: Any, rows: Sequence[Row], model: str, sigmas: Sequence[float]) -> None:
    layers = list(dict.fromkeys(row["layer"] for row in rows))
    lines: dict[str, Any] = {}
    bands: dict[str, Any] = {}
    labels = {sigma: f"\u03c3 = {sigma:g}" for sigma in sigmas}
    for sigma in sorted({row["sigma"] for row in rows}):
        own = {row["layer"]: row for row in rows if row["sigma"] == sigma}
        x = [place for place, layer in enumerate(layers) if layer in own]
        found = [own[layers[place]] for place in x]
        label = labels[sigma]
        lines[label] = (x, [row["value"] for row in found])
        bands[label] = ([row["low"] for row in found], [row["high"] for row in found])
    title = f"{model}: {_SYMBOL[rows[0]['noise']]}"
    ylabel = METRICS[rows[0]["metric"]]
    order = list(labels.values())
    figures.draw_lines(
        axis, lines, bands=bands, order=order, xlabel="layer with the noise", ylabel=ylabel, title=title
    )
    axis.set_xticks(range(len(layers)), layers)


def _by_sigma(axis: Any, rows: Sequence[Row], model: str, order: Sequence[str]) -> None:
    lines: dict[str, Any] = {}
    for layer in dict.fromkeys(row["layer"] for row in rows):
        own = sorted((row for row in rows if row["layer"] == layer), key=lambda row: row["sigma"])
        lines[layer] = ([row["sigma"] for row in own], [row["value"] for row in own])
    title = f"{model}: {_SYMBOL[rows[0]['noise']]}"
    ylabel = METRICS[rows[0]["metric"]]
    figures.draw_layers(axis, lines, order, xlabel="standard deviation \u03c3", ylabel=ylabel, title=title)


def tables(rows: Sequence[Row]) -> str:
    """A Markdown table for each metric and noise: models and layers by sigma."""
    parts = []
    for metric, noise, own in _parts(rows):
        sigmas = sorted({row["sigma"] for row in own})
        keys = dict.fromkeys((row["model"], row["layer"]) for row in own)
        cells = [[*key, *(_cell(own, key, sigma) for sigma in sigmas)] for key in keys]
        head = ["model", "layer", *(f"\u03c3 = {sigma:g}" for sigma in sigmas)]
        heading = f"{METRICS[metric]}, {noise} noise, {own[0]['utterances']} utterances"
        parts.append(f"{heading}\n\n{markdown.table(head, cells, numbers_from=2)}")
    parts.append("In brackets, for the largest \u03c3: 95 % intervals over utterances.")
    return "\n\n".join(parts)


def _cell(rows: Sequence[Row], key: tuple[str, str], sigma: float) -> str:
    found = [row for row in rows if (row["model"], row["layer"], row["sigma"]) == (*key, sigma)]
    if not found:
        return ""
    (row,) = found
    digits = 1 if "%" in METRICS[row["metric"]] else 3
    value, low, high = (f"{row[name]:.{digits}f}" for name in ("value", "low", "high"))
    return f"{value} [{low}, {high}]" if sigma == max(each["sigma"] for each in rows) else value
