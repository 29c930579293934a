"""A list of noises that are said to be words, and recipes for it."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from distill.config import from_words
from distill.options import FinetuneRecipe

TEACHERS = ("random:mini", "random:spiral_mini")

SENTENCES = ("a cat", "the dog", "no", "it's", "on a mat", "yes", "the cat", "a dog", "to me", "go")


def write_speech(folder: Path, sentences, *, seconds=(0.6, 1.2)) -> Path:
    """A TSV with a transcript for each file of noise, u00.wav and so on; returns it."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(0)
    rows = ["path\ttext\tlabel"]
    for number, sentence in enumerate(sentences):
        n_samples = int(16_000 * generator.uniform(*seconds))
        samples = 0.1 * generator.standard_normal(n_samples)
        soundfile.write(folder / f"u{number:02d}.wav", samples, 16_000)
        rows.append(f"u{number:02d}.wav\t{sentence}\t{sentence.replace(' ', '_')}")
    (folder / "list.tsv").write_text("\n".join(rows) + "\n")
    return folder / "list.tsv"


@pytest.fixture(scope="session")
def spoken(tmp_path_factory) -> Path:
    return write_speech(tmp_path_factory.mktemp("spoken"), SENTENCES)


def small(speech: Path, *words: str) -> FinetuneRecipe:
    """A recipe of a few quick steps on a list."""
    given = {
        "name": "small",
        "teacher": TEACHERS[-1],
        "units": "characters",
        "classifier": {"width": 8, "upsampling_width": 8},
        "data": {"train": [str(speech)], "dev": [str(speech)], "batch_size": 4, "workers": 0},
        "optim": {"max_steps": 6, "lr": 1e-3, "decay": "tri-stage", "floor": 0.05},
        "validation": {"every_n_steps": 3},
        "logging": {"wandb": "off", "every_n_steps": 1},
        "trainer": {"accelerator": "cpu"},
    }
    return from_words(FinetuneRecipe, given, words)
