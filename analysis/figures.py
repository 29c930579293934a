"""The look of all figures: as wide as a column of a paper, readable in greyscale, the data beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from distill.analysis.record import write_csv

COLUMN_IN = 3.39
"""Width of a column in the templates of Interspeech and ICASSP, inches."""
PAGE_IN = 7.0
"""Width of both columns."""

# Okabe and Ito's palette, dark and light in turn, so that neighbours differ in greyscale too.
COLOURS = ("#0072B2", "#E69F00", "#000000", "#56B4E9", "#D55E00", "#009E73", "#CC79A7", "#7F7F7F")
MARKERS = "osD^vP*X"
DASHES = ("-", "--", ":", "-.")


def style(index: int) -> dict[str, Any]:
    """How the line of a series is drawn: colour, marker and dashes all differ."""
    return {
        "color": COLOURS[index % len(COLOURS)],
        "marker": MARKERS[index % len(MARKERS)],
        "linestyle": DASHES[index % len(DASHES)],
        "markersize": 3.5,
        "linewidth": 1.2,
    }


def new_figure(*, width_in: float = COLUMN_IN, height_in: float = 2.3) -> Any:
    """An empty figure of `matplotlib.figure.Figure`; text has the size of a caption."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width_in, height_in), layout="constrained")


def draw_lines(
    axis: Any,
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    bands: Mapping[str, tuple[Sequence[float], Sequence[float]]] | None = None,
    xlabel: str,
    ylabel: str,
    title: str = "",
) -> None:
    """Draw a line for each series.

    Args:
        axis: of matplotlib.
        series: by label, x and y.
        bands: by label, lower and upper ends of intervals around y.
        xlabel: with the unit.
        ylabel: with the unit.
        title: above the axis.
    """
    for index, (label, (x, y)) in enumerate(series.items()):
        axis.plot(x, y, label=label, **style(index))
        if bands and label in bands:
            axis.fill_between(x, *bands[label], color=style(index)["color"], alpha=0.15, linewidth=0)
    axis.set_xlabel(xlabel, fontsize=8)
    axis.set_ylabel(ylabel, fontsize=8)
    axis.set_title(title, fontsize=8)
    axis.tick_params(labelsize=7)
    axis.grid(alpha=0.3, linewidth=0.5)


def add_legend(figure: Any, axis: Any, *, columns: int = 3) -> None:
    """The labels of an axis below the figure."""
    handles, labels = axis.get_legend_handles_labels()
    if labels:
        figure.legend(
            handles,
            labels,
            loc="outside lower center",
            ncols=min(columns, len(labels)),
            fontsize=7,
            frameon=False,
        )


def save(figure: Any, stem: Path, rows: Sequence[Mapping[str, Any]]) -> list[Path]:
    """Write a figure as PNG and PDF, and its data as CSV.

    Args:
        figure: of matplotlib.
        stem: path without suffix.
        rows: what it shows.

    Returns:
        The three files.
    """
    stem.parent.mkdir(parents=True, exist_ok=True)
    paths = [stem.with_name(f"{stem.name}{suffix}") for suffix in (".png", ".pdf", ".csv")]
    figure.savefig(paths[0], dpi=300)
    figure.savefig(paths[1])
    write_csv(paths[2], rows)
    return paths
