"""Corpora written by hand, and reading what was prepared."""

import numpy as np
import soundfile
from lhotse import CutSet

from distill.data_prep import CORPORA, PUBLISHED
from distill.data_prep.mini_files import write_wav


def noise(path, *, rate=16_000, channels=1, seconds=0.1):
    samples = 0.1 * np.random.default_rng(0).standard_normal((int(rate * seconds), channels))
    write_wav(path, samples, rate)


def prepared(corpus, root, out, **options):
    """{split: cuts}."""
    result = CORPORA[corpus](root, out, **options)
    names = [split.split.name for split in result.results]
    return {name: list(CutSet.from_file(out / f"{name}.jsonl.gz")) for name in names}


def spoken(cut):
    (segment,) = cut.supervisions
    return segment


LIBRISPEECH = PUBLISHED["librispeech"]


def make_librispeech(root, split="dev-clean", *, n_files=6, seconds=0.5):
    """Two chapters of noise; the files in the order of their ids."""
    files = []
    for i in range(n_files):
        folder = root / "LibriSpeech" / split / "84" / f"{i % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        name = f"84-{i % 2}-{i // 2:04d}"
        samples = 0.1 * np.random.default_rng(i).standard_normal(int(seconds * 16_000))
        soundfile.write(folder / f"{name}.flac", samples, 16_000)
        with (folder / f"84-{i % 2}.trans.txt").open("a") as lines:
            lines.write(f"{name} WORDS {i}\n")
        files.append(folder / f"{name}.flac")
    return sorted(files)


def ids(path):
    return [cut.id for cut in CutSet.from_file(path)]


def tone(path, *, rate=16_000, channels=1, duration_s=0.5, hz=440.0, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    wave = 0.3 * np.sin(2 * np.pi * hz * np.arange(round(duration_s * rate)) / rate)
    if channels > 1:  # only the first channel has the tone
        wave = np.stack([wave, *np.zeros((channels - 1, len(wave)))], axis=1)
    soundfile.write(path, wave, rate, **options)
    return path
