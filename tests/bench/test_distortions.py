"""The benchmark of distortions runs through, whatever is installed."""

import statistics
import sys

import pytest

from bench import distortions
from bench.contenders import Contender
from tests.paths import GOLDEN

PATH = GOLDEN / "sox_effects.npz"


@pytest.fixture
def small(monkeypatch):
    """Two utterances of a second, and no other libraries."""
    monkeypatch.setattr(distortions, "BATCH", 2)
    monkeypatch.setattr(distortions, "SECONDS", 1)
    monkeypatch.setattr(distortions, "NOISE_SECONDS", 2)
    for name in ("audiomentations", "torch_audiomentations", "pedalboard"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setenv("PATH", "")


def test_every_effect_is_measured_and_missing_libraries_are_named(small, capsys):
    distortions.main(PATH, 2)
    lines = capsys.readouterr().out.splitlines()[1:]
    ours = [line for line in lines if " ours " in line]
    others = [line for line in lines if " ours " not in line and " x 2 " not in line]
    assert len(ours) == len(distortions.OURS) and not any("skipped" in line for line in ours)
    assert others and all("skipped" in line for line in others)
    assert any("no sox binary" in line for line in others)


def test_the_ratio_is_ours_over_theirs(capsys):
    ours, theirs = (Contender(name, lambda: print, 1.0) for name in ("ours", "theirs"))
    ours.cpu_s, theirs.cpu_s = [1 / 100, 1 / 300, 1 / 200], [1 / 50, 1 / 50, 1 / 80]
    distortions.show("reverb", [ours, theirs])
    first, second = capsys.readouterr().out.splitlines()
    assert first.split()[-3:] == ["200", "100", "300"] and second.split()[-1] == "4.00"
    assert statistics.median(theirs.speeds) == pytest.approx(50)
