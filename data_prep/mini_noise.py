"""Noises and rooms of the synthetic `mini` corpora, made from formulas.

Each noise takes a random generator and a length in samples and returns that many float64 samples at 16 kHz,
at any level. The corpora share no noise: what `fsd` and `dns` hold is never used in training.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.signal import butter, sosfilt

SAMPLE_RATE = 16_000

Generator = np.random.Generator
NoiseKind = Callable[[Generator, int], np.ndarray]


def music(rng: Generator, n_samples: int) -> np.ndarray:
    """Chords of three plucked notes, each with six harmonics."""
    root_hz = rng.uniform(110, 220)

    def chord(rng: Generator) -> np.ndarray:
        t = _seconds(rng.uniform(0.6, 1.4))
        semitones = [(0, 4, 7), (5, 9, 12), (7, 11, 14), (9, 12, 16)][rng.integers(4)]
        notes = [root_hz * 2 ** (semitone / 12) for semitone in semitones]
        tones = [np.sin(2 * np.pi * h * note * t) / h for note in notes for h in range(1, 7)]
        return np.sum(tones, axis=0) * np.exp(-t * rng.uniform(1, 4)) * np.minimum(t / 0.01, 1)

    return _scatter(rng, n_samples, chord, every_s=(0.3, 0.7))


def coloured(rng: Generator, n_samples: int) -> np.ndarray:
    """Steady noise whose power falls with the frequency to a power between 0 (white) and 1.5."""
    return _power_law(rng, n_samples, exponent=rng.uniform(0, 1.5))


def band(rng: Generator, n_samples: int) -> np.ndarray:
    """A band of one to two octaves, its level swinging 2 to 8 times a second."""
    low_hz = rng.uniform(200, 1500)
    high_hz = low_hz * 2 ** rng.uniform(1, 2)
    swing = 1 + 0.8 * np.sin(2 * np.pi * rng.uniform(2, 8) * np.arange(n_samples) / SAMPLE_RATE)
    return _band_pass(rng.standard_normal(n_samples), low_hz, high_hz) * swing


def hum(rng: Generator, n_samples: int) -> np.ndarray:
    """Mains hum with 20 harmonics of random strength, and hiss."""
    t = np.arange(n_samples) / SAMPLE_RATE
    mains_hz = rng.choice([50, 60])
    strengths = rng.uniform(0.2, 1, size=20) / np.arange(1, 21) ** 0.5
    tones = [strengths[h - 1] * np.sin(2 * np.pi * (h * mains_hz * t + rng.random())) for h in range(1, 21)]
    return np.sum(tones, axis=0) + rng.uniform(0.1, 0.3) * rng.standard_normal(n_samples)


def street(rng: Generator, n_samples: int) -> np.ndarray:
    """Pink noise that comes and goes by 20 dB over seconds, as passing cars."""
    return _power_law(rng, n_samples, exponent=1) * 10 ** (_drift(rng, n_samples, every_s=1.5) / 2)


def clicks(rng: Generator, n_samples: int) -> np.ndarray:
    """A train of short resonant clicks."""
    every_s = 1 / rng.uniform(3, 15)

    def click(rng: Generator) -> np.ndarray:
        t = _seconds(0.02)
        return np.sin(2 * np.pi * rng.uniform(2000, 6000) * t) * np.exp(-t / 0.002)

    return _scatter(rng, n_samples, click, every_s=(0.8 * every_s, 1.2 * every_s))


def siren(rng: Generator, n_samples: int) -> np.ndarray:
    """A tone with two overtones that wails over an octave."""
    t = np.arange(n_samples) / SAMPLE_RATE
    pitch_hz = rng.uniform(600, 1000) * 2 ** (0.5 * np.sin(2 * np.pi * rng.uniform(0.3, 2) * t))
    phase = 2 * np.pi * np.cumsum(pitch_hz) / SAMPLE_RATE
    return np.sin(phase) + 0.4 * np.sin(2 * phase) + 0.2 * np.sin(3 * phase)


def bells(rng: Generator, n_samples: int) -> np.ndarray:
    """Bells: inharmonic partials that ring for half a second."""

    def bell(rng: Generator) -> np.ndarray:
        t, pitch_hz = _seconds(1.5), rng.uniform(500, 1300)
        partials = [(1, 0.6), (2.01, 0.5), (2.43, 0.4), (3.02, 0.3), (4.17, 0.2)]  # ratio, decay in seconds
        tones = [np.sin(2 * np.pi * r * pitch_hz * t) * np.exp(-t / decay) for r, decay in partials]
        return np.sum(tones, axis=0)

    return _scatter(rng, n_samples, bell, every_s=(0.3, 1.0))


def crackle(rng: Generator, n_samples: int) -> np.ndarray:
    """Fire or an old record: impulses at random times with Laplacian heights, above 1 kHz."""
    impulses = rng.laplace(size=n_samples) * (rng.random(n_samples) < rng.uniform(0.003, 0.02))
    return _band_pass(impulses, 1000, 7500)


def keyboard(rng: Generator, n_samples: int) -> np.ndarray:
    """A fan (low noise and its blade tone) and bursts of keystrokes."""
    t = np.arange(n_samples) / SAMPLE_RATE
    fan = _band_pass(rng.standard_normal(n_samples), 60, 400)
    blades = 0.2 * np.sin(2 * np.pi * rng.uniform(80, 160) * t)

    def keystroke(rng: Generator) -> np.ndarray:
        t = _seconds(0.08)
        return rng.standard_normal(len(t)) * np.exp(-t / 0.012) * rng.uniform(1, 3)

    strokes = _band_pass(_scatter(rng, n_samples, keystroke, every_s=(0.08, 0.4)), 1500, 6000)
    return fan + blades + strokes


def gusts(rng: Generator, n_samples: int) -> np.ndarray:
    """Wind: brown noise in gusts."""
    return _power_law(rng, n_samples, exponent=2) * 10 ** _drift(rng, n_samples, every_s=0.7)


def sweeps(rng: Generator, n_samples: int) -> np.ndarray:
    """Narrow tones that glide between two frequencies, two or three at a time."""

    def sweep(rng: Generator) -> np.ndarray:
        t = _seconds(rng.uniform(0.5, 1.5))
        start_hz, end_hz = rng.uniform(400, 6000, size=2)
        pitch_hz = start_hz + (end_hz - start_hz) * t / t[-1]
        return np.sin(2 * np.pi * np.cumsum(pitch_hz) / SAMPLE_RATE) * np.sin(np.pi * t / t[-1])

    return _scatter(rng, n_samples, sweep, every_s=(0.2, 0.6))


KINDS: dict[str, dict[str, NoiseKind]] = {
    "musan": {"music": music, "noise": coloured},  # and babble, which needs a synthesiser
    "wham": {"band": band, "hum": hum, "street": street},
    "fsd": {"clicks": clicks, "siren": siren, "bells": bells, "crackle": crackle},
    "dns": {"keyboard": keyboard, "gusts": gusts, "sweeps": sweeps},
}
"""Corpus -> kind of noise -> its generator."""


def room_impulse_response(rng: Generator, rt60_s: float) -> np.ndarray:
    """An artificial room: direct path, early reflections, and noise that decays by 60 dB in `rt60_s`.

    Polack's model: the late part is Gaussian noise times 10^(-3 t / rt60).

    Args:
        rng: draws the reflections, the distance and the noise.
        rt60_s: reverberation time in seconds.

    Returns:
        (T,) float64 at 16 kHz, 1.2 rt60 long. The direct path comes 2.5 ms from the start; it is the first
        sample that is not zero and the largest, 0.9.
    """
    t = _seconds(1.2 * rt60_s)
    response = rng.standard_normal(len(t)) * 10 ** (-3 * t / rt60_s) * (t > 0.005)
    direct_to_reverberant_db = rng.uniform(0, 10)
    response *= 10 ** (-direct_to_reverberant_db / 20) / np.sqrt(np.sum(response**2))
    delays_s = rng.uniform(0.003, 0.04, size=8)
    taps = np.round(delays_s * SAMPLE_RATE).astype(int)
    gains = rng.choice([-1, 1], size=8) * rng.uniform(0.1, 0.3, size=8)
    np.add.at(response, taps, gains * 10 ** (-3 * delays_s / rt60_s))
    response[0] = max(1, 1.2 * np.abs(response).max())
    return np.pad(response / response[0] * 0.9, (SAMPLE_RATE // 400, 0))


def _seconds(duration_s: float) -> np.ndarray:
    """Time axis in seconds."""
    return np.arange(round(duration_s * SAMPLE_RATE)) / SAMPLE_RATE


def _scatter(
    rng: Generator, n_samples: int, event: Callable[[Generator], np.ndarray], *, every_s: tuple[float, float]
) -> np.ndarray:
    """Events one after the other at random distances, overlapping where they are long."""
    out = np.zeros(n_samples)
    start = 0
    while start < n_samples:
        sound = event(rng)[: n_samples - start]
        out[start : start + len(sound)] += sound
        start += round(rng.uniform(*every_s) * SAMPLE_RATE)
    return out


def _power_law(rng: Generator, n_samples: int, *, exponent: float) -> np.ndarray:
    """Gaussian noise of unit RMS whose power spectrum is 1 / f^exponent, flat below 100 Hz."""
    frequencies_hz = np.fft.rfftfreq(n_samples, 1 / SAMPLE_RATE)
    spectrum = np.fft.rfft(rng.standard_normal(n_samples)) * np.maximum(frequencies_hz, 100) ** (
        -exponent / 2
    )
    noise = np.fft.irfft(spectrum, n_samples)
    return noise / noise.std()


def _drift(rng: Generator, n_samples: int, *, every_s: float) -> np.ndarray:
    """A smooth curve in [-1, 1] through a random height every `every_s` seconds."""
    n_heights = int(n_samples / SAMPLE_RATE / every_s) + 2
    position = np.arange(n_samples) / SAMPLE_RATE / every_s
    heights = rng.uniform(-1, 1, size=n_heights)
    left = position.astype(int)
    blend = (1 - np.cos(np.pi * (position - left))) / 2
    return heights[left] * (1 - blend) + heights[left + 1] * blend


def _band_pass(samples: np.ndarray, low_hz: float, high_hz: float) -> np.ndarray:
    sections = butter(4, [low_hz, high_hz], btype="bandpass", fs=SAMPLE_RATE, output="sos")
    return np.asarray(sosfilt(sections, samples))
