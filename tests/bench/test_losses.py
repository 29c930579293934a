"""The trainings that are compared do compute the same."""

import json

import pytest

from bench import losses


def test_ours_follows_the_plain_loop(tmp_path, capsys):
    path = tmp_path / "losses.json"
    assert losses.main(["--steps", "3", "--batch", "2x0.3padded", "--json", str(path)]) == 0
    found = json.loads(path.read_text())
    assert found["apart"] < 1e-4 and found["noise"] == 0
    first, *_, last = found["losses"]["ours"]
    assert first != last
    assert "within what precision changes" in capsys.readouterr().out


def test_the_distance_is_relative_and_the_largest():
    assert losses.largest([1.0, 2.2], [1.0, 2.0]) == pytest.approx(0.1)
