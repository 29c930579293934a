"""Hostile files at every door: nothing runs, nothing grows, one line says what is wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.distill.checkpoints.hostile import CASES
from tests.paths import ROOT

MEMORY = 2 << 30
"""Bytes beyond what the process has after its imports."""
CPU_SECONDS = 10

pytestmark = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="measures as Linux does")


@pytest.fixture(scope="module")
def knock():
    """Knock at a door with a file: what came of it."""
    words = [sys.executable, "-m", "tests.distill.checkpoints.hostile_child"]
    child = subprocess.Popen(
        words, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert child.stdin and child.stdout and child.stdout.readline() == "ready\n"

    def call(door: str, path: Path, out: Path) -> dict:
        assert child.stdin and child.stdout
        print(json.dumps([door, str(path), str(out)]), file=child.stdin, flush=True)
        return json.loads(child.stdout.readline())

    yield call
    child.stdin.close()
    child.wait()


@pytest.mark.parametrize("name", CASES)
def test_hostile_files_are_refused_in_a_line(name, knock, tmp_path):
    case, canary = CASES[name], tmp_path / "canary"
    (tmp_path / "folder").mkdir()
    path = case.make(tmp_path / "folder", canary)
    for door in case.doors:
        (tmp_path / door).mkdir()
        found = knock(door, path, tmp_path / door)
        assert "said" in found, (door, found)
        said = found["said"]
        assert said.startswith("distill: ") and said.isprintable() and len(said) < 3000, (door, said)
        assert found["cpu_s"] < CPU_SECONDS and found["memory"] < MEMORY, (door, found)
        assert not canary.exists(), door


def test_there_are_enough():
    assert len(CASES) >= 100
