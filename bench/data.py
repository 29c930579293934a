"""Speed of the data loader, from FLAC files to batches on the device, beside a bare decode of the same files.

    python -m bench data
    python -m bench data --workers 8 --device cuda

Files of real speech with LibriSpeech's lengths, a manifest, batches of 24 in the order of training. Figures
are audio-seconds per CPU-second, of the reading process alone where nothing else is said: medians over the
rounds with least and most; every round runs every contender once. "Of the decode" is the share of
soundfile's rate: what is left of a core after everything that is not decoding. Worker processes are measured
by the clock, and by the CPU time of all of them.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import soundfile

from bench import report
from bench.batches import librispeech
from bench.contenders import Contender, Run, synchronize, take_turns
from distill.batch import Batch
from distill.data.dataset import SpeechDataset
from distill.data.loading import train_loader
from distill.data.noise import NoiseReader
from distill.data.recordings import read_header, recording_of
from distill.data.sources import index_cuts
from distill.distortions import CONDITIONS, Distorter
from distill.waveforms import SAMPLE_RATE

SPEECH = Path(__file__).parents[1] / "tests" / "golden" / "sox_effects.npz"
BATCH, BUCKETS, N_NOISES, NOISE_SECONDS = 24, 30, 8, 60
GPU_NEEDS, ITS_WORKERS = 6_000, 8
"""Audio-seconds per second that a GPU is to be fed with, and by how many workers."""


def main(arguments: list[str]) -> int:
    """Measure and print."""
    options = _parser().parse_args(arguments)
    warnings.filterwarnings("ignore", message="This DataLoader will create")  # more workers than cores
    environment = report.environment()
    with tempfile.TemporaryDirectory() as folder:
        corpus = Corpus(Path(folder), options.files)
        reading = [
            _contender("soundfile, bare decode", lambda: corpus.decode, corpus),
            _contender("ours, clean", lambda: corpus.read(()), corpus),
            _contender("ours, setup1: one view with its noise", lambda: corpus.read(("student",)), corpus),
            _contender("ours, setup2: two views", lambda: corpus.read(("student", "teacher")), corpus),
        ]
        take_turns(reading, options.rounds)
        loaded = {n: load(corpus, n, options.rounds, options.device) for n in sorted({1, options.workers})}
    found = figures(reading, loaded)
    text = f"{report.heading(environment)}\n\n{as_text(found, corpus, options.rounds)}"
    print(text)
    report.write(options, {"environment": environment} | found, text)
    return 0


class Corpus:
    """FLAC files, their manifest, and noise.

    Args:
        folder: for all of them.
        n_files: of speech.
    """

    def __init__(self, folder: Path, n_files: int):
        lengths = librispeech(n_files)
        self.folder = folder
        self.audio_s = sum(lengths) / SAMPLE_RATE
        self.files = write_speech(folder / "speech", lengths)
        self.manifest = write_manifest(folder / "cuts.jsonl", self.files)
        write_noises(folder / "noise")

    def decode(self, number: int) -> None:
        """All files, as float32."""
        for file in self.files:
            soundfile.read(file, dtype="float32")

    def dataset(self, streams: tuple[str, ...]) -> SpeechDataset:
        """As training makes it."""
        noises = {name: str(self.folder / "noise") for name in ("musan", "wham")} if streams else {}
        return SpeechDataset(
            index_cuts(str(self.manifest)),
            distorter=Distorter.from_config(CONDITIONS["2-dist"]),
            noises=NoiseReader(noises),
            streams=streams,
        )

    def read(self, streams: tuple[str, ...]) -> Run:
        """An epoch of batches, read in this process."""
        loader = train_loader(self.dataset(streams), batch_size=BATCH, buckets=BUCKETS, workers=0)

        def run(number: int) -> None:
            for _ in loader:
                pass

        return run


def _contender(name: str, make: Callable[[], Run], corpus: Corpus) -> Contender:
    return Contender(name, make, corpus.audio_s, settle=False, optional=False)


def load(corpus: Corpus, workers: int, rounds: int, device: str) -> dict[str, list[float]]:
    """Speeds of an epoch with data workers, clean: by the clock, and per CPU-second of the workers."""
    loader = train_loader(corpus.dataset(()), batch_size=BATCH, buckets=BUCKETS, workers=workers)
    speeds: dict[str, list[float]] = {"wall": [], "cpu": []}
    for number in range(rounds + 1):
        with worker_seconds() as taken:
            started = time.perf_counter()
            for batch in loader:
                assert isinstance(batch, Batch)
                batch.to(device)
            synchronize(device)
            seconds = time.perf_counter() - started
        if number:  # the first starts the workers
            speeds["wall"].append(corpus.audio_s / seconds)
            speeds["cpu"].append(corpus.audio_s / taken[0])
    del loader  # ends the workers
    return speeds


@contextmanager
def worker_seconds() -> Iterator[list[float]]:
    """CPU-seconds of the children of this process during the block; they may be started in it."""
    before, taken = _children_seconds(), [float("nan")]
    yield taken
    after = _children_seconds()
    taken[0] = sum(seconds - before.get(pid, 0.0) for pid, seconds in after.items())


def _children_seconds() -> dict[int, float]:
    found = {}
    for child in multiprocessing.active_children():
        try:
            fields = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:  # no /proc, or gone
            continue
        found[child.pid] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return found


def figures(reading: list[Contender], loaded: dict[int, dict[str, list[float]]]) -> dict[str, Any]:
    """All speeds, and what 8 workers would deliver."""
    decode = median(reading[0].speeds)
    per_core = median(loaded[1]["cpu"])
    return {
        "in_process": {one.name: one.speeds for one in reading},
        "of_decode": {one.name: median(one.speeds) / decode for one in reading},
        "loader": loaded,
        "loader_of_decode": per_core / decode,
        "eight_workers": ITS_WORKERS * per_core,
    }


def as_text(found: dict[str, Any], corpus: Corpus, rounds: int) -> str:
    """The table in Markdown."""
    rows = [
        [name, report.spread(speeds, 0), f"{found['of_decode'][name]:.0%}"]
        for name, speeds in found["in_process"].items()
    ]
    decode = median(found["in_process"]["soundfile, bare decode"])
    for workers, speeds in found["loader"].items():
        name = f"ours, clean, {workers} worker{'s' if workers > 1 else ''}"
        share = f"{median(speeds['cpu']) / decode:.0%}"
        rows.append([f"{name}, per CPU-second of theirs", report.spread(speeds["cpu"], 0), share])
        rows.append([f"{name}, by the clock", report.spread(speeds["wall"], 0), ""])
    header = ("audio-s per CPU-second, or per second by the clock", "median (least to most)", "of the decode")
    eight, need = found["eight_workers"], found["eight_workers"] / GPU_NEEDS
    return (
        f"{len(corpus.files)} FLAC files, {corpus.audio_s:.0f} s of speech, {report.in_rounds(rounds)}\n\n"
        f"{report.rows_to_markdown(header, rows)}\n\n"
        f"{ITS_WORKERS} such workers on cores of their own would deliver {eight:.0f} audio-s/s: "
        f"{need:.1f} x the {GPU_NEEDS} of the goal."
    )


def write_speech(folder: Path, lengths: list[int]) -> list[Path]:
    """Files of real speech: a stored utterance, repeated, from another place and at another level in each."""
    folder.mkdir()
    with np.load(SPEECH) as file:
        utterance = file["input"]
    files = []
    for number, n_samples in enumerate(lengths):
        start, level = 1601 * number % len(utterance), 0.5 + 0.5 * (number % 7) / 7
        samples = np.resize(np.roll(utterance, -start), n_samples) * level
        files.append(folder / f"{number:04d}.flac")
        soundfile.write(files[-1], samples, SAMPLE_RATE, subtype="PCM_16")
    return files


def write_manifest(path: Path, files: list[Path]) -> Path:
    """Cuts with a supervision, as `distill data prepare` writes them."""
    from lhotse import CutSet, SupervisionSegment

    cuts = []
    for file in files:
        recording = recording_of(file, read_header(file), file.stem)
        said = SupervisionSegment(
            id=file.stem,
            recording_id=file.stem,
            start=0.0,
            duration=recording.duration,
            text="SOME WORDS " * 12,
        )
        cut = recording.to_cut()
        cut.supervisions = [said]
        cuts.append(cut)
    CutSet.from_cuts(cuts).to_file(path)
    return path


def write_noises(folder: Path) -> None:
    """Some minutes of noise in FLAC files."""
    folder.mkdir()
    for number in range(N_NOISES):
        samples = 0.1 * np.random.default_rng(number).standard_normal(NOISE_SECONDS * SAMPLE_RATE)
        soundfile.write(folder / f"{number}.flac", samples, SAMPLE_RATE)


def _parser() -> argparse.ArgumentParser:
    parser = report.make_parser("data", __doc__)
    parser.add_argument("--workers", type=report.positive, default=2, help="besides one (%(default)s)")
    parser.add_argument("--files", type=report.positive, default=120, help="of about 12 s (%(default)s)")
    parser.add_argument("--rounds", type=report.positive, default=5, help="to take medians of (%(default)s)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="(%(default)s)")
    return parser
