"""What one process does to make a shard of targets: read the speech, compute features, sample or label them.

Shapes: F frames at the rate of the features (100 Hz for MFCC, else the encoder's), D features, K clusters.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lhotse import CutSet
from lhotse.cut import Cut
from torch import Tensor

from distill.adaptation.mfcc import align_labels, mfcc_features
from distill.adaptation.targets import layer_features, nearest, pack_labels
from distill.checkpoints.files import atomic
from distill.checkpoints.weights import fill_encoder
from distill.data.audio import read_audio
from distill.data.manifest import Cuts
from distill.errors import DataError
from distill.hashing import hash_number
from distill.hubert import HubertConfig, HubertEncoder

logger = logging.getLogger(__name__)

Speech = CutSet | Cuts


def each(cuts: Speech) -> Iterator[Cut]:
    """The cuts, one after the other."""
    yield from iter(cuts)  # pyright: ignore[reportGeneralTypeIssues]


def sample_name(index: int) -> str:
    """File of a shard's frames for the k-means."""
    return f"sample-{index:05d}.npy"


def labels_name(index: int) -> str:
    """File of a shard's labels."""
    return f"labels-{index:05d}.npz"


@dataclass(frozen=True, kw_only=True)
class Job:
    """All that a process has to know."""

    cuts: Speech
    folder: Path
    n_cuts: int
    shard_size: int
    """Utterances of a shard; shard i has those from i * shard_size on."""
    width: int
    """D."""
    seed: int
    config: HubertConfig
    """Of the encoder, or, for MFCC, of the model whose frames get the labels."""
    shortest: int
    """Samples at 16 kHz that an utterance must have."""
    weights: dict[str, Tensor] | None
    """Of the encoder; None for MFCC. Config and weights, since parametrised modules cannot be pickled."""
    layer: int | None
    keep: np.ndarray
    """(n_cuts,) how many frames of each utterance go into the sample."""

    def positions(self, index: int) -> range:
        """Where a shard's cuts are in the manifest."""
        return range(index * self.shard_size, min((index + 1) * self.shard_size, self.n_cuts))


class ShardMaker:
    """Makes shards of a job; what it needs is loaded when the first one is asked for.

    Args:
        job: what to do.
        device: "cpu" or "cuda", or one device such as "cuda:1".
    """

    def __init__(self, job: Job, device: str):
        self.job = job
        self.device = device
        self.encoder: HubertEncoder | None = None
        self.codebook: Tensor | None = None
        self.cuts = _Forward(job.cuts)

    def __call__(self, kind: str, index: int, tick: Callable[[int], Any]) -> None:
        """Make the "sample" or the "label" file of a shard; `tick(1)` after each utterance."""
        if self.job.weights is not None and self.encoder is None:
            self.encoder = fill_encoder(self.job.config, self.job.weights, "the teacher").to(self.device)
            self.encoder.layers = self.encoder.layers[: self.job.layer]  # later ones change nothing
        if kind == "sample":
            self._sample(index, tick)
        else:
            self._label(index, tick)

    def _sample(self, index: int, tick: Callable[[int], Any]) -> None:
        """Random frames of a shard, in the order of the manifest."""
        job = self.job
        drawn = [np.zeros((0, job.width), np.float32)]
        for position, name, waveform in self._utterances(index, job.keep > 0, tick):
            features = self.features(waveform).numpy()
            count = min(int(job.keep[position]), len(features))
            if count < len(features):
                rng = np.random.default_rng(hash_number(job.seed, "frames", name))
                # a copy, so that not all of the utterance's frames are held
                features = features[np.sort(rng.choice(len(features), count, replace=False))]
            drawn.append(features)
        with atomic(job.folder / sample_name(index)) as path, path.open("wb") as stream:
            np.save(stream, np.concatenate(drawn))

    def _label(self, index: int, tick: Callable[[int], Any]) -> None:
        """Labels of a shard, how far its frames are from their centres, and how many they are."""
        if self.codebook is None:
            self.codebook = torch.from_numpy(np.load(self.job.folder / "codebook.npy"))
        labels: dict[str, np.ndarray] = {}
        skipped: list[str] = []
        total, count = 0.0, 0
        for _, name, waveform in self._utterances(index, None, tick, skipped):
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
        with atomic(self.job.folder / labels_name(index)) as path, path.open("wb") as stream:
            np.savez(stream, **arrays)

    def features(self, waveform: Tensor) -> Tensor:
        """(T,) at 16 kHz -> (F, D) float32 on the CPU."""
        if self.encoder is None:
            return mfcc_features(waveform)
        assert self.job.layer is not None
        return layer_features(self.encoder, waveform, self.job.layer)

    def _utterances(
        self,
        index: int,
        wanted: np.ndarray | None,
        tick: Callable[[int], Any],
        skipped: list[str] | None = None,
    ) -> Iterator[tuple[int, str, Tensor]]:
        """(position in the manifest, id, waveform (T,)) of a shard's usable utterances, those wanted.

        The others go to `skipped`, as lines of id and reason.
        """
        positions = self.job.positions(index)
        for position, cut in zip(positions, self.cuts.take(positions), strict=True):
            if wanted is not None and not wanted[position]:
                continue
            try:
                waveform = read_audio(cut)
                if len(waveform) < self.job.shortest:
                    raise DataError(f"{cut.id}: shorter than one frame")
                yield position, cut.id, waveform
            except DataError as error:
                if skipped is not None:  # said once, not at the sample too
                    reason = " ".join(str(error).removeprefix(f"{cut.id}: ").split())
                    skipped.append(f"{cut.id}\t{reason}")
                    logger.warning("skipped %s: %s", cut.id, reason)
            tick(1)


class _Forward:
    """Cuts by position: a lazy manifest is read on from where it is, not from its start for every shard."""

    def __init__(self, cuts: Speech):
        self.cuts = cuts
        self.iterator: Iterator[Cut] = iter(())
        self.position: int | None = None

    def take(self, positions: range) -> list[Cut]:
        if isinstance(self.cuts, Sequence):
            return [self.cuts[position] for position in positions]
        if self.position is None or positions.start < self.position:
            self.iterator, self.position = each(self.cuts), 0
        skip = positions.start - self.position
        self.position = positions.stop
        return list(itertools.islice(self.iterator, skip, skip + len(positions)))
