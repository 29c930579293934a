"""Steps per second of the heads: keyword spotting with the feature cache and without it, the others with it.

    python -m bench heads

The student has the base size and random weights, whose speed is that of trained ones. Keyword spotting hears
noise with the lengths of Speech Commands: a second, and long recordings of silence that are cropped at random
and computed online. The other heads hear random features of utterances that are as long as their corpus's are
on average. Without a GPU, seconds are those of the processor: other programs do not count.
"""

from __future__ import annotations

import statistics
import tempfile
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import soundfile
import torch
from lhotse import Recording
from lhotse.cut import Cut
from pytorch_lightning.callbacks import Callback
from typing_extensions import override

from distill.data.sources import open_cuts
from distill.downstream.batches import HeadData
from distill.downstream.cache import FeatureCache
from distill.downstream.extraction import fill_all
from distill.downstream.features import Selection
from distill.downstream.head_training import HeadTraining
from distill.downstream.labels import CHARACTERS, ClassLabels, Labels, TokenLabels
from distill.downstream.options import EvaluationConfig
from distill.downstream.tasks import TASKS
from distill.hubert import HubertEncoder
from distill.options import LoggingConfig
from distill.training.run_folder import RunFolder
from distill.training.trainer import make_trainer
from distill.waveforms import SAMPLE_RATE

WORDS, RECORDINGS = 256, 5
SPLITS: tuple[str, ...] = ("train", "dev")
UNTIMED = 2
"""First steps, in which caches and memory fill."""
DIM = 768


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What a head hears and says, and how many steps of it are timed."""

    length_s: float
    """Average utterance of the training corpus."""
    labels: Labels
    symbols_per_s: float = 0.0
    """Length of the transcripts; 0: classes."""
    share: float = 1.0
    """Of the length that is heard: a step takes as many times longer as there are more frames."""
    steps: int
    """On one thread."""


SHAPES = {
    "ic": Shape(
        length_s=2.3,  # 14.7 h of 23 132 utterances
        labels=ClassLabels(tuple(tuple(map(str, range(n))) for n in (6, 14, 4)), "label"),
        steps=40,
    ),
    "er": Shape(length_s=4.5, labels=ClassLabels((("ang", "hap", "neu", "sad"),), "label"), steps=80),
    "asr": Shape(
        length_s=12.7,  # 100.6 h of 28 539 utterances
        labels=TokenLabels(CHARACTERS, "characters"),
        symbols_per_s=14.0,
        share=0.1,
        steps=2,
    ),
    "pr": Shape(
        length_s=12.7,
        labels=TokenLabels(tuple(map(str, range(70))), "phones"),
        symbols_per_s=10.0,
        steps=4,
    ),
}


def main(_: Path, rounds: int) -> None:
    """Print rates, the median of rounds in which all take turns."""
    warnings.filterwarnings("ignore", module=r"pytorch_lightning|lightning_fabric|torch\.")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cuts = write_speech(folder / "speech")
        torch.manual_seed(0)
        encoder = HubertEncoder.from_preset("base", layers=2, projection_norm=False).eval()
        selection = Selection("last", 2)
        words = [cut for cut in cuts if cut.duration <= 1.0]
        identity: dict[str, Any] = {"features": "last", "checkpoint_hash": "", "dtype": "float32"}
        cache = FeatureCache(folder / "cache", words, encoder, selection, **identity)
        started = clock()
        fill_all([cache], encoder, selection, devices=[torch.device(device)], workers=1)
        seconds = clock() - started
        print(f"extracting: {len(words) / seconds:.1f} utterances of a second per second ({device})")
        steps = {"uncached": 6, "cached": 100} if device == "cpu" else {"uncached": 100, "cached": 500}
        rates: dict[str, list[float]] = {name: [] for name in (*steps, *SHAPES)}
        for turn in range(rounds):
            for name, count in steps.items():
                caches = [cache] if name == "cached" else []
                rates[name].append(rate_of_keywords(folder / f"{name}{turn}", encoder, cuts, caches, count))
            for name, shape in SHAPES.items():
                rates[name].append(rate_of_shape(folder / f"{name}{turn}", encoder, name, shape))
    print_rate("uncached", "ks", rates["uncached"])
    print_rate("cached", "ks", rates["cached"])
    ratios = [a / b for a, b in zip(rates["cached"], rates["uncached"], strict=True)]
    print(f"    ratio: {statistics.median(ratios):7.1f} ({min(ratios):.1f} to {max(ratios):.1f})")
    for name in SHAPES:
        print_rate("cached", name, rates[name])


def print_rate(what: str, task: str, rates: list[float]) -> None:
    """The median, its spread, and the hours that the task's steps then take, validations apart."""
    middle, options = statistics.median(rates), TASKS[task]
    heads = options.folds or 1
    hours = heads * options.steps / middle / 3600
    of = f"{heads} x {options.steps:,}" if heads > 1 else f"{options.steps:,}"
    print(
        f"{what:>9} {task:>3}: {middle:8.3g} steps/s of batch {options.batch_size} "
        f"({min(rates):.3g} to {max(rates):.3g}); {of} steps: {hours:,.1f} h"
    )


def write_speech(folder: Path) -> list[Cut]:
    """Words of eleven classes, and recordings of half a minute."""
    folder.mkdir()
    generator = np.random.default_rng(0)
    rows = ["path\tlabel"]
    for number in range(WORDS + RECORDINGS):
        word = number < WORDS
        samples = 0.1 * generator.standard_normal(SAMPLE_RATE if word else 30 * SAMPLE_RATE)
        soundfile.write(folder / f"{number}.wav", samples, SAMPLE_RATE)
        rows.append(f"{number}.wav\t{f'word{number % 11}' if word else '_silence_'}")
    (folder / "list.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return list(open_cuts(str(folder / "list.tsv")))  # pyright: ignore[reportReturnType]


def clock() -> float:
    """Seconds."""
    return time.perf_counter() if torch.cuda.is_available() else time.process_time()


class Stopwatch(Callback):
    """Times the steps after the first few."""

    def __init__(self) -> None:
        self.started = self.seconds = 0.0

    @override
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if pl_module.device.type == "cuda":
            torch.cuda.synchronize()
        if trainer.global_step == UNTIMED:
            self.started = clock()
        self.seconds = clock() - self.started


class RandomFeatures:
    """A cache that has features of every utterance; reading converts them as it does a memory map's."""

    def __init__(self, frames: int):
        rng = np.random.default_rng(0)
        self.values = rng.standard_normal((8, frames, DIM), dtype=np.float32).astype(np.float16)

    def __contains__(self, name: str) -> bool:  # noqa: D105
        return True

    def read(self, name: str) -> torch.Tensor:
        """(F, 768) float32: the same features for every eighth utterance."""
        return torch.from_numpy(np.array(self.values[int(name) % 8], dtype=np.float32))


def rate_of_keywords(
    out: Path, encoder: HubertEncoder, cuts: list[Cut], caches: list[FeatureCache], steps: int
) -> float:
    """Steps per second of keyword spotting."""
    labels = ClassLabels.of(cuts, "label")
    targets = dict.fromkeys(SPLITS, {cut.id: labels.targets(cut) for cut in cuts})
    workers = 4 if torch.cuda.is_available() else 0
    kept = dict.fromkeys(targets, caches)
    data = HeadData(cuts, cuts[:1], targets, caches=kept, balanced=True, crop_s=1.0, workers=workers)
    return rate(out, encoder, "ks", labels, data, steps)


def rate_of_shape(out: Path, encoder: HubertEncoder, task: str, shape: Shape) -> float:
    """Steps per second from cached features."""
    seconds = shape.share * shape.length_s
    n_samples = round(seconds * SAMPLE_RATE)
    many = 4 * TASKS[task].batch_size
    recordings = [Recording(str(number), [], SAMPLE_RATE, n_samples, seconds) for number in range(many)]
    cuts: list[Cut] = [recording.to_cut() for recording in recordings]
    if shape.symbols_per_s:
        length = round(seconds * shape.symbols_per_s)
        targets = {cut.id: [1 + (int(cut.id) + place) % 20 for place in range(length)] for cut in cuts}
    else:
        assert isinstance(shape.labels, ClassLabels)
        targets = {cut.id: [int(cut.id) % len(slot) for slot in shape.labels.slots] for cut in cuts}
    caches: Any = [RandomFeatures(encoder.config.frames(n_samples))]
    of_split = dict.fromkeys(SPLITS, targets)
    kept: Any = dict.fromkeys(SPLITS, caches)
    data = HeadData(cuts, cuts[:1], of_split, caches=kept, batch_size=TASKS[task].batch_size)
    steps = shape.steps * (10 if torch.cuda.is_available() else 1)
    return shape.share * rate(out, encoder, task, shape.labels, data, steps)


def rate(out: Path, encoder: HubertEncoder, task: str, labels: Labels, data: HeadData, steps: int) -> float:
    """Steps per second of a training as `evaluate` does it, validation apart."""
    config = EvaluationConfig(
        task=task,
        steps=steps + UNTIMED,
        logging=LoggingConfig(wandb="off"),
    )
    recipe = config.recipe()
    head = labels.head(DIM, None)
    augment = TASKS[task].kind == "characters"
    module = HeadTraining(encoder, Selection("last", 2), head, labels, recipe.optim, augment=augment)
    trainer = make_trainer(recipe, RunFolder(out))
    stopwatch = Stopwatch()
    trainer.callbacks.append(stopwatch)  # pyright: ignore[reportAttributeAccessIssue]
    trainer.fit(module, datamodule=data)
    return steps / stopwatch.seconds
