"""Figures of a preparation next to the published ones."""

import pytest

from distill.data_prep.corpus import Split
from distill.data_prep.prepared import HOURS_TOLERANCE, SplitResult


@pytest.mark.parametrize(
    "files, hours, check",
    [
        (2703, 5.39, "ok"),
        (2703, 5.64, "ok"),
        (2703, 5.7, "differs: +6% hours"),
        (2700, 5.4, "differs: 3 files fewer"),
        (2704, 1.0, "differs: 1 files more, -81% hours"),
    ],
)
def test_figures_are_compared(files, hours, check):
    split = Split(name="dev-clean", files=2703, hours=5.4)
    assert SplitResult(split=split, utterances=files, files=files, hours=hours, skipped=0).check == check


def test_unpublished_figures_are_not_compared():
    result = SplitResult(split=Split(name="rir"), utterances=3, files=3, hours=1.0, skipped=0)
    assert result.check == "-"


def test_hours_tolerance_covers_librispeech_as_published():
    """The audio of test-other lasts 5.34 h, the paper says 5.1; of dev-other 5.12 h, the paper says 5.3."""
    for published, measured in ((5.1, 5.34), (5.3, 5.12)):
        assert abs(measured / published - 1) < HOURS_TOLERANCE
