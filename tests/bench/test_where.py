"""The parts of a step add up."""

import json

import pytest

from bench import where


def test_parts_of_a_step(tmp_path, capsys):
    path = tmp_path / "where.json"
    words = ["--preset", "mini", "--batch", "2x0.3padded", "--rounds", "1", "--json", str(path)]
    where.main(words)
    found = json.loads(path.read_text())
    parts = {name: ms[0] for name, ms in found["parts_ms"].items()}
    expected = {*where.PARTS.values(), where.STUDENT, where.OTHER, "step"}
    assert parts.keys() == expected and all(ms > 0 for ms in parts.values())
    assert sum(parts.values()) == pytest.approx(2 * parts["step"])
    assert len(found["operators_ms"]) == where.TOP
    assert "| distortions |" in capsys.readouterr().out
