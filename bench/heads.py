"""Steps per second of a keyword spotting head, from the feature cache and without it.

    python -m bench heads

The student has the base size and random weights, whose speed is that of trained ones; the speech is noise
with the lengths of Speech Commands: a second, and long recordings of silence that are cropped at random and
computed online. Without a GPU, seconds are those of the processor: other programs do not count.
"""

from __future__ import annotations

import statistics
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import soundfile
import torch
from lhotse.cut import Cut
from pytorch_lightning.callbacks import Callback

from distill.hubert import SAMPLE_RATE, HubertEncoder
from distill.options import LoggingConfig
from distill.runs import make_trainer
from distill.sources import open_cuts
from downstream.batches import HeadData
from downstream.cache import FeatureCache, fill_all
from downstream.features import Selection
from downstream.labels import ClassLabels
from downstream.options import EvaluationConfig
from downstream.runner import HeadTraining

WORDS, RECORDINGS = 256, 5
UNTIMED = 2
"""First steps, in which caches and memory fill."""


def main(_: Path, rounds: int) -> None:
    """Print the two rates and their ratio, the median of rounds in which both take turns."""
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
        rates: dict[str, list[float]] = {name: [] for name in steps}
        for turn in range(rounds):
            for name, count in steps.items():
                caches = [cache] if name == "cached" else []
                rates[name].append(rate(folder / f"{name}{turn}", encoder, cuts, caches, count))
        for name, found in rates.items():
            spread = f"{min(found):.2f} to {max(found):.2f}"
            print(f"{name:>9}: {statistics.median(found):7.2f} steps/s, batch 32 ({spread})")
        ratios = [a / b for a, b in zip(rates["cached"], rates["uncached"], strict=True)]
        print(f"    ratio: {statistics.median(ratios):7.1f} ({min(ratios):.1f} to {max(ratios):.1f})")


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

    def on_train_batch_end(  # noqa: D102
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if pl_module.device.type == "cuda":
            torch.cuda.synchronize()
        if trainer.global_step == UNTIMED:
            self.started = clock()
        self.seconds = clock() - self.started


def rate(out: Path, encoder: HubertEncoder, cuts: list[Cut], caches: list[FeatureCache], steps: int) -> float:
    """Steps per second of a training as `evaluate` does it, validation apart."""
    config = EvaluationConfig(
        task="ks",
        steps=steps + UNTIMED,
        logging=LoggingConfig(wandb="off"),
    )
    labels = ClassLabels.of(cuts, "label")
    targets = {cut.id: labels.targets(cut) for cut in cuts}
    recipe = config.recipe()
    head = labels.head(encoder.config.dim, None)
    module = HeadTraining(encoder, Selection("last", 2), head, labels, recipe.optim)
    workers = 4 if torch.cuda.is_available() else 0
    data = HeadData(cuts, cuts[:1], targets, caches=caches, balanced=True, crop_s=1.0, workers=workers)
    trainer = make_trainer(recipe, out)
    stopwatch = Stopwatch()
    trainer.callbacks.append(stopwatch)  # pyright: ignore[reportAttributeAccessIssue]
    trainer.fit(module, datamodule=data)
    return steps / stopwatch.seconds
