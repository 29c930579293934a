"""Charts of curves."""

import html
import re

import numpy as np
import pytest

from distill.analysis.curves import COLOURS, curve_chart, style, thin


def test_long_curves_are_averaged_not_sampled():
    values = np.random.default_rng(0).normal(size=4000)
    steps, thinned = thin((np.arange(4000), values))
    assert len(steps) == len(thinned) == 400
    np.testing.assert_allclose(thinned, values.reshape(400, 10).mean(1))
    assert (steps[0], steps[-1]) == (9, 3999)


def test_runs_differ_in_colour_then_in_dashes():
    styles = [style(index) for index in range(3 * len(COLOURS))]
    assert len(set(styles)) == len(styles)
    assert {dashes for _, dashes in styles[: len(COLOURS)]} == {""}


def test_charts_take_their_ink_from_the_page_and_share_no_ids():
    curve = (np.array([1, 2]), np.array([3.0, 4.0]))
    first, second = (
        curve_chart("Loss", "nats", {"<s4>": curve}, {"<s4>": style(0)}, prefix=prefix)
        for prefix in ("distil-train/loss", "adapt-train/loss")
    )
    assert first.startswith('<svg class="chart"') and 'aria-label="Loss: &lt;s4&gt;"' in first
    assert "currentColor" in first and "#010203" not in first and COLOURS[0].lower() in first.lower()
    ids = [set(re.findall(r'\bid="([^"]+)"', svg)) for svg in (first, second)]
    assert ids[0] and not ids[0] & ids[1]
    assert set(re.findall(r'(?:href="#|url\(#)([^")]+)', first)) <= ids[0]


@pytest.mark.parametrize(
    "name", [r"a\g<0>b", r"\1", "\\", r"\g<nothing>", "$\\frac{", "\x1b\ud800", '"><script>']
)
def test_a_name_is_neither_a_reference_nor_a_formula_nor_markup(name):
    chart = curve_chart(
        name, "nats", {name: (np.array([1, 2]), np.array([3.0, 4.0]))}, {name: style(0)}, prefix="a"
    )
    shown = "".join(c if c.isprintable() else " " for c in name)
    assert f'aria-label="{html.escape(f"{shown}: {shown}")}"' in chart
    assert "<script>" not in chart and chart.encode()
