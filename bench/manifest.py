"""Manifests of ten million utterances: memory, first batch, resuming, mixing; each in a fresh process."""

from __future__ import annotations

import json
import multiprocessing
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

N_FILES, N_SPEAKERS = 64, 20_000
BATCH, WORKERS, N_BATCHES = 24, 2, 200


def main(_: Path, rounds: int, sizes: tuple[int, ...] = (10_000, 1_000_000, 10_000_000)) -> None:
    """Print a row for each size."""
    print(f"batches of {BATCH}, {WORKERS} data workers; memory is what the process holds above its imports")
    header = (
        "utterances",
        "index, s",
        "open, MB",
        "run, MB",
        "worker, MB",
        "first, s",
        "resume, s",
        "speakers",
    )
    print("".join(f"{name:>11}" for name in header))
    for size in sizes:
        with tempfile.TemporaryDirectory() as folder:
            manifest = write_manifest(Path(folder), size)
            index_s = in_a_process(index, manifest)["seconds"]
            epochs = [in_a_process(first_batches, manifest, 0) for _ in range(rounds)]
            per_epoch = size // BATCH
            places = np.random.default_rng(0).integers(1, per_epoch, size=rounds)
            resumed = [in_a_process(first_batches, manifest, int(place)) for place in places]
            row = [index_s, *(worst(epochs, name) for name in ("open_mb", "run_mb", "worker_mb"))]
            row += [middle(epochs, "first_s"), worst(resumed, "first_s"), min(r["speakers"] for r in epochs)]
            print(
                f"{size:11}" + "".join(f"{value:11.1f}" for value in row[:-1]) + f"{row[-1]:11.0f}",
                flush=True,
            )
    print(
        "worker: memory that it shares with no other process. "
        "index: made once for a manifest.\nfirst: from opening to the first batch, median; resume: the same\n"
        f"in mid-epoch at {rounds} random places, worst. speakers: of {N_SPEAKERS}, in the first 2400 cuts."
    )


def worst(results: list[dict[str, float]], name: str) -> float:
    """The largest of a figure."""
    return max(result[name] for result in results)


def middle(results: list[dict[str, float]], name: str) -> float:
    """The median of a figure."""
    return statistics.median(result[name] for result in results)


def write_manifest(folder: Path, size: int) -> Path:
    """Cuts of a few short files, in the order of their speakers, as corpora are."""
    for number in range(N_FILES):
        samples = 0.1 * np.random.default_rng(number).standard_normal(16_000 + 800 * number)
        soundfile.write(folder / f"{number}.flac", samples, 16_000)
    path = folder / "cuts.jsonl"
    with path.open("w") as file:
        for i in range(size):
            speaker, number = i * N_SPEAKERS // size, (i * 7919) % N_FILES
            line = cut(f"{speaker:05d}-{i:08d}", speaker, folder / f"{number}.flac", number)
            file.write(json.dumps(line) + "\n")
    return path


def cut(name: str, speaker: int, file: Path, number: int) -> dict[str, Any]:
    """A cut as lhotse writes it."""
    n_samples = 16_000 + 800 * number
    seconds = n_samples / 16_000
    said = {"id": name, "recording_id": name, "start": 0.0, "duration": seconds, "channel": 0}
    said |= {"text": "A SENTENCE OF SOME WORDS", "language": "English", "speaker": f"{speaker}"}
    recording = {"id": name, "sources": [{"type": "file", "channels": [0], "source": str(file)}]}
    recording |= {"sampling_rate": 16_000, "num_samples": n_samples, "duration": seconds, "channel_ids": [0]}
    made = {"id": name, "start": 0, "duration": seconds, "channel": 0, "supervisions": [said]}
    return made | {"recording": recording, "type": "MonoCut"}


def in_a_process(function: Callable[..., dict[str, float]], *arguments: Any) -> dict[str, float]:
    """What the function returns, from a process of its own, so that memory is counted from nothing."""
    words = [str(argument) for argument in arguments]
    code = f"import json; from bench.manifest import *; print(json.dumps({function.__name__}(*{words!r})))"
    done = subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout)


def index(manifest: str) -> dict[str, float]:
    """Make the index."""
    from distill.data.sources import index_cuts

    started = time.perf_counter()
    index_cuts(manifest)
    return {"seconds": time.perf_counter() - started}


def first_batches(manifest: str, skip: str) -> dict[str, float]:
    """Open, start after `skip` batches, and draw some."""
    from distill.data.dataset import SpeechDataset
    from distill.data.loading import train_loader
    from distill.data.sources import index_cuts

    base = resident_mb("self")
    started = time.perf_counter()
    loader = train_loader(SpeechDataset(index_cuts(manifest)), batch_size=BATCH, buckets=30, workers=WORKERS)
    loader.sampler.start_after(0, int(skip))  # pyright: ignore
    opened = resident_mb("self") - base
    batches = iter(loader)
    ids = next(batches).ids
    first_s = time.perf_counter() - started
    for _ in range(min(N_BATCHES, loader.sampler.n_batches() - int(skip) - 1)):  # pyright: ignore
        ids += next(batches).ids
    workers = [child.pid for child in multiprocessing.active_children()]
    worker_mb = max(private_mb(pid) for pid in workers if pid)
    run_mb = resident_mb("self") - base
    del batches, loader  # ends the workers
    return {
        "open_mb": opened,
        "run_mb": run_mb,
        "worker_mb": worker_mb,
        "first_s": first_s,
        "speakers": len({name.split("-")[0] for name in ids[:2400]}),
    }


def private_mb(process: int) -> float:
    """Memory that a process shares with no other, in MB."""
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) * 1024 / 1e6


def resident_mb(process: str) -> float:
    """Memory that a process holds, in MB."""
    try:
        pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
        return pages * resource.getpagesize() / 1e6
    except OSError:  # no /proc: the largest so far, of this process
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
