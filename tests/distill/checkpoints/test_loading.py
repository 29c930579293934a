"""Recognising what a source is, what is said when it is nothing we read, and what cannot be exported."""

import argparse

import pytest
import torch

import distill
from distill.checkpoints import export, inspect, load_student, load_teacher
from distill.errors import CheckpointError
from distill.hubert import PRESETS, HubertEncoder


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
        ("s3prl", "is an s3prl checkpoint of another upstream or of a downstream task"),
        ("distiller", "is not a complete Distiller of s3prl"),
        ("torchaudio", "convolutions but 7 strides are known"),
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
        "s3prl": {
            "Downstream": {},
            "Config": {},
            "Args": argparse.Namespace(a=1),
            "Optimizer": {},
            "Step": 1,
        },
        "distiller": {"Distiller": {}, "Config": {"expected": 1}, "Args": argparse.Namespace(a=1)},
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


def test_a_folder_with_one_exported_file_stands_for_it(tmp_path):
    teacher = HubertEncoder.from_preset("mini", layers=1, dim=64, ffn_dim=32)
    export(teacher, "torchaudio", tmp_path)
    assert inspect(tmp_path).format == "torchaudio"
    export(teacher, "fairseq", tmp_path)
    with pytest.raises(CheckpointError, match=r"is a folder with hubert\.pt, torchaudio\.json"):
        inspect(tmp_path)
