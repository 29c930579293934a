"""Other libraries doing the same, each as its own documentation shows, on one thread."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from bench.contenders import BAND_REJECTION, GAUSSIAN, IN_MEMORY, PITCH, RECORDED, REVERB, Contender, Run
from bench.sox_accuracy import room_effect, sinc
from bench.sox_chain import CHAIN, MIX, START, plans, sox_chain, sox_starts
from distill.distortions import UtterancePlan
from distill.waveforms import SAMPLE_RATE


def peers(speech: np.ndarray, noises: Path) -> dict[str, list[Contender]]:
    """All of them, by effect; those that are not installed fail when they are made.

    Args:
        speech: (B, T) float32.
        noises: folder of noise files.
    """
    audio_s = speech.size / SAMPLE_RATE
    ways: dict[str, dict[str, Callable[[], Run]]] = {
        MIX: {CHAIN: lambda: sox_chain(speech, noises), START: lambda: sox_starts(speech)},
        GAUSSIAN: {
            "audiomentations AddGaussianSNR": lambda: audiomentations_gaussian(speech),
            "torch-audiomentations AddColoredNoise": lambda: torch_gaussian(speech),
        },
        RECORDED: {"torch-audiomentations AddBackgroundNoise": lambda: torch_background(speech, noises)},
        IN_MEMORY: {"audiomentations AddBackgroundNoise": lambda: audiomentations_background(speech, noises)},
        REVERB: {
            "sox reverb 50 50 ROOM": lambda: sox_effect(speech, lambda p: room_effect(p.room_scale)),
            "pedalboard Reverb": lambda: pedalboard_reverb(speech),
        },
        PITCH: {
            "sox pitch": lambda: sox_effect(speech, lambda p: ("pitch", p.cents, "rate", SAMPLE_RATE)),
            "sox pitch -q (quick)": lambda: sox_effect(
                speech, lambda p: ("pitch", "-q", p.cents, "rate", "-q", SAMPLE_RATE)
            ),
            "pedalboard PitchShift": lambda: pedalboard_pitch(speech),
            "audiomentations PitchShift": lambda: audiomentations_pitch(speech),
        },
        BAND_REJECTION: {
            "sox sinc -a 120": lambda: sox_effect(speech, lambda p: sinc(p.low_hz, p.high_hz)),
        },
    }
    return {
        effect: [Contender(name, make, audio_s) for name, make in group.items()]
        for effect, group in ways.items()
    }


def audiomentations_gaussian(speech: np.ndarray) -> Run:
    """One utterance at a time, in NumPy."""
    import audiomentations

    noise = audiomentations.AddGaussianSNR(min_snr_db=10, max_snr_db=20, p=1)
    return lambda _: [noise(row, SAMPLE_RATE) for row in speech]


def audiomentations_background(speech: np.ndarray, noises: Path) -> Run:
    """It keeps the files that it has read in memory."""
    import audiomentations

    noise = audiomentations.AddBackgroundNoise(noises, min_snr_db=10, max_snr_db=20, p=1)
    return lambda _: [noise(row, SAMPLE_RATE) for row in speech]


def audiomentations_pitch(speech: np.ndarray) -> Run:
    """Its default method, signalsmith-stretch."""
    import audiomentations

    shift = audiomentations.PitchShift(-3, 3, p=1)
    return lambda _: [shift(row, SAMPLE_RATE) for row in speech]


def torch_gaussian(speech: np.ndarray) -> Run:
    """The whole batch at once; a spectral decay of zero is white noise."""
    import torch_audiomentations

    noise = torch_audiomentations.AddColoredNoise(10, 20, 0, 0, p=1, output_type="tensor")
    batch = torch.from_numpy(speech)[:, None]
    return lambda _: noise(batch, SAMPLE_RATE)


def torch_background(speech: np.ndarray, noises: Path) -> Run:
    """The whole batch at once; it reads the files each time."""
    import torch_audiomentations

    noise = torch_audiomentations.AddBackgroundNoise(noises, 10, 20, p=1, output_type="tensor")
    batch = torch.from_numpy(speech)[:, None]
    return lambda _: noise(batch, SAMPLE_RATE)


def pedalboard_reverb(speech: np.ndarray) -> Run:
    """Freeverb too, of another room."""
    import pedalboard

    reverb = pedalboard.Reverb(room_size=0.5, damping=0.5)
    return lambda _: [reverb(row, SAMPLE_RATE) for row in speech]


def pedalboard_pitch(speech: np.ndarray) -> Run:
    """Rubber Band, a phase vocoder."""
    import pedalboard

    def run(number: int) -> None:
        for row, plan in zip(speech, plans(len(speech), number), strict=True):
            pedalboard.PitchShift(plan.cents / 100)(row, SAMPLE_RATE)

    return run


def sox_effect(speech: np.ndarray, effect: Callable[[UtterancePlan], tuple[object, ...]]) -> Run:
    """The binary over all utterances in one go, without writing a result: the least that it can cost."""
    if not shutil.which("sox"):
        raise FileNotFoundError("no sox binary on the path")
    samples = (speech.reshape(-1) * 32767).astype("<i2").tobytes()
    source = ["-t", "raw", "-r", str(SAMPLE_RATE), "-e", "signed-integer", "-b", "16", "-c", "1", "-"]

    def run(number: int) -> None:
        words = [str(word) for word in effect(plans(len(speech), number)[0])]
        subprocess.run(["sox", *source, "-n", *words], input=samples, check=True, capture_output=True)

    return run
