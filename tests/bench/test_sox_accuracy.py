"""The figures that `python -m bench sox-accuracy` prints, and that the printing can say no."""

import numpy as np
import pytest

from bench import sox, sox_accuracy
from bench.sox_accuracy import Figure
from tests.paths import GOLDEN

PATH = GOLDEN / "sox_effects.npz"
EFFECTS = {name: value for name, value in np.load(PATH).items()}


def test_every_figure_keeps_its_bound():
    figures = sox_accuracy.stored(EFFECTS)
    assert len(figures) == 5 + 3 + 4 * 3 + 1
    assert [str(figure) for figure in figures if not figure.kept] == []


def test_nothing_done_and_another_effect_miss_their_bounds():
    swapped = EFFECTS | {
        "reverb_room0": EFFECTS["input"],
        "bandreject_1500_1600": EFFECTS["bandreject_3000_6500"],
        "pitch_300": EFFECTS["pitch_-300"],
    }
    missed = {figure.case for figure in sox_accuracy.stored(swapped) if not figure.kept}
    assert missed == {"reverb_room0", "bandreject_1500_1600", "pitch_300"}


def test_measures():
    x = np.array([3.0, 4.0], dtype=np.float32)
    assert sox_accuracy.snr_db(x, x * 0.9) == pytest.approx(20, abs=1e-4)
    assert not Figure("a", "b", 1.0, at_least=2).kept and not Figure("a", "b", 3.0, at_most=2).kept
    assert str(Figure("a", "b", 1.0, at_least=2)).endswith("1.000  >= 2  MISSED")
    assert Figure("a", "b", float("1e9")).kept


def test_without_the_binary_the_random_draws_are_skipped(monkeypatch, capsys):
    monkeypatch.setattr(sox, "available", lambda: False)
    sox_accuracy.main(PATH, 1)
    assert "skipped, no sox binary" in capsys.readouterr().out
