"""Speech, recipes and models that word errors are counted with."""

from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from torch import nn

from distill.data.sources import open_cuts
from distill.distortions import DistortionConfig
from distill.downstream.finetuning.units import Characters
from distill.hubert import HubertEncoder
from distill.options import DataConfig, FinetuneRecipe, TestSet

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


class Test(TestSet):
    """A test set; not one of pytest's."""

    __test__ = False

    def __init__(self, sources: list[str], **options: Any):
        super().__init__(sources=sources, **options)


def made(tests: dict[str, Any], **options: Any) -> FinetuneRecipe:
    """A recipe of fine-tuning with these tests."""
    defaults = {
        "name": "finetune_mini",
        "teacher": "random:mini",
        "distortion": DistortionConfig(additive=("dns", "none"), non_additive=("none",)),
        "data": DataConfig(workers=0),
        "trainer": {"accelerator": "cpu", "devices": 1},
    }
    return FinetuneRecipe(tests=tests, **(defaults | options))


def cuts_of(source: str) -> list[Any]:
    """The utterances of a source."""
    return list(open_cuts(source))
