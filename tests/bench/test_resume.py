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


def step(number, *ids, epoch=0):
    return {"step": number, "epoch": epoch, "ids": list(ids)}


def test_the_lineage_leaves_out_what_was_lost():
    began, lost = [{"began": 0}, step(1, "a", "b")], [step(2, "c"), {"died": 2, "place": "step"}]
    again = [{"began": 1, "after_s": 1.0}, step(2, "c"), step(3, "a", epoch=1)]
    found = resume.lineage([*began, *lost, *again])
    assert [one["ids"] for one in found] == [["a", "b"], ["c"], ["a"]] and resume.twice(found) == []
    assert resume.twice([*found, step(4, "a", epoch=1)]) == ["a in epoch 1"]
    with pytest.raises(RuntimeError, match=r"steps are missing or out of order: \[1, 3\]"):
        resume.lineage([*began, step(3, "d")])


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "kills"), [("distil", 3), ("adapt", 1), ("spiral", 1), ("heads", 2)])
def test_a_killed_run_ends_as_one_that_was_not(tmp_path, capsys, kind, kills):
    path = tmp_path / "resume.json"
    assert resume.main(["--kills", str(kills), "--kind", kind, "--json", str(path)]) == 0
    found = json.loads(path.read_text())
    assert found["identical"] and found["kills"] == ["step", "validation", "saving"][:kills]
    assert all(0 <= n <= resume.VALIDATE_EVERY for n in found["repeated_steps"])
    assert found["utterances"] > found["steps"] and not found["twice"]
    assert "identical to the last bit" in capsys.readouterr().out
