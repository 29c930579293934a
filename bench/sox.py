"""The sox binary, where there is one."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import soundfile

from distill.waveforms import SAMPLE_RATE


def available() -> bool:
    """Whether the command exists."""
    return shutil.which("sox") is not None


def apply(samples: np.ndarray, *effects: object) -> np.ndarray:
    """Run sox over 16 kHz mono, in 32-bit floats on both sides.

    Args:
        samples: (T,) float32 within +-1, where sox clips.
        effects: of the command line, such as "pitch", 300.

    Returns:
        (T,) float32: sox may be some samples longer or shorter.
    """
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "in.wav"), Path(folder, "out.wav")
        soundfile.write(source, samples, SAMPLE_RATE, subtype="FLOAT")
        words = [str(word) for word in effects]
        encoding = ["-e", "floating-point", "-b", "32"]
        subprocess.run(["sox", source, *encoding, target, *words], check=True, capture_output=True)
        out, _ = soundfile.read(target, dtype="float32")
    return np.pad(out, (0, max(len(samples) - len(out), 0)))[: len(samples)]
