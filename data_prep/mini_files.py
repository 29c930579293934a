"""Reading what `distill.data_prep.mini` made, and writing it in the formats of published corpora."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import soundfile
from lhotse import CutSet, MonoCut, SupervisionSegment

from distill.waveforms import SAMPLE_RATE


def cuts_of(mini_folder: Path, name: str) -> list[MonoCut]:
    """A manifest of the `mini` corpora."""
    return list(CutSet.from_file(mini_folder / f"{name}.jsonl.gz"))  # pyright: ignore[reportReturnType]


def spoken(cut: MonoCut) -> SupervisionSegment:
    """What is said in a cut of speech."""
    return cut.supervisions[0]


def source_of(cut: MonoCut) -> Path:
    """The file of a cut."""
    assert cut.recording is not None
    return Path(cut.recording.sources[0].source)  # pyright: ignore[reportArgumentType]


def samples_of(cut: MonoCut) -> np.ndarray:
    """(T,) float64 at 16 kHz."""
    return soundfile.read(source_of(cut))[0]


def write_wav(path: Path, samples: np.ndarray, rate: int = SAMPLE_RATE, *, container: str = "WAV") -> None:
    """16-bit PCM, as WAV, FLAC or NIST (SPHERE); `samples` is (T,) or (T, channels)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate, subtype="PCM_16", format=container)


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """A text file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
