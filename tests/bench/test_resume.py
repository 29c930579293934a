"""Killed and resumed runs: the comparison, and one kill of each kind."""

import json

import pytest
import torch

from bench import resume


@pytest.mark.parametrize(
    ("a", "b", "equal"),
    [
        (torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.0]), True),
        (torch.tensor([0.0]), torch.tensor([-0.0]), False),
        (torch.tensor([1]), torch.tensor([1.0]), False),
        ({"a": [torch.ones(2), 3]}, {"a": [torch.ones(2), 3]}, True),
        ({"a": 1}, {"b": 1}, False),
        ([1, 2], [1], False),
        (None, None, True),
    ],
)
def test_nothing_but_the_same_is_the_same(a, b, equal):
    assert resume.same(a, b) is equal


@pytest.mark.slow
def test_a_killed_run_ends_as_one_that_was_not(tmp_path, capsys):
    path = tmp_path / "resume.json"
    assert resume.main(["--kills", "2", "--json", str(path)]) == 0
    found = json.loads(path.read_text())
    assert found["identical"] and found["kills"] == ["step", "validation"]
    assert all(0 <= n <= resume.VALIDATE_EVERY for n in found["repeated_steps"])
    assert "identical to the last bit" in capsys.readouterr().out
