"""Speech, recipes and models that word errors are counted with."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from torch import nn

from distill.data.sources import open_cuts
from distill.downstream.finetuning.units import Characters
from distill.hubert import HubertEncoder
from distill.optim import OptimConfig
from distill.options import DataConfig

UNITS = Characters()
SAID = ["THE CAT SAT", "A DOG'S HAT", "NO", "THE CAT IS ON THE MAT"]


def write_speech(folder: Path, texts=tuple(SAID), *, first: int = 4_000) -> str:
    """A TSV of utterances with transcripts, the n-th of `first` + 100 n samples of noise."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(0)
    lines = ["path\ttext"]
    for number, text in enumerate(texts):
        samples = 0.1 * generator.standard_normal(first + 100 * number)
        soundfile.write(folder / f"u{number}.wav", samples, 16_000)
        lines.append(f"u{number}.wav\t{text}")
    (folder / "speech.tsv").write_text("\n".join(lines) + "\n")
    return str(folder / "speech.tsv")


class Reader(nn.Module):
    """Stands in for a fine-tuned model: knows utterances by their length, and keeps what it hears.

    Args:
        said: by number of samples, what it writes.
    """

    def __init__(self, said: dict[int, str]):
        super().__init__()
        torch.manual_seed(0)
        self.encoder = HubertEncoder.from_preset("mini", layers=1)
        self.said, self.heard = said, {}

    def forward(self, waveforms, lengths):
        rows = []
        for wave, n_samples in zip(waveforms, lengths.tolist(), strict=True):
            self.heard[n_samples] = wave[:n_samples].clone()
            numbers = [0] + [part for number in UNITS.encode(self.said[n_samples]) for part in (number, 0)]
            rows.append(nn.functional.one_hot(torch.tensor(numbers), UNITS.outputs).float())
        frames = torch.tensor([len(row) for row in rows])
        padded = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=1.0)
        return (20.0 * padded).log_softmax(-1), frames


def reader(texts=tuple(SAID), *, first: int = 4_000) -> Reader:
    """A model that writes these texts for utterances of `write_speech`."""
    return Reader({first + 100 * number: text for number, text in enumerate(texts)})


@dataclass
class Test:
    """A test set."""

    __test__ = False  # of pytest

    sources: list[str]
    condition: str | None = None
    snr_db: list[float] | None = None
    noises: dict[str, list[str]] = field(default_factory=dict)


@dataclass
class Decoding:
    """Options of decoding."""

    lm: str | None = None
    lexicon: list[str] = field(default_factory=list)
    beam: int = 50
    test_beam: int = 500
    lm_weight: float = 2.0
    word_score: float | None = None
    trials: int = 0


@dataclass
class Made:
    """What tests read of a recipe of fine-tuning."""

    tests: dict[str, Test]
    transcripts: str | None = None
    name: str = "finetune_mini"
    kind: str = "finetune"
    teacher: str = "random:mini"
    frozen: bool = False
    distort: bool = False
    distortion: dict[str, Any] = field(default_factory=lambda: {"additive": ["dns", "none"]})
    seed: int = 0
    data: DataConfig = field(default_factory=lambda: DataConfig(workers=0))
    optim: OptimConfig = field(default_factory=OptimConfig)
    decoding: Decoding = field(default_factory=Decoding)
    trainer: dict[str, Any] = field(default_factory=lambda: {"accelerator": "cpu", "devices": 1})


def cuts_of(source: str) -> list[Any]:
    """The utterances of a source."""
    return list(open_cuts(source))
