"""What students cost a device: every student is made, exported, run and put into the table."""

import pytest

from bench import students
from distill.student import Student


@pytest.mark.slow
def test_costs_of_two_students():
    pytest.importorskip("onnxscript")
    wanted = {"cnn": {"targets": (2, 4, 6)}, "mel": {"front": "mel", "targets": (2, 4, 6)}}
    found = students.run(wanted, seconds=1, rounds=2, teacher="random:mini")
    assert list(found) == ["cnn", "mel"]
    for figures in found.values():
        assert len(figures["rtf"]["int8"]) == len(figures["rtf"]["float32"]) == 2
        assert 0 < figures["megabytes"]["int8"] < figures["megabytes"]["float32"]
        assert figures["parameters"] > 0 and figures["gmac_per_s"] > 0
    text = students.to_markdown(found)
    assert text.splitlines()[2].startswith("| cnn |")
    assert "| 1.00 |" in text.splitlines()[2]  # beside itself


def test_every_student_of_the_table_can_be_made():
    from distill.checkpoints import load_teacher

    teacher = load_teacher("random:base")
    for name, options in students.STUDENTS.items():
        student = Student.from_teacher(teacher, **options)
        assert student.encoder.config.layers == options.get("layers", 2), name
