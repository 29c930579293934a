"""How near the effects come to sox: its stored outputs, and the sox binary where there is one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import torch

from bench import sox
from distill.distortions import Distorter, band_reject, pitch, reverb
from distill.waveforms import SAMPLE_RATE

BAND, SPECTRUM = "error below the change, dB", "long-term mel spectrum, dB RMS"
ENVELOPE, LEVEL = "10 ms envelope, correlation", "level, dB"
N_BANDS, N_ROOMS, N_SHIFTS = 100, 10, 40  # random ones, through the binary


@dataclass(frozen=True)
class Figure:
    """One measured figure and the bound that it has to keep, if any."""

    case: str
    measure: str
    value: float
    at_least: float | None = None
    at_most: float | None = None

    @property
    def kept(self) -> bool:
        """Whether the bound is kept."""
        above = self.at_least is None or self.value >= self.at_least
        return above and (self.at_most is None or self.value <= self.at_most)

    def __str__(self) -> str:
        line = f"{self.case:46}{self.measure:32}{self.value:9.3f}"
        if self.at_least is not None:
            line += f"  >= {self.at_least:g}"
        if self.at_most is not None:
            line += f"  <= {self.at_most:g}"
        return line if self.kept else f"{line}  MISSED"


def main(golden: Path, _: int) -> None:
    """Print a table."""
    with np.load(golden) as file:
        outputs = {name: file[name] for name in file.files}
    print(f"{'against sox':46}{'':32}{'measured':>9}  wanted")
    for figure in stored(outputs):
        print(figure)
    if not sox.available():
        print("random bands, rooms and shifts: skipped, no sox binary on the path")
        return
    for figure in random_draws(outputs["input"]):
        print(figure)


def stored(outputs: Mapping[str, np.ndarray]) -> list[Figure]:
    """The figures against sox's stored outputs, and those of pitch shifts of tones."""
    speech = outputs["input"]
    figures: list[Figure] = []
    for name, theirs in outputs.items():
        kind, _, rest = name.partition("_")
        if kind == "reverb":
            room = int(rest.rpartition("room")[2])
            dry = speech
            if "impulse" in rest:
                dry = np.zeros(len(theirs), dtype=np.float32)
                dry[100] = 0.5
            figures.append(Figure(name, "SNR, dB", snr_db(theirs, reverberated(dry, room)), 60))
        elif kind == "bandreject":
            low, high = map(float, rest.split("_"))
            figures.append(Figure(name, BAND, band_db(speech, theirs, low, high), 40))
        elif kind == "pitch":
            figures += pitch_figures(name, speech, theirs, float(rest))
    return [*figures, *tone_figures()]


def random_draws(speech: np.ndarray) -> list[Figure]:
    """The same against the binary, with parameters as in training: the worst and the median."""
    plan = Distorter.from_config("2-dist").plan([f"draw {i}" for i in range(N_BANDS)], seed=0)
    bands = [
        band_db(speech, sox.apply(speech, *sinc(p.low_hz, p.high_hz)), p.low_hz, p.high_hz) for p in plan
    ]
    rooms = [p.room_scale for p in plan[:N_ROOMS]]
    snrs = [snr_db(sox.apply(speech, *room_effect(room)), reverberated(speech, room)) for room in rooms]
    shifts = [p.cents for p in plan[:N_SHIFTS]]
    theirs = [sox.apply(speech, "pitch", cents, "rate", SAMPLE_RATE) for cents in shifts]
    pitches = [pitch_figures("", speech, y, cents) for cents, y in zip(shifts, theirs, strict=True)]
    spectra, envelopes, levels = zip(*pitches, strict=True)
    # No bound on the worst spectrum: sox itself differs from itself by 0.9 dB when speech starts 20 ms later.
    return [
        Figure(f"{N_BANDS} random WavAugment bands: worst", BAND, min(bands), 40),
        Figure(f"{N_BANDS} random WavAugment bands: median", BAND, median(bands), 40),
        Figure(f"{N_ROOMS} random rooms: worst", "SNR, dB", min(snrs), 60),
        Figure(f"{N_SHIFTS} random shifts: worst", SPECTRUM, max(f.value for f in spectra)),
        Figure(f"{N_SHIFTS} random shifts: median", SPECTRUM, median([f.value for f in spectra]), at_most=1),
        Figure(f"{N_SHIFTS} random shifts: worst", ENVELOPE, min(f.value for f in envelopes), 0.9),
        Figure(f"{N_SHIFTS} random shifts: worst", LEVEL, max(f.value for f in levels), at_most=0.5),
    ]


def sinc(low_hz: float, high_hz: float) -> tuple[object, ...]:
    """Sox's words for a band rejection."""
    return "sinc", "-a", 120, f"{high_hz}-{low_hz}"


def room_effect(room: int) -> tuple[object, ...]:
    """Sox's words for a reverb."""
    return "reverb", 50, 50, room, "channels", 1


def reverberated(x: np.ndarray, room: int) -> np.ndarray:
    """Ours."""
    return reverb.apply(torch.from_numpy(x)[None], None, [room])[0].numpy()


def snr_db(reference: np.ndarray, output: np.ndarray) -> float:
    """10 log10(||reference||^2 / ||reference - output||^2)."""
    reference, output = reference.astype(float), output.astype(float)
    return float(10 * np.log10(np.sum(reference**2) / np.sum((reference - output) ** 2)))


def band_db(speech: np.ndarray, theirs: np.ndarray, low_hz: float, high_hz: float) -> float:
    """10 log10(||input - sox||^2 / ||ours - sox||^2): doing nothing scores 0."""
    ours = band_reject.apply(torch.from_numpy(speech)[None], None, [low_hz], [high_hz])[0].numpy()
    change = np.sum((speech - theirs).astype(float) ** 2)
    return float(10 * np.log10(change / np.sum((ours - theirs).astype(float) ** 2)))


def pitch_figures(name: str, speech: np.ndarray, theirs: np.ndarray, cents: float) -> list[Figure]:
    """Spectrum and level against sox's, rhythm against the input's."""
    ours = pitch.apply(torch.from_numpy(speech)[None], None, [cents])[0].numpy()
    rms = float(np.sqrt(np.mean((mel_spectrum_db(ours) - mel_spectrum_db(theirs)) ** 2)))
    envelope = float(np.corrcoef(log_envelope(ours), log_envelope(speech))[0, 1])
    level = abs(10 * np.log10(np.mean(ours.astype(float) ** 2) / np.mean(theirs.astype(float) ** 2)))
    return [
        Figure(name, SPECTRUM, rms, at_most=1),
        Figure(name, ENVELOPE, envelope, 0.9),
        Figure(name, LEVEL, float(level), at_most=0.5),
    ]


def mel_spectrum_db(x: np.ndarray) -> np.ndarray:
    """80 mel bands of the mean power spectrum, floored at 1e-5 of the strongest, in dB."""
    window = torch.hann_window(1024)
    frames = torch.stft(torch.from_numpy(x), 1024, hop_length=160, window=window, return_complex=True)
    power = frames.abs().square().mean(-1).numpy()
    hz = np.linspace(0, SAMPLE_RATE / 2, 513)
    edges = 700 * (10 ** (np.linspace(0, 2595 * np.log10(1 + SAMPLE_RATE / 2 / 700), 82) / 2595) - 1)
    low, centre, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    weights = np.clip(np.minimum((hz - low) / (centre - low), (high - hz) / (high - centre)), 0, None)
    mel = weights @ power
    return 10 * np.log10(np.maximum(mel, 1e-5 * mel.max()))


def log_envelope(x: np.ndarray) -> np.ndarray:
    """Log energy of 10 ms frames."""
    frames = x[: len(x) // 160 * 160].reshape(-1, 160).astype(float)
    return np.log(np.mean(frames**2, axis=1) + 1e-8)


def tone_figures() -> list[Figure]:
    """Harmonic tones: how far the strongest line near each harmonic is from where it belongs."""
    worst = 0.0
    for f0 in (90.0, 150.0, 220.0):
        t = np.arange(24_000) / SAMPLE_RATE
        x = 0.1 * np.sum([np.sin(2 * np.pi * f0 * h * t) / h for h in range(1, 8)], axis=0)
        x = x.astype(np.float32)
        for cents in (-300.0, -175.0, -50.0, 25.0, 120.0, 300.0):
            y = pitch.apply(torch.from_numpy(x)[None], None, [cents])[0].numpy()
            worst = max(worst, *(_off_cents(y, f0 * h * 2 ** (cents / 1200)) for h in (1, 3)))
    return [Figure("harmonic tones, 3 pitches x 6 shifts: worst", "pitch, cents off", worst, at_most=10)]


def _off_cents(y: np.ndarray, target_hz: float) -> float:
    spectrum = np.abs(np.fft.rfft(y * np.hanning(len(y)), 1 << 20))
    hz = np.arange(len(spectrum)) * SAMPLE_RATE / (1 << 20)
    near = np.flatnonzero(np.abs(hz / target_hz - 1) < 0.04)
    return abs(1200 * float(np.log2(hz[near[np.argmax(spectrum[near])]] / target_hz)))
