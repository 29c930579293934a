"""Scores with their intervals."""

import pytest

from distill.analysis.probes.records import with_interval
from distill.downstream.bootstrap import interval


def test_scores_are_ratios_of_sums():
    outcomes = {"a": (1.0, 4.0), "b": (2.0, 2.0), "c": (0.0, 6.0)}
    rate = with_interval(outcomes, percent=True)
    assert rate == {"value": 25.0, **dict(zip(("low", "high"), interval([[outcomes]]), strict=True))}
    plain = with_interval(outcomes, percent=False)
    assert plain["value"] == 0.25 and plain["high"] == pytest.approx(rate["high"] / 100)
