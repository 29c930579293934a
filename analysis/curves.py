"""Curves of training as SVG charts in the colours of the page around them."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from html import escape
from typing import Any

import numpy as np

from distill.analysis.run_logs import Curve
from distill.markdown import on_one_line

# Okabe and Ito's palette, which colour-blind readers tell apart; black and yellow would vanish on one theme.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9")
DASHES = ("", "6 3", "2 3", "8 3 2 3")
_MOST_POINTS = 400
_INK = "#010203"  # drawn with, then replaced by the page's text colour


def style(index: int) -> tuple[str, str]:
    """Colour and dashes of a run: all colours with one pattern of dashes, then with the next."""
    return COLOURS[index % len(COLOURS)], DASHES[index // len(COLOURS) % len(DASHES)]


def thin(curve: Curve) -> Curve:
    """At most `_MOST_POINTS` points: means over consecutive ones."""
    if len(curve[0]) <= _MOST_POINTS:
        return curve
    steps, values = (np.array_split(part, _MOST_POINTS) for part in curve)
    return np.array([part[-1] for part in steps]), np.array([part.mean() for part in values])


def curve_chart(
    title: str,
    unit: str,
    curves: Mapping[str, Curve],
    styles: Mapping[str, tuple[str, str]],
    *,
    prefix: str,
) -> str:
    """Draw curves as an SVG that takes its text colour from the page.

    Args:
        title: plain text.
        unit: of the values.
        curves: by run.
        styles: by run, colour and dashes.
        prefix: makes the ids inside unique on the page.
    """
    import matplotlib
    from matplotlib.figure import Figure

    ink = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
    look: Any = dict.fromkeys(ink, _INK)
    look |= {"svg.fonttype": "none", "font.family": "sans-serif", "font.size": 11, "svg.hashsalt": prefix}
    with matplotlib.rc_context(look):
        figure = Figure(figsize=(4.8, 3.1), layout="constrained")
        axes = figure.subplots()
        for label, curve in curves.items():
            colour, dashes = styles[label]
            pattern = [float(number) / 2 for number in dashes.split()]
            steps, values = thin(curve)
            marker = "o" if len(steps) <= 20 else ""
            (drawn,) = axes.plot(steps, values, color=colour, linewidth=1.6, marker=marker, markersize=4)
            if pattern:
                drawn.set_dashes(pattern)
        axes.set_title(on_one_line(title), loc="left", fontsize=12, fontweight="bold", parse_math=False)
        axes.set_xlabel("updates")
        axes.set_ylabel(unit)
        axes.set_xlim(left=0)
        axes.grid(alpha=0.15, color=_INK)
        axes.spines[["top", "right"]].set_visible(False)
        axes.locator_params(axis="x", nbins=5)
        text = io.StringIO()
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(text, format="svg", transparent=True, metadata=nothing)
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :].replace(_INK, "currentColor")
    unique = re.sub(r"\W+", "-", prefix)
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{unique}-", svg)
    label = escape(on_one_line(f"{title}: {', '.join(curves)}"))
    head, end, rest = svg.partition(">")
    head = re.sub(r' (width|height)="[^"]*"', "", head.removeprefix("<svg"))
    return f'<svg class="chart" role="img" aria-label="{label}"{head}{end}{rest}'
