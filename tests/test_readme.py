"""What the README shows runs as written, and its results are those of docs/experiments.md."""

import re

import pytest
import torch

from tests.documents import PAGES, README, code_blocks


def test_it_takes_two_minutes():
    assert len(README.splitlines()) <= 140


def test_the_python_example_runs(tmp_path):
    from distill import Student, load_teacher
    from distill.checkpoints.native import write

    torch.manual_seed(0)
    write(Student.from_teacher(load_teacher("random:mini"), targets=(2, 4, 6)), tmp_path)
    (code,) = code_blocks("README.md", "python")
    code = code.replace("facebook/hubert-base-ls960", "random:mini").replace("(4, 8, 12)", "(2, 4, 6)")
    scope: dict = {}
    exec(code.replace("runs/s4", str(tmp_path)), scope)
    assert scope["features"].shape == (2, 99, 128)
    assert torch.isfinite(scope["loss"].total)


RESULTS = [line for line in README.splitlines() if re.match(r"\| (teacher|s1|s4)\b", line)]


def test_there_are_two_tables_of_results():
    assert len(RESULTS) == 6


@pytest.mark.parametrize("row", RESULTS)
def test_results_are_those_of_the_experiments(row):
    """The same cells, whatever the row is called."""
    experiments = [cells(line) for line in PAGES["docs/experiments.md"].splitlines() if line.startswith("|")]
    assert cells(row) in experiments


def cells(row: str) -> list[str]:
    """The numbers of a row of a table, without its name."""
    return [cell.replace("*", "").strip() for cell in row.split("|")[2:-1]]
