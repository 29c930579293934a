"""The teacher's updates against the reference's."""

import pytest
import torch
from torch import nn

from distill.spiral.ema import alpha, teacher_of, update
from tests.paths import GOLDEN

STORED = torch.load(GOLDEN / "spiral" / "ema.pt", weights_only=True)


def holder(state: dict[str, torch.Tensor]) -> nn.Module:
    """A module with the reference's parameters and buffers (those of its batch norm that are counted)."""
    root = nn.Module()
    for name, value in state.items():
        *path, last = name.split(".")
        module = root
        for part in path:
            if not hasattr(module, part):
                module.add_module(part, nn.Module())
            module = module.get_submodule(part)
        if last.startswith(("running", "num_batches")):
            module.register_buffer(last, value.clone())
        else:
            module.register_parameter(last, nn.Parameter(value.clone()))
    return root


@pytest.mark.parametrize("name", ["base", "large"])
def test_schedule(name):
    table = STORED["tables"][name]
    options = {"base": table["base"], "final": table["final"], "steps": table["total"]}
    assert [alpha(t, **options) for t in table["t"]] == table["alpha"]


def test_updates():
    schedule = {name: STORED["schedule"][name] for name in ("base", "final", "steps")}
    teacher = holder(STORED["teacher_at_0"])
    for step in STORED["steps"]:
        assert alpha(step["step"], **schedule) == step["alpha"]
        student = holder(step["student"])
        update(teacher, student, step["alpha"])
        for name, expected in step["teacher"].items():
            torch.testing.assert_close(teacher.state_dict()[name], expected, rtol=2e-7, atol=2e-7)
        assert all(torch.equal(student.state_dict()[name], x) for name, x in step["student"].items())


def test_a_teacher_does_not_drift_where_alpha_is_1_in_float32():
    student = nn.Linear(50, 50)
    teacher = teacher_of(student)
    for _ in range(2000):
        update(teacher, student, 1 - 1e-7)
    assert torch.equal(teacher.weight, student.weight)


def test_the_teacher_is_a_float32_copy_without_gradients_of_a_student_in_any_precision():
    student = nn.Linear(3, 4).bfloat16()
    teacher = teacher_of(student)
    assert all(p.dtype == torch.float32 and not p.requires_grad for p in teacher.parameters())
    before = teacher.weight.clone()
    with torch.no_grad():
        student.weight += 1
    assert torch.equal(teacher.weight, before)
    update(teacher, student, 0.9)
    torch.testing.assert_close(teacher.weight, 0.9 * before + 0.1 * student.weight.float())
    assert all(p.requires_grad for p in student.parameters())


def test_what_does_not_belong_together_is_refused():
    with pytest.raises(ValueError, match="no parameter weight of shape"):
        update(nn.Linear(2, 2), nn.Linear(3, 2), 0.9)
    with pytest.raises(ValueError, match="weight must be in float32"):
        update(nn.Linear(2, 2).bfloat16(), nn.Linear(2, 2), 0.9)
