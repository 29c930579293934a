"""The reference's way: utterance by utterance, noise mixed in NumPy, then one effect by sox."""

from __future__ import annotations

import shutil
import statistics
import subprocess
from pathlib import Path

import numpy as np
import soundfile

from bench.contenders import Contender, Run
from bench.sox_accuracy import room_effect, sinc
from distill.distortions import Distorter, UtterancePlan
from distill.distortions.additive import noise_segment
from distill.waveforms import SAMPLE_RATE

MIX = "2-dist, the paper's mix"
CHAIN = "the reference's chain of sox effects"
START = "starts of sox alone"
_RAW = ["-t", "raw", "-r", str(SAMPLE_RATE), "-e", "floating-point", "-b", "32", "-c", "1", "-"]


def sox_chain(speech: np.ndarray, noises: Path) -> Run:
    """What each plan asks for; an utterance without an effect costs no sox, a clean one nothing."""
    _need_sox()
    files = sorted(noises.glob("*.wav"))

    def run(number: int) -> None:
        for row, plan in zip(speech, plans(len(speech), number), strict=True):
            noisy = row if plan.additive == "none" else with_noise(row, plan, files)
            if words := effect(plan):
                by_sox(noisy, words)

    return run


def sox_starts(speech: np.ndarray) -> Run:
    """As many starts of sox as the chain needs, each over one sample."""
    _need_sox()

    def run(number: int) -> None:
        for plan in plans(len(speech), number):
            if effect(plan):
                by_sox(np.zeros(1, dtype=np.float32), ())

    return run


def plans(n_utterances: int, number: int) -> list[UtterancePlan]:
    """The draws of a round: those of ours."""
    return list(Distorter.from_config("2-dist").plan([f"{number}-{row}" for row in range(n_utterances)]))


def with_noise(speech: np.ndarray, plan: UtterancePlan, files: list[Path]) -> np.ndarray:
    """Speech and noise at the plan's SNR: white, or a stretch of a file, tiled if it is too short."""
    n = len(speech)
    if plan.additive == "gaussian":
        noise = np.random.default_rng(plan.gaussian_seed).standard_normal(n, dtype=np.float32)
    else:
        file = files[int(plan.noise_choice * len(files))]
        start, count = noise_segment(soundfile.info(file).frames, n, plan.noise_offset)
        noise, _ = soundfile.read(file, count, start, dtype="float32")
        noise = np.tile(noise, -(-n // len(noise)))[:n]
    ratio = np.mean(speech**2) / (np.mean(noise**2) * 10 ** (plan.snr_db / 10))
    return speech + noise * np.sqrt(ratio, dtype=np.float32)


def effect(plan: UtterancePlan) -> tuple[object, ...]:
    """Sox's words for the effect after the noise, if any."""
    if plan.non_additive == "reverb":
        return room_effect(plan.room_scale)
    if plan.non_additive == "pitch":
        return "pitch", plan.cents, "rate", SAMPLE_RATE
    if plan.non_additive == "band_reject":
        return sinc(plan.low_hz, plan.high_hz)
    return ()


def by_sox(samples: np.ndarray, words: tuple[object, ...]) -> np.ndarray:
    """Through the binary and back, by pipes."""
    command = ["sox", *_RAW, *_RAW, *(str(word) for word in words)]
    done = subprocess.run(
        command, input=samples.astype("<f4", copy=False).tobytes(), check=True, capture_output=True
    )
    return np.frombuffer(done.stdout, dtype="<f4")


def ratios(ours: Contender, chain: Contender, starts: Contender) -> list[str]:
    """Ours over the chain round by round, and over the chain without the starts of its processes."""
    if chain.failure or ours.failure:
        return []
    each = [theirs / own for theirs, own in zip(chain.cpu_s, ours.cpu_s, strict=True)]
    without = [
        (theirs - start) / own
        for theirs, start, own in zip(chain.cpu_s, starts.cpu_s, ours.cpu_s, strict=True)
    ]
    rows = [("ours over the chain, by round", each), ("the same without starts of sox", without)]
    return [
        f"{name:66}{statistics.median(found):8.2f}{min(found):9.2f}{max(found):9.2f}" for name, found in rows
    ]


def _need_sox() -> None:
    if not shutil.which("sox"):
        raise FileNotFoundError("no sox binary on the path")
