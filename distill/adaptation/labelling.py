"""One block of targets: read its speech, compute features, and sample them or label them.

Shapes: F frames at the rate of the features (100 Hz for MFCC, else the encoder's), D features, K clusters.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from distill.adaptation.kmeans import nearest
from distill.adaptation.layer_features import layer_features
from distill.adaptation.mfcc import align_labels, mfcc_features
from distill.adaptation.targets import pack_labels
from distill.adaptation.utterances import CutReader, Speech
from distill.atomic import atomic
from distill.checkpoints.codebooks import load_codebook
from distill.checkpoints.weights import fill_encoder
from distill.data.audio import read_audio
from distill.data.blocks import Tick
from distill.errors import DataError
from distill.hashing import hash_number
from distill.hubert import HubertConfig, HubertEncoder

logger = logging.getLogger(__name__)

SAMPLE, LABELS = "sample", "labels"
"""The two kinds of blocks: frames for the k-means, and labels of all frames."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """All that a process has to know."""

    cuts: Speech
    folder: Path
    blocks: list[range]
    """Numbers of each block's utterances."""
    width: int
    """D."""
    seed: int
    config: HubertConfig
    """Of the encoder, or, for MFCC, of the model whose frames get the labels."""
    min_samples: int
    """Samples at 16 kHz that an utterance must have."""
    weights: dict[str, Tensor] | None
    """Of the encoder; None for MFCC. Config and weights, since parametrised modules cannot be pickled."""
    layer: int | None
    to_sample: np.ndarray
    """(N,) how many frames of each utterance go into the sample."""

    def path(self, kind: str, block: int) -> Path:
        """The file of a block."""
        return self.folder / f"{kind}-{block:05d}.{'npy' if kind == SAMPLE else 'npz'}"

    def missing(self, kind: str) -> list[int]:
        """Blocks that have no file yet."""
        return [block for block in range(len(self.blocks)) if not self.path(kind, block).exists()]

    def wanted(self, kind: str, block: int) -> list[int]:
        """Numbers of the utterances of a block that are read for it."""
        return [n for n in self.blocks[block] if kind == LABELS or self.to_sample[n] > 0]


class TargetsMaker:
    """Makes blocks of a job; what it needs is loaded when the first one is asked for.

    Args:
        job: what to do.
    """

    device = "cpu"
    """"cpu" or "cuda", or one device such as "cuda:1"."""

    def __init__(self, job: Job):
        self.job = job
        self.encoder: HubertEncoder | None = None
        self.codebook: Tensor | None = None
        self.cuts = CutReader(job.cuts)

    def __call__(self, kind: str, block: int, tick: Tick) -> bool:
        """Make the `SAMPLE` or `LABELS` file of a block; `tick(1)` after each utterance."""
        if self.job.weights is not None and self.encoder is None:
            encoder = fill_encoder(self.job.config, self.job.weights, "the teacher").to(self.device)
            assert isinstance(encoder, HubertEncoder)
            self.encoder = encoder
            self.encoder.layers = self.encoder.layers[: self.job.layer]  # later ones change nothing
        with _threads(1 if self.encoder is None else torch.get_num_threads()):
            save = self._sample(block, tick) if kind == SAMPLE else self._label(block, tick)
        with atomic(self.job.path(kind, block)) as path, path.open("wb") as stream:
            save(stream)
        return True

    def _sample(self, block: int, tick: Tick) -> Callable[[Any], None]:
        """Random frames of a block, in the order of the manifest."""
        drawn = [np.zeros((0, self.job.width), np.float32)]
        for number, name, waveform in self._utterances(SAMPLE, block, tick, []):
            features = self.features(waveform).numpy()
            count = min(int(self.job.to_sample[number]), len(features))
            if count < len(features):
                rng = np.random.default_rng(hash_number(self.job.seed, "frames", name))
                # a copy, so that not all of the utterance's frames are held
                features = features[np.sort(rng.choice(len(features), count, replace=False))]
            drawn.append(features)
        return lambda stream: np.save(stream, np.concatenate(drawn))

    def _label(self, block: int, tick: Tick) -> Callable[[Any], None]:
        """Labels of a block, how far its frames are from their centres, and how many frames there are."""
        if self.codebook is None:
            self.codebook = load_codebook(self.job.folder)
        labels: dict[str, np.ndarray] = {}
        skipped: list[str] = []
        total, count = 0.0, 0
        for _, name, waveform in self._utterances(LABELS, block, tick, skipped):
            found, distance = nearest(self.features(waveform), self.codebook)
            total, count = total + float(distance.double().sum()), count + len(distance)
            if self.encoder is None:
                found = align_labels(found, self.job.config.frames(len(waveform)), self.job.config)
            labels[name] = found.to(torch.int16).numpy()
        arrays: dict[str, Any] = pack_labels(labels) | {
            "squared_distance": np.array(total),
            "frames": np.array(count),
            "skipped": np.array(skipped, dtype=np.str_),
        }
        return lambda stream: np.savez(stream, **arrays)

    def features(self, waveform: Tensor) -> Tensor:
        """(T,) at 16 kHz -> (F, D) float32 on the CPU."""
        if self.encoder is None:
            return mfcc_features(waveform)
        assert self.job.layer is not None
        return layer_features(self.encoder, waveform, self.job.layer)

    def _utterances(
        self, kind: str, block: int, tick: Tick, skipped: list[str]
    ) -> Iterator[tuple[int, str, Tensor]]:
        """(number, id, waveform (T,)) of a block's usable utterances; the others go to `skipped`.

        As lines of id and reason. They are warned of once, with the labels.
        """
        wanted = set(self.job.wanted(kind, block))
        numbers = self.job.blocks[block]
        for number, cut in zip(numbers, self.cuts.take(numbers), strict=True):
            if number not in wanted:
                continue
            try:
                waveform = read_audio(cut)
                if len(waveform) < self.job.min_samples:
                    raise DataError(f"{cut.id}: shorter than one frame")
                yield number, cut.id, waveform
            except DataError as error:
                reason = " ".join(str(error).removeprefix(f"{cut.id}: ").split())
                skipped.append(f"{cut.id}\t{reason}")
                if kind == LABELS:
                    logger.warning("skipped %s: %s", cut.id, reason)
            tick(1)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Compute with this many threads: sharing the MFCC of one utterance costs more than it saves."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
