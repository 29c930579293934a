"""Every reader for a moment: mutated files are read, or refused in a line. `python -m tests.fuzz` goes on."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.campaign import campaign
from tests.fuzz.target import Target
from tests.fuzz.targets import TARGETS

SECONDS = 20.0
"""For all readers together."""
KEPT = Path(__file__).parent / "seeds"
"""Files that crashed a reader once: NAME/anything."""


@pytest.mark.parametrize("name", TARGETS)
def test_its_seeds_are_read(name):
    target = TARGETS[name]
    for data in target.cached_seeds():
        assert target.attempt(data) is None


@pytest.mark.parametrize("name", TARGETS)
def test_mutated_files_do_not_crash_it(name):
    result = campaign(TARGETS[name], SECONDS / len(TARGETS), at_least=10)
    assert not result.crashes, "\n".join(trace for _, trace in result.crashes.values())


@pytest.mark.parametrize("path", sorted(KEPT.glob("*/*")), ids=lambda path: f"{path.parent.name}-{path.name}")
def test_what_crashed_a_reader_once(path):
    TARGETS[path.parent.name].attempt(path.read_bytes())


def test_a_crash_is_found():
    def read(path: Path) -> None:
        if b"\x00" in path.read_bytes():
            raise KeyError("a bug")

    result = campaign(Target(name="bad", file="x", seeds=lambda: [b"abcdef" * 4], read=read), 1.0)
    (trace,) = [trace for _, trace in result.crashes.values()]
    assert "a bug" in trace and result.tried > len(result.crashes)
