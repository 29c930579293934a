"""Cells as text."""

import math

import pytest

from distill.downstream.table_types import Cell, DifferenceCell


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        (Cell(None, 0.0, 0, "93.96"), ""),
        (Cell(93.214, 0.0, 1, ""), "93.21"),
        (Cell(93.214, 0.4, 3, "", (92.3, 94.07)), "93.21 (0.40, n=3) [92.30, 94.07]"),
        (DifferenceCell(None, 0.0, 0, ""), ""),
        (DifferenceCell(1.2, 0.4, 3, "", (0.31, 2.1)), "+1.20* (0.40, n=3) [+0.31, +2.10]"),
        (DifferenceCell(-1.2, 0.4, 3, "", (-2.1, -0.31)), "-1.20* (0.40, n=3) [-2.10, -0.31]"),
        (DifferenceCell(1.2, math.nan, 2, "", (-0.31, 2.1)), "+1.20 (n=2) [-0.31, +2.10]"),
        (DifferenceCell(1.2, 0.0, 1, ""), "+1.20"),
        (DifferenceCell(0.0, 0.0, 1, "", (0.0, 0.0)), "+0.00 [+0.00, +0.00]"),
    ],
)
def test_a_cell_is_a_mean_a_spread_and_an_interval(cell, text):
    assert cell.ours() == text
