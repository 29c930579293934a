"""The command line, speech and a finished run that several test files share."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
from lhotse import CutSet

from distill.cli import main
from distill.data.sources import open_cuts

SPEECH = 22  # utterances: no multiple of any batch size here


@pytest.fixture
def distill(capsys):
    """Run a command line: (exit code, stdout, stderr)."""

    def call(*words: object) -> tuple[int, str, str]:
        capsys.readouterr()
        try:
            code = main([str(word) for word in words])
        except SystemExit as stopped:  # argparse
            code = int(stopped.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture(scope="module")
def speech(tmp_path_factory) -> Path:
    """Noise of 0.3 to 1.6 s, u00.wav to u21.wav."""
    root = tmp_path_factory.mktemp("speech")
    generator = np.random.default_rng(1)
    for index in range(SPEECH):
        n_samples = int(generator.integers(4800, 25_600))
        soundfile.write(root / f"u{index:02d}.wav", 0.1 * generator.standard_normal(n_samples), 16_000)
    return root


@pytest.fixture(scope="module")
def cuts(speech) -> CutSet:
    return open_cuts(str(speech))


@pytest.fixture(scope="module")
def finished(mini_data, tmp_path_factory) -> Path:
    """A run of eight steps with DAT, validated every other step."""
    from distill.run import run  # Lightning, which most tests do not need
    from tests.distill.training.runs import tiny

    out = tmp_path_factory.mktemp("runs") / "s6"
    run(tiny(mini_data, "validation.every_n_steps=2", "seed=3", name="s6", steps=8), out)
    return out
