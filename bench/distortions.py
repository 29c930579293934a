"""Seconds of audio distorted per CPU-second on one thread: ours and other libraries', in the same run."""

from __future__ import annotations

import statistics
import tempfile
import time
from itertools import chain
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch import Tensor

from bench import report
from bench.contenders import (
    BAND_REJECTION,
    GAUSSIAN,
    IN_MEMORY,
    PITCH,
    RECORDED,
    REVERB,
    Contender,
    Run,
    take_turns,
)
from bench.peers import peers
from bench.sox_chain import CHAIN, MIX, START, ratios
from distill.data.audio import read_audio
from distill.data.noise import NoiseReader
from distill.distortions import CONDITIONS, Distorter, DistortionConfig, UtterancePlan, reverb
from distill.distortions.additive import noise_segment
from distill.waveforms import SAMPLE_RATE

BATCH, SECONDS = 24, 12
N_NOISES, NOISE_SECONDS = 8, 60

OURS = {
    MIX: CONDITIONS["2-dist"],
    GAUSSIAN: DistortionConfig(additive=("gaussian",), non_additive=("none",)),
    RECORDED: DistortionConfig(additive=("musan",), non_additive=("none",)),
    IN_MEMORY: DistortionConfig(additive=("musan",), non_additive=("none",)),
    REVERB: DistortionConfig(additive=("none",), non_additive=("reverb",)),
    PITCH: DistortionConfig(additive=("none",), non_additive=("pitch",)),
    BAND_REJECTION: DistortionConfig(additive=("none",), non_additive=("band_reject",)),
}


def main(golden: Path, rounds: int) -> None:
    """Print median, slowest and fastest round, and ours over theirs; then a GPU's figures, if any."""
    torch.set_num_threads(1)
    speech = speech_batch(golden)
    with tempfile.TemporaryDirectory() as folder:
        write_noises(Path(folder))
        noises = NoiseReader({"musan": folder, "wham": folder})
        others = peers(speech.numpy(), Path(folder))
        effects = {name: [ours(name, speech, noises), *others.get(name, [])] for name in OURS}
        take_turns(chain.from_iterable(effects.values()), rounds)
        title = f"audio-s per CPU-s, one thread, {BATCH} x {SECONDS} s of speech, {report.in_rounds(rounds)}"
        print(f"{title:66}{'median':>8}{'slowest':>9}{'fastest':>9}{'ours / it':>11}")
        for effect, group in effects.items():
            show(effect, group)
        by_name = {contender.name: contender for contender in effects[MIX]}
        for line in ratios(by_name["ours"], by_name[CHAIN], by_name[START]):
            print(line)
        if torch.cuda.is_available():
            on_gpu(speech, noises, rounds)


def show(effect: str, group: list[Contender]) -> None:
    """Print one effect's rows; ours is the first."""
    reference = statistics.median(group[0].speeds)
    for contender in group:
        label = f"{effect:28}{contender.name:38}"
        if contender.failure:
            print(f"{label}{'skipped: ' + contender.failure:.80}")
            continue
        median = statistics.median(contender.speeds)
        ratio = "" if contender is group[0] else f"{reference / median:11.2f}"
        print(f"{label}{median:8.0f}{min(contender.speeds):9.0f}{max(contender.speeds):9.0f}{ratio}")


def ours(effect: str, speech: Tensor, noises: NoiseReader) -> Contender:
    """This project; drawing plans is timed, and so is reading noise files unless the noise is in memory."""
    distorter = Distorter.from_config(OURS[effect])
    lengths = torch.full((len(speech),), speech.shape[1])

    def run(number: int) -> None:
        plan = distorter.plan([f"{number}-{row}" for row in range(len(speech))])
        distorter(speech, lengths, plan, noises.view(plan, lengths.tolist()).noises)

    def run_in_memory(number: int) -> None:
        plan = distorter.plan([f"{number}-{row}" for row in range(len(speech))])
        distorter(speech, lengths, plan, [segment(p) for p in plan])

    clips = [read_audio(cut) for cut in noises.corpora["musan"]]

    def segment(p: UtterancePlan) -> Tensor:
        clip = clips[int(p.noise_choice * len(clips))]
        start, count = noise_segment(len(clip), speech.shape[1], p.noise_offset)
        return clip[start : start + count]

    def make() -> Run:
        for room in range(101):  # kept for all of a training; about 3 s in all
            reverb.impulse_response(room)
        return run_in_memory if effect == IN_MEMORY else run

    return Contender("ours", make, speech.numel() / SAMPLE_RATE)


def on_gpu(speech: Tensor, noises: NoiseReader, rounds: int) -> None:
    """Print audio-seconds per second on the GPU; noise that was read comes from the host, as in training."""
    print(f"\naudio-s per second on {torch.cuda.get_device_name()}, 4 x {BATCH} utterances")
    speech = speech.repeat(4, 1)
    lengths = torch.full((len(speech),), speech.shape[1])
    on_device = speech.cuda()
    for name, config in OURS.items():
        distorter = Distorter.from_config(config)
        speeds = []
        for number in range(-2, rounds):
            plan = distorter.plan([f"{number}-{row}" for row in range(len(speech))])
            view = noises.view(plan, lengths.tolist())
            torch.cuda.synchronize()
            started = time.perf_counter()
            distorter(on_device, lengths, plan, view.noises)
            torch.cuda.synchronize()
            speeds.append(len(speech) * SECONDS / (time.perf_counter() - started))
        kept = speeds[2:]
        print(f"{name:66}{statistics.median(kept):8.0f}{min(kept):9.0f}{max(kept):9.0f}")


def speech_batch(golden: Path) -> Tensor:
    """Real speech: the stored utterance, repeated, from another start in each row.

    Returns:
        (BATCH, SECONDS · 16 000).
    """
    with np.load(golden) as file:
        utterance = torch.from_numpy(file["input"])
    n_samples = SECONDS * SAMPLE_RATE
    rows = [utterance.roll(-1601 * row).repeat(-(-n_samples // len(utterance))) for row in range(BATCH)]
    return torch.stack([row[:n_samples] for row in rows])


def write_noises(folder: Path) -> None:
    """Some minutes of pink noise in WAV files."""
    for number in range(N_NOISES):
        generator = np.random.default_rng(number)
        spectrum = np.fft.rfft(generator.standard_normal(NOISE_SECONDS * SAMPLE_RATE))
        pink = np.fft.irfft(spectrum / np.sqrt(1 + np.arange(len(spectrum))))
        soundfile.write(folder / f"{number}.wav", 0.1 * pink / pink.std(), SAMPLE_RATE)
