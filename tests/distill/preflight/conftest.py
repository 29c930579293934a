"""Nothing goes online; a small corpus."""

import socket
from pathlib import Path

import numpy as np
import pytest
import soundfile

from distill.data_prep.manifests import cut_from_file, write_cuts


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*_):
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture
def corpus(tmp_path) -> Path:
    """Ten files of half a second and their manifest."""
    generator = np.random.default_rng(0)
    files = [tmp_path / "audio" / f"{i}.wav" for i in range(10)]
    files[0].parent.mkdir()
    for file in files:
        soundfile.write(file, 0.1 * generator.standard_normal(8_000), 16_000)
    write_cuts([cut_from_file(file) for file in files], tmp_path / "some" / "all.jsonl.gz")
    return tmp_path
