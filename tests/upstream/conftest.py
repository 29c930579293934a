"""A small student with random weights, saved as a release."""

from pathlib import Path

import pytest
import torch


@pytest.fixture(scope="session")
def student_folder(tmp_path_factory) -> Path:
    from distill import Student, load_teacher
    from distill.checkpoints import export

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("student")
    student = Student.from_teacher(load_teacher("random:mini"), layers=2, targets=(2, 4, 6))
    export(student, "native", folder)
    return folder
