"""Models and sources of audio, good and bad."""

import gzip
import os
import pickle
from pathlib import Path

import pytest
import torch

from distill.checkpoints import native
from distill.hubert import HubertEncoder
from distill.student import Student


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, Path]:
    """Releases of a random teacher and student, and files that are none."""
    root = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    teacher = HubertEncoder.from_preset("mini")
    student = Student.from_teacher(teacher, layers=1, targets=(2, 6))
    native.write(teacher, root / "teacher", {"recipe": "t1"})
    native.write(student, root / "student", {"recipe": "s4"})

    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {root / 'was_run'}",)

    (root / "evil.pt").write_bytes(pickle.dumps({"model": Evil()}))
    torch.save({"model": Evil()}, root / "evil_zip.pt")
    torch.save({"weights": torch.zeros(3)}, root / "other.pt")
    (root / "notes.pt").write_text("no checkpoint")
    return {path.stem: path for path in root.iterdir()} | {"root": root}


@pytest.fixture(scope="module")
def sources(noise_folder, tmp_path_factory) -> dict[str, str]:
    """Sources of audio, good and bad."""
    root = tmp_path_factory.mktemp("sources")
    with gzip.open(root / "empty.jsonl.gz", "wt"):
        pass
    (root / "silent").mkdir()
    (root / "list.tsv").write_text("path\tset\na.wav\tseen\n")
    (root / "notes.txt").write_text("x")
    return {
        "good": str(noise_folder),
        "missing": str(root / "none.jsonl.gz"),
        "empty": str(root / "empty.jsonl.gz"),
        "silent": str(root / "silent"),
        "gone": str(root / "list.tsv"),
        "no_column": str(root / "list.tsv") + "?split=dev",
        "text": str(root / "notes.txt"),
    }
