"""The look of all figures: as wide as a column of a paper, readable in greyscale, the data beside them.

Names of models and conditions come from users: `plain` keeps matplotlib from reading "$" as mathematics and
from leaving names that begin with "_" out of legends.
"""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from distill.analysis.record import Row, write_csv

COLUMN_IN = 3.39
"""Width of a column in the templates of Interspeech and ICASSP, inches."""
PAGE_IN = 7.0
"""Width of both columns."""

# Okabe and Ito's palette, dark and light in turn, so that neighbours differ in greyscale too.
COLOURS = ("#0072B2", "#E69F00", "#000000", "#56B4E9", "#D55E00", "#009E73", "#CC79A7", "#7F7F7F")
MARKERS = "osD^vP*X"
DASHES = ("-", "--", ":", "-.")
_LETTER = 0.6  # width of an average letter of DejaVu Sans, in sizes of the font
_HANDLE_PT = 34  # a legend's line and the space around its label

# Of bars: faces on which black hatches show, light and less light in turn.
_FACES = ("#9ECAE1", "#F0F0F0", "#FDD0A2", "#A9A9A9", "#E5F5E0", "#DADAEB")
_HATCHES = ("", "////", "....", "xxxx", "\\\\\\\\", "||||", "oo", "++")

Series = Mapping[str, tuple[Sequence[float], Sequence[float]]]
"""By label, x and y; or the lower and the upper ends of intervals."""


def style(index: int) -> dict[str, Any]:
    """How the line of a series is drawn: colour, marker and dashes differ; no two of 32 are the same."""
    return {
        "color": COLOURS[index % len(COLOURS)],
        "marker": MARKERS[index % len(MARKERS)],
        "linestyle": DASHES[(index + index // len(COLOURS)) % len(DASHES)],
        "markersize": 3.5,
        "linewidth": 1.2,
    }


def plain(text: str) -> str:
    """A text that matplotlib shows as it is, in one line."""
    shown = "".join(letter if letter.isprintable() else " " for letter in text).replace("$", r"\$")
    return f"\u200b{shown}" if shown.startswith("_") else shown


def by_seed(names: Iterable[str]) -> dict[str, list[str]]:
    """Models that are one line of a figure: those whose names differ only in a `-seedN` at the end.

    Example:
        >>> by_seed(["teacher", "s1-seed0", "s1-seed1"])
        {'teacher': ['teacher'], 's1': ['s1-seed0', 's1-seed1']}
    """
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(re.sub(r"-seed\d+$", "", name), []).append(name)
    return {name if len(members) > 1 else members[0]: members for name, members in groups.items()}


def seeds_as_one(
    rows: Sequence[Row], key: Sequence[str], value: str, *, low: str = "low", high: str = "high"
) -> list[Row]:
    """Rows for a figure: models that differ in their seed (`by_seed`) are one, the average.

    Args:
        rows: with a column "model".
        key: columns that tell the rows of a model apart.
        value: column that is averaged; other numbers, such as times, are the first model's.
        low: column of the lower end of an interval; of several seeds, the lowest value.
        high: of the upper end; the highest value.
    """
    found: list[Row] = []
    for group, members in by_seed(dict.fromkeys(row["model"] for row in rows)).items():
        own = [row for row in rows if row["model"] in members]
        if len(members) == 1:
            found += own
            continue
        for place in dict.fromkeys(tuple(row[name] for name in key) for row in own):
            same = [row for row in own if tuple(row[name] for name in key) == place]
            values = [row[value] for row in same if row[value] is not None]
            ends = {value: mean(values), low: min(values), high: max(values)} if values else {}
            found.append(same[0] | {"model": group, "models": len(same)} | ends)
    return found


def wrapped(text: str, width_in: float, *, size: float = 8) -> str:
    """`plain`, broken into lines that fit a width, for letters of a size in points."""
    letters = max(8, int(72 * width_in / (_LETTER * size)))
    return "\n".join(plain(line) for part in text.split("\n") for line in textwrap.wrap(part, letters))


def new_figure(*, width_in: float = COLUMN_IN, height_in: float = 2.3) -> Any:
    """An empty figure of `matplotlib.figure.Figure`; text has the size of a caption."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width_in, height_in), layout="constrained")


def draw_lines(
    axis: Any,
    series: Series,
    *,
    bands: Series | None = None,
    order: Sequence[str] | None = None,
    xlabel: str,
    ylabel: str,
    title: str = "",
) -> None:
    """Draw a line for each series.

    Args:
        axis: of matplotlib.
        series: by label, x and y.
        bands: by label, lower and upper ends of intervals around y.
        order: all labels of the figure, so that one looks the same in every panel; None: those of `series`.
        xlabel: with the unit.
        ylabel: with the unit.
        title: above the axis.
    """
    order = list(series) if order is None else order
    for label, (x, y) in series.items():
        index = order.index(label)
        axis.plot(x, y, label=plain(label), **style(index))
        if bands and label in bands:
            axis.fill_between(x, *bands[label], color=style(index)["color"], alpha=0.15, linewidth=0)
    describe(axis, xlabel=xlabel, ylabel=ylabel, title=title)


def draw_layers(
    axis: Any, series: Series, order: Sequence[str], *, xlabel: str, ylabel: str, title: str = ""
) -> None:
    """Draw a line for each layer, from the first (dark) to the last (light), with a marker of its own.

    Args:
        axis: of matplotlib.
        series: by name of the layer, x and y.
        order: all layers of the figure: one looks the same in every panel.
        xlabel: with the unit.
        ylabel: with the unit.
        title: above the axis.
    """
    from matplotlib import colormaps

    scale = colormaps["viridis"]  # its lightness grows from end to end
    for label, (x, y) in series.items():
        index = order.index(label)
        colour = scale(0.9 * index / max(1, len(order) - 1))
        axis.plot(x, y, label=plain(label), **style(index) | {"color": colour, "linewidth": 1.0})
    describe(axis, xlabel=xlabel, ylabel=ylabel, title=title)


def draw_bars(
    axis: Any,
    groups: Mapping[str, Mapping[str, float]],
    *,
    ylabel: str,
    title: str = "",
    labels: Mapping[tuple[str, str], str] | None = None,
) -> None:
    """Draw a bar for each series in each group, told apart by hatches too.

    Args:
        axis: of matplotlib.
        groups: by group and series, the value; "n/a" stands where a group lacks a series, or a value is NaN.
        ylabel: with the unit.
        title: above the axis.
        labels: by group and series, a text above the bar.
    """
    series = list(dict.fromkeys(name for values in groups.values() for name in values))
    width = 0.8 / max(1, len(series))
    width_pt, height_pt = (
        72 * factor * edge for factor, edge in zip((0.85, 0.6), _panel_in(axis), strict=True)
    )
    slot_pt = width * width_pt / max(1, len(groups))
    texts = {key: text for key, text in (labels or {}).items() if text}
    longest_pt = max([3, *map(len, texts.values())]) * 6 * _LETTER
    upright = longest_pt > slot_pt
    room_pt = min((longest_pt if upright else 7) + 4, height_pt / 2) if texts else 4  # above the bars
    size = max(4.0, min(6.0, 0.75 * slot_pt)) if upright else 6.0
    written = {
        "ha": "center",
        "fontsize": size,
        "rotation": 90 if upright else 0,
        "textcoords": "offset points",
    }
    for index, name in enumerate(series):
        places = [group + (index - (len(series) - 1) / 2) * width for group in range(len(groups))]
        values = [float(found.get(name, math.nan)) for found in groups.values()]
        look = {"color": _FACES[index % len(_FACES)], "hatch": _HATCHES[index % len(_HATCHES)]}
        axis.bar(places, values, width, label=plain(name), edgecolor="black", linewidth=0.6, **look)
        for place, value, group in zip(places, values, groups, strict=True):
            missing, below = math.isnan(value), value < 0
            text = "n/a" if missing else plain(texts.get((group, name), ""))
            at = (place, 0.0 if missing else value)
            side = {"xytext": (0, -2 if below else 2), "va": "top" if below else "bottom"}
            axis.annotate(text, at, **written, **side)
    axis.axhline(0, color="black", linewidth=0.6)
    axis.margins(x=0.03, y=room_pt / (height_pt - room_pt))
    describe(axis, xlabel="", ylabel=ylabel, title=title)
    axis.grid(visible=False, axis="x")
    crowded = max(map(len, groups), default=0) * 7 * _LETTER > width_pt / max(1, len(groups))
    turned = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"} if crowded else {}
    axis.set_xticks(range(len(groups)), [plain(group) for group in groups], fontsize=7, **turned)


def draw_scatter(
    axis: Any, points: Sequence[tuple[float, float, str]], *, xlabel: str, ylabel: str, title: str = ""
) -> None:
    """Draw points with a label beside each; labels keep off points and each other where there is room.

    Call it last for an axis whose limits are to be changed: where labels go depends on them.

    Args:
        axis: of matplotlib.
        points: x, y and label; those that are not finite are named in a line below the title.
        xlabel: with the unit.
        ylabel: with the unit.
        title: above the axis.
    """
    shown = [point for point in points if math.isfinite(point[0]) and math.isfinite(point[1])]
    if lacking := [label for x, y, label in points if not (math.isfinite(x) and math.isfinite(y))]:
        title = f"{title}\nwithout a value: {', '.join(lacking)}".strip()
    axis.plot([x for x, _, _ in shown], [y for _, y, _ in shown], "o", color=COLOURS[0], markersize=3)
    axis.margins(0.12)
    describe(axis, xlabel=xlabel, ylabel=ylabel, title=title)
    axis.figure.draw_without_rendering()  # now the axis has its size
    pixels_per_pt = axis.figure.dpi / 72
    spots = axis.transData.transform([point[:2] for point in shown]) / pixels_per_pt if shown else []
    offsets = _label_offsets(
        [(float(x), float(y)) for x, y in spots],
        [6 * _LETTER * len(label) + 1 for _, _, label in shown],
        [edge / pixels_per_pt for edge in axis.bbox.extents],
    )
    for (x, y, label), offset in zip(shown, offsets, strict=True):
        line = {"arrowstyle": "-", "linewidth": 0.4, "color": "gray", "shrinkA": 0, "shrinkB": 1}
        far = math.hypot(*offset) > 10
        axis.annotate(
            plain(label),
            (x, y),
            xytext=offset,
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=6,
            arrowprops=line if far else None,
        )


def _label_offsets(
    spots: Sequence[tuple[float, float]], widths: Sequence[float], frame: Sequence[float]
) -> list[tuple[float, float]]:
    """Where the middles of labels go, seen from their points: each in turn where it covers least.

    Args:
        spots: of the points, in pt.
        widths: of the labels, in pt.
        frame: left, bottom, right and top of the axis, in pt.
    """
    taken = [(x - 2, y - 2, x + 2, y + 2) for x, y in spots]
    offsets = []
    for (x, y), width in zip(spots, widths, strict=True):
        best = (math.inf, (0.0, 0.0), (0.0, 0.0, 0.0, 0.0))
        for radius in (1, 6, 12, 20):
            for turn in range(12):
                angle = math.pi / 2 - turn * math.pi / 6
                dx = (width / 2 + 1 + radius) * math.cos(angle)
                dy = (4.5 + radius) * math.sin(angle)
                box = (x + dx - width / 2, y + dy - 3.5, x + dx + width / 2, y + dy + 3.5)
                cost = sum(_overlap(box, other) for other in taken) + 0.1 * radius
                cost += (box[2] - box[0]) * (box[3] - box[1]) - _overlap(box, frame)
                if cost < best[0]:
                    best = (cost, (dx, dy), box)
        offsets.append(best[1])
        taken.append(best[2])
    return offsets


def _overlap(one: Sequence[float], other: Sequence[float]) -> float:
    """Area that two boxes (left, bottom, right, top) share."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(0.0, width) * max(0.0, height)


def describe(axis: Any, *, xlabel: str, ylabel: str, title: str = "") -> None:
    """Labels, title, size of ticks and the grid of an axis."""
    width_in, height_in = _panel_in(axis)
    axis.set_xlabel(wrapped(xlabel, 0.8 * width_in), fontsize=8)
    axis.set_ylabel(wrapped(ylabel, 0.8 * height_in), fontsize=8)
    axis.set_title(wrapped(title, 0.8 * width_in), fontsize=8)
    axis.tick_params(labelsize=7)
    axis.grid(alpha=0.3, linewidth=0.5)
    axis.set_axisbelow(True)


def _panel_in(axis: Any) -> tuple[float, float]:
    """Width and height of the part of the figure that an axis has, inches."""
    place, size = axis.get_subplotspec(), axis.figure.get_size_inches()
    rows, columns = place.get_gridspec().get_geometry() if place else (1, 1)
    return float(size[0]) / columns, float(size[1]) / rows


def add_legend(figure: Any, axis: Any, *, columns: int = 3) -> None:
    """The labels of an axis below the figure, which grows by their height.

    Args:
        figure: of matplotlib.
        axis: whose labels; those of other axes with the same series need no second entry.
        columns: at most so many, fewer if the labels are long.
    """
    handles, labels = axis.get_legend_handles_labels()
    if not labels:
        return
    width_pt = 72 * figure.get_figwidth()
    longest = max(map(len, labels)) * 7 * _LETTER + _HANDLE_PT
    columns = max(1, min(columns, len(labels), int(width_pt / longest)))
    letters = int((width_pt / columns - _HANDLE_PT) / (7 * _LETTER))
    labels = [_broken(label, letters) for label in labels]
    parts = [labels[start : start + -(-len(labels) // columns)] for start in range(0, len(labels), columns)]
    lines = max(sum(label.count("\n") + 1 for label in part) for part in parts)
    figure.set_figheight(figure.get_figheight() + lines * 11 / 72)
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, fontsize=7, frameon=False)


def _broken(label: str, letters: int) -> str:
    """A label in lines; what `plain` wrote for a dollar stays whole."""
    whole = label.replace(r"\$", "\ue000")
    return "\n".join(textwrap.wrap(whole, letters)).replace("\ue000", r"\$") or label


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
