"""Recipes of every kind, from the outside: what is made, and what is left alone."""

import pytest
import torch

from distill.checkpoints import inspect, load_student, load_teacher
from distill.config import load
from distill.errors import UserError
from distill.run import run
from tests.distill.training.runs import differs, tiny, weights


def test_the_row_of_the_teacher_makes_a_release(mini_data, tmp_path):
    released = run(load("t1", ["teacher=random:mini", "seed=5"]), tmp_path)
    assert released == tmp_path / "teacher.safetensors"
    torch.manual_seed(5)
    expected = load_teacher("random:mini").state_dict()
    assert differs(load_teacher(tmp_path).state_dict(), expected) == 0
    assert inspect(tmp_path).provenance["recipe"] == "t1"
    # The next row takes it from there.
    run(tiny(mini_data, f"teacher={tmp_path}", name="s1"), tmp_path / "student")
    start = load_student(tmp_path / "student").encoder.state_dict()
    assert differs(start, {name: expected[name] for name in start}) < 1e-3  # two steps of warm-up away


def test_a_finished_run_is_resumed_to_no_effect(finished):
    before = weights(finished), load_student(finished).state_dict()
    run(load(str(finished / "recipe.yaml")), finished, resume=True)
    assert differs(before[0], weights(finished)) == 0
    assert differs(before[1], load_student(finished).state_dict()) == 0


def test_a_published_teacher_is_not_written_over_a_run(mini_data, tmp_path):
    """The folder would have the recipe of one and the weights of the other."""
    out = tmp_path / "run"
    run(tiny(mini_data), out)
    before = (out / "recipe.yaml").read_bytes()
    with pytest.raises(UserError, match="holds a run already"):
        run(load("t1", ["teacher=random:mini"]), out)
    assert (out / "recipe.yaml").read_bytes() == before and not (out / "teacher.json").exists()
    for _ in range(2):  # again is fine
        assert run(load("t1", ["teacher=random:mini"]), tmp_path / "t1").exists()
