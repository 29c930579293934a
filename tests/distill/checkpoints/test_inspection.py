"""What `distill inspect` says."""

import torch

from distill.checkpoints import export, inspect
from distill.hubert import HubertEncoder
from distill.student import Student


def test_a_student_and_its_encoder(tmp_path):
    torch.manual_seed(0)
    student = Student.from_teacher(HubertEncoder.from_preset("mini"), layers=2, targets=(2, 6))
    native = inspect(export(student, "native", tmp_path / "native", provenance={"recipe": "s4"}))
    assert (native.format, native.kind, native.layers, native.targets) == ("native", "student", 2, (2, 6))
    assert native.parameters_total > native.parameters_encoder
    lines = native.lines()
    assert lines[-1].split() == ["provenance:", "recipe", "s4"]
    assert any(line.split() == ["predicts", "teacher", "layers", "2,", "6"] for line in lines)
    encoder = inspect(export(student, "huggingface", tmp_path / "hf"))
    assert (encoder.format, encoder.kind, encoder.targets) == ("huggingface", "student", None)
    assert encoder.parameters_total == encoder.parameters_encoder == native.parameters_encoder


def test_versions_and_other_nested_provenance_have_a_line_each(tmp_path):
    teacher = HubertEncoder.from_preset("mini")
    provenance = {"versions": {"torch": "2.11.0", "lhotse": "1.33"}}
    lines = inspect(export(teacher, "native", tmp_path, provenance=provenance)).lines()
    assert [line.split()[1:] for line in lines[-2:]] == [
        ["versions", "torch", "2.11.0"],
        ["versions", "lhotse", "1.33"],
    ]
