"""Speech and noise that are told apart by their frequencies, and measures of them."""

import csv
from pathlib import Path

import numpy as np
import scipy.signal
import soundfile

from distill.downstream.distorted_sets import DistortedSet

NOISES = ("musan", "wham", "fsd", "dns", "rir")


NOISE_HZ = {
    "musan": 500,
    "wham": 1000,
    "fsd": 2000,
    "dns": 4000,
}  # each corpus is one tone: easy to tell apart


def audio(dataset: DistortedSet, size: int) -> dict[str, np.ndarray]:
    found = {}
    for batch, waveforms, lengths, _ in dataset.batches(size):
        for cut, wave, length in zip(batch, waveforms, lengths.tolist(), strict=True):
            assert not wave[length:].any()
            found[cut.id] = wave[:length].numpy()
    return found


def clean(speech: Path, name: str) -> np.ndarray:
    return soundfile.read(speech / f"{name}.wav", dtype="float32")[0]


def snr_db(signal: np.ndarray, noise: np.ndarray) -> float:
    return 10 * np.log10(np.mean(signal.astype(float) ** 2) / np.mean(noise.astype(float) ** 2))


def strongest_hz(samples: np.ndarray) -> float:
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return float(np.fft.rfftfreq(len(samples), 1 / 16_000)[spectrum.argmax()])


def dry(samples: np.ndarray, corpora: dict[str, str], choice: int) -> np.ndarray:
    """Convolved with a room of unit energy, aligned at the direct path, by scipy."""
    rir, _ = soundfile.read(Path(corpora["rir"]) / f"{choice}.wav")
    rir = rir / np.sqrt(np.sum(rir**2))
    return scipy.signal.fftconvolve(samples, rir)[np.abs(rir).argmax() :][: len(samples)]


def listing(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))
