"""Recognising what a source is, what is said when it is nothing we read, and what cannot be exported."""

import argparse

import pytest
import torch

import distill
from distill.checkpoints import export, inspect, load_student, load_teacher
from distill.errors import CheckpointError
from distill.hubert import PRESETS, HubertEncoder
from distill.student import Student


def one_line(error: pytest.ExceptionInfo) -> bool:
    return "\n" not in str(error.value)


def test_public_names():
    assert distill.load_teacher is load_teacher and distill.load_student is load_student


def test_random_presets():
    torch.manual_seed(3)
    first = load_teacher("random:mini")
    torch.manual_seed(3)
    second = load_teacher("random:mini")
    assert first.config == PRESETS["mini"] and not first.training
    assert torch.equal(first.projection.weight, second.projection.weight)
    assert inspect("random:mini").format == "random"
    with pytest.raises(CheckpointError, match="no preset 'huge', expected base, large, mini"):
        load_teacher("random:huge")


def test_missing_paths(tmp_path):
    (tmp_path / "hubert_base_ls960.pt").touch()
    with pytest.raises(
        CheckpointError, match=r"does not exist \(did you mean .*hubert_base_ls960\.pt\?\)"
    ) as error:
        load_teacher(tmp_path / "hubert_base_ls690.pt")
    assert one_line(error) and "expected a teacher" in str(error.value)
    with pytest.raises(CheckpointError, match=r"there is no folder .*nowhere either\), expected a student"):
        load_student(tmp_path / "nowhere" / "student.safetensors")


def test_a_mistyped_local_path_is_not_looked_for_on_the_hub(tmp_path, monkeypatch):
    (tmp_path / "runs" / "student").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=r"runs/studnet does not exist \(did you mean runs/student\?\)"):
        load_teacher("runs/studnet")


@pytest.mark.parametrize("load", [load_teacher, load_student, inspect])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"not a model\n", "is a text file"),
        (b"\xff\xfe\x00\x01binary", "is an unknown binary file"),
        ("list", "is a torch file with a list"),
        ("weights", "is a torch file with a.weight, b.weight, c.weight and 1 more"),
        ("s3prl", "is an s3prl checkpoint, which cannot be read yet"),
        ("torchaudio", "is a torchaudio state dict, which cannot be read yet"),
        ("hugging face", r"without the config\.json"),
        ("nothing", "is a torch file with nothing"),
    ],
)
def test_files_of_other_kinds(tmp_path, load, content, message):
    path = tmp_path / "model.pt"
    one = torch.zeros(1)
    contents = {
        "list": [one],
        "weights": {f"{letter}.weight": one for letter in "abcd"},
        "s3prl": {"Distiller": {}, "Config": {}, "Args": argparse.Namespace(a=1), "Optimizer": {}, "Step": 1},
        "torchaudio": {"encoder.feature_projection.projection.weight": one},
        "hugging face": {"hubert.feature_projection.projection.weight": one},
        "nothing": {},
    }
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(contents[content], path)
    with pytest.raises(CheckpointError, match=message) as error:
        load(path)
    assert one_line(error) and "expected" in str(error.value) and str(path) in str(error.value)


def test_folders_of_other_kinds(tmp_path):
    with pytest.raises(CheckpointError, match="is a folder with nothing, expected a teacher"):
        load_teacher(tmp_path)
    (tmp_path / "notes.txt").touch()
    with pytest.raises(CheckpointError, match=r"is a folder with notes\.txt, expected a student"):
        load_student(tmp_path)


def test_torchaudio_bundles():
    with pytest.raises(
        CheckpointError, match="HUBERT_BASE looks like a torchaudio bundle, .* expected a teacher"
    ):
        load_teacher("HUBERT_BASE")


@pytest.fixture(scope="module")
def models() -> dict[str, HubertEncoder | Student]:
    teacher = HubertEncoder.from_preset("mini", layers=2, dim=32, ffn_dim=32)
    return {"teacher": teacher, "student": Student.from_teacher(teacher, layers=1, targets=(2,))}


@pytest.mark.parametrize(
    ("kind", "format", "message"),
    [
        ("student", "fairseq", "a student cannot be exported to fairseq: .*layer norm before the projection"),
        (
            "student",
            "torchaudio",
            "a student cannot be exported to torchaudio: .*layer norm before the projection",
        ),
        ("teacher", "s3prl", "a teacher cannot be exported to s3prl: it is for students"),
        ("teacher", "onnx", "a teacher cannot be exported to onnx: it is for students"),
        ("student", "s3prl", "export to s3prl is not there yet"),
        ("student", "onnx", "export to onnx is not there yet"),
        ("teacher", "fairseq", "export to fairseq is not there yet"),
        ("teacher", "torchaudio", "export to torchaudio is not there yet"),
    ],
)
def test_exports_that_are_refused(tmp_path, models, kind, format, message):
    with pytest.raises(CheckpointError, match=message) as error:
        export(models[kind], format, tmp_path / "out")
    assert one_line(error) and not (tmp_path / "out").exists()


def test_export_arguments(tmp_path, models):
    with pytest.raises(ValueError, match="unknown format 'keras'"):
        export(models["teacher"], "keras", tmp_path)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(CheckpointError, match="is a file, expected a folder"):
        export(models["student"], "native", tmp_path / "file")
    with pytest.raises(CheckpointError, match="cannot write"):
        export(models["student"], "huggingface", tmp_path / "file" / "below")
    assert (tmp_path / "file").read_text() == "mine"
