"""Seconds of audio distorted per CPU-second on one thread: ours and other libraries', in the same run."""

from __future__ import annotations

import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch import Tensor

from distill.data.audio import read_audio
from distill.data.noise import NoiseReader
from distill.distortions import CONDITIONS, Distorter, DistortionConfig, UtterancePlan, reverb
from distill.distortions.additive import noise_segment

BATCH, SECONDS, RATE = 24, 12, 16_000
N_NOISES, NOISE_SECONDS = 8, 60

GAUSSIAN, RECORDED, IN_MEMORY = "gaussian noise at an SNR", "noise from files", "noise clips in memory"
OURS = {
    "2-dist, the paper's mix": CONDITIONS["2-dist"],
    GAUSSIAN: DistortionConfig(additive=("gaussian",), non_additive=("none",)),
    RECORDED: DistortionConfig(additive=("musan",), non_additive=("none",)),
    IN_MEMORY: DistortionConfig(additive=("musan",), non_additive=("none",)),
    "reverb": DistortionConfig(additive=("none",), non_additive=("reverb",)),
    "pitch": DistortionConfig(additive=("none",), non_additive=("pitch",)),
    "band rejection": DistortionConfig(additive=("none",), non_additive=("band_reject",)),
}


Run = Callable[[int], object]
"""Distorts the whole batch; takes the number of the round, which makes the draws differ."""


@dataclass
class Contender:
    """A way to distort the batch, measured once a round."""

    name: str
    make: Callable[[], Run]
    """Imports and prepares what is not to be timed."""
    speeds: list[float] = field(default_factory=list)
    """Audio-seconds per CPU-second, by round."""
    failure: str = ""
    """Why it cannot run here."""

    def warm_up(self) -> None:
        """Prepare, and run once to fill caches."""
        try:
            self.run = self.make()
            self.run(0)
        except Exception as error:  # whatever is amiss in another library
            self.failure = " ".join(str(error).split()) or type(error).__name__

    def measure(self, number: int) -> None:
        """Run a round: once after whatever ran before, then once for the clock, as in a loop."""
        if not self.failure:
            self.run(number)
            started = cpu_seconds()
            self.run(number + 1)
            self.speeds.append(BATCH * SECONDS / (cpu_seconds() - started))


def main(golden: Path, rounds: int) -> None:
    """Print median, slowest and fastest round, and ours over theirs; then a GPU's figures, if any."""
    from bench.peers import peers

    torch.set_num_threads(1)
    speech = speech_batch(golden)
    with tempfile.TemporaryDirectory() as folder:
        write_noises(Path(folder))
        noises = NoiseReader({"musan": folder, "wham": folder})
        others = peers(speech.numpy(), Path(folder))
        effects = {name: [ours(name, speech, noises), *others.get(name, [])] for name in OURS}
        contenders = [contender for group in effects.values() for contender in group]
        for contender in contenders:
            contender.warm_up()
        for number in range(rounds):  # in turns, so that whatever else the machine does hits all alike
            for contender in contenders:
                contender.measure(number)
        title = f"audio-s per CPU-s, one thread, {BATCH} x {SECONDS} s of speech, {rounds} rounds"
        print(f"{title:66}{'median':>8}{'slowest':>9}{'fastest':>9}{'ours / it':>11}")
        for effect, group in effects.items():
            report(effect, group)
        if torch.cuda.is_available():
            on_gpu(speech, noises, rounds)


def report(effect: str, group: list[Contender]) -> None:
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
    """This project, drawing the plan and reading the noise files included, if they are not in memory."""
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
        for room in range(101):  # kept for the whole of a training; about 3 s in all
            reverb.impulse_response(room)
        return run_in_memory if effect == IN_MEMORY else run

    return Contender("ours", make)


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


def cpu_seconds() -> float:
    """What this process, all its threads and the programs it ran have used."""
    usage = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(u.ru_utime + u.ru_stime for u in usage)


def speech_batch(golden: Path) -> Tensor:
    """Real speech, (BATCH, SECONDS · RATE): the stored utterance, over and over, from another start each."""
    with np.load(golden) as file:
        utterance = torch.from_numpy(file["input"])
    n_samples = SECONDS * RATE
    rows = [utterance.roll(-1601 * row).repeat(-(-n_samples // len(utterance))) for row in range(BATCH)]
    return torch.stack([row[:n_samples] for row in rows])


def write_noises(folder: Path) -> None:
    """Some minutes of pink noise in WAV files."""
    for number in range(N_NOISES):
        generator = np.random.default_rng(number)
        spectrum = np.fft.rfft(generator.standard_normal(NOISE_SECONDS * RATE))
        pink = np.fft.irfft(spectrum / np.sqrt(1 + np.arange(len(spectrum))))
        soundfile.write(folder / f"{number}.wav", 0.1 * pink / pink.std(), RATE)
