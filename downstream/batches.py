"""Batches for training heads: speech, or its cached features.

Shapes: B utterances, T samples at 16 kHz, F frames, D features, U symbols or slots.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from lhotse.cut import Cut
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset
from typing_extensions import override

from distill.data.audio import read_audio, samples_at_16k
from distill.data.datamodule import ResumableData
from distill.data.dataset import check_length
from distill.data.loading import batch_loader
from distill.data.manifest import ListedCuts
from distill.data.sampler import EpochSampler
from distill.downstream.cache import FeatureCache
from distill.encoder import EncoderConfig
from distill.errors import DataError, UsageError
from distill.hashing import hash_number
from distill.hubert import HubertConfig
from distill.waveforms import SAMPLE_RATE, pad


@dataclass
class HeadBatch:
    """Utterances with their targets, as waveforms, as cached features, or some of each."""

    ids: list[str]
    lengths: Tensor
    """(B,) int64, samples; on the CPU."""
    targets: Tensor
    """(B, U) int64: a class for each slot, or symbols, padded."""
    target_lengths: Tensor
    """(B,) int64, valid symbols; on the CPU."""
    waveforms: Tensor
    """(R, T) of the rows in `online`."""
    online: list[int]
    """Rows whose features are not cached."""
    features: Tensor | None = None
    """(B, F, D) or (B, F, L + 1, D) of the others, zero in the rows of `online`; None: all are online."""
    frames: Tensor | None = None
    """(B,) int64, valid frames, with `features`; on the CPU."""
    weights: Tensor | None = None
    """(B,), weight of each utterance in validation."""
    position: tuple[int, int] = (0, 0)
    """Epoch, and number of the batch in it."""
    skipped: list[tuple[str, str]] = field(default_factory=list)
    """(id, reason) of utterances that could not be used."""

    def __len__(self) -> int:
        return len(self.ids)

    def to(self, device: torch.device | str) -> HeadBatch:
        """The same on `device`; lengths stay on the CPU."""
        moved = {name: getattr(self, name) for name in ("targets", "waveforms", "features")}
        return replace(
            self, **{k: v if v is None else v.to(device, non_blocking=True) for k, v in moved.items()}
        )

    def pin_memory(self) -> HeadBatch:
        """Called by the data loader when it pins memory."""
        for name in ("targets", "waveforms", "features"):
            if (value := getattr(self, name)) is not None:
                setattr(self, name, value.pin_memory())
        return self


class HeadSpeech(Dataset):
    """Labelled utterances by number.

    Args:
        cuts: the utterances.
        targets: by utterance id, classes or symbols.
        caches: features; an utterance that is in one of them is not read from its audio.
        crop_samples: longer utterances are cropped at a random place.
        seed: of the crops.
        rank: of this process; crops differ between processes.
        world_size: number of processes.
        weights: by utterance id, weight in validation.
        model: that computes the features, for their number of frames; default: HuBERT base.
    """

    def __init__(
        self,
        cuts: Sequence[Cut],
        targets: Mapping[str, list[int]],
        *,
        model: EncoderConfig | None = None,
        caches: Sequence[FeatureCache] = (),
        crop_samples: int | None = None,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        weights: Mapping[str, float] | None = None,
    ):
        self.cuts, self.targets, self.caches = ListedCuts(cuts), targets, caches
        self.crop_samples, self.seed, self.weights = crop_samples, seed, weights
        self.rank, self.world_size = rank, world_size
        self.model = model or HubertConfig()

    def __getitem__(self, item: tuple[int, int, Sequence[int]]) -> HeadBatch:
        """Read what (epoch, batch, utterances) asks for."""
        epoch, index, numbers = item
        parts: list[tuple[Cut, Tensor, bool]] = []  # samples, or features if the last is true
        skipped: list[tuple[str, str]] = []
        for row, number in enumerate(numbers):
            cut = self.cuts[number]
            try:
                global_row = row * self.world_size + self.rank
                parts.append((cut, *self._read(cut, (epoch, index, global_row))))
            except DataError as error:
                skipped.append((cut.id, str(error).removeprefix(f"{cut.id}: ")))
        if not parts:
            raise DataError(
                f"a batch of {len(skipped)} utterances has none that can be used: {skipped[0][1]}"
            )
        return replace(self._collate(parts), position=(epoch, index), skipped=skipped)

    def _read(self, cut: Cut, draw: tuple[int, int, int]) -> tuple[Tensor, bool]:
        for cache in self.caches:
            if cut.id in cache:
                features = cache.read(cut.id)
                if features is None:
                    raise DataError(f"{cut.id}: could not be read when its features were extracted")
                return features, True
        total = samples_at_16k(cut)
        start = 0
        if self.crop_samples is not None and total > self.crop_samples:
            start = hash_number(self.seed, *draw, "crop", cut.id) % (total - self.crop_samples + 1)
            total = self.crop_samples
        samples = read_audio(cut, start, total)
        check_length(cut.id, len(samples), self.model)
        return samples, False

    def _collate(self, parts: list[tuple[Cut, Tensor, bool]]) -> HeadBatch:
        ids = [cut.id for cut, _, _ in parts]
        targets, target_lengths = pad([torch.tensor(self.targets[name]) for name in ids])
        online = [row for row, (_, _, ready) in enumerate(parts) if not ready]
        waves = [x for _, x, ready in parts if not ready]
        waveforms, wave_lengths = pad(waves) if waves else (torch.empty(0, 0), torch.empty(0))
        lengths = torch.tensor([samples_at_16k(cut) for cut, _, _ in parts], dtype=torch.int64)
        lengths[online] = wave_lengths.long()
        batch = HeadBatch(ids, lengths, targets, target_lengths, waveforms, online)
        if len(online) < len(parts):
            kept = [x if ready else None for _, x, ready in parts]
            some = next(x for x in kept if x is not None)
            frames = [len(x) if ready else self.model.frames(len(x)) for _, x, ready in parts]
            empty = [torch.zeros(count, *some.shape[1:]) for count in frames]
            filled = [e if x is None else x for x, e in zip(kept, empty, strict=True)]
            batch.features, batch.frames = pad_sequence(filled, batch_first=True), torch.tensor(frames)
        if self.weights is not None:
            batch.weights = torch.tensor([self.weights[name] for name in ids])
        return batch


class BalancedSampler:
    """Draws with replacement, every class equally often; each iteration is one epoch.

    Args:
        weights: of the utterances.
        batch_size: of the global batch.
        seed: of the draws.
        rank: of this process.
        world_size: number of processes.
    """

    def __init__(
        self, weights: Sequence[float], *, batch_size: int, seed: int = 0, rank: int = 0, world_size: int = 1
    ):
        self.ends = np.cumsum(weights) / np.sum(weights)
        self.batch_size, self.seed, self.rank, self.world_size = batch_size, seed, rank, world_size
        self.epoch = self.skip = 0

    def __len__(self) -> int:
        return max(1, len(self.ends) // self.batch_size)

    def start_after(self, epoch: int, batches: int) -> None:
        """Make the next iteration that epoch, without its first batches."""
        self.epoch, self.skip = epoch, batches

    def __iter__(self) -> Iterator[tuple[int, int, list[int]]]:
        epoch, skip = self.epoch, self.skip
        self.epoch, self.skip = epoch + 1, 0
        for index in range(skip, len(self)):
            key = int.from_bytes(
                hashlib.blake2b(f"{self.seed} {epoch} {index}".encode(), digest_size=8).digest()
            )
            draws = np.random.Generator(np.random.Philox(key=key)).random(self.batch_size)
            chosen = np.searchsorted(self.ends, draws, side="right").clip(max=len(self.ends) - 1)
            yield epoch, index, chosen[self.rank :: self.world_size].tolist()


def class_weights(targets: Mapping[str, list[int]]) -> dict[str, float]:
    """By utterance, 1 / the number of utterances of its class (of the first slot)."""
    classes, counts = np.unique([target[0] for target in targets.values()], return_counts=True)
    share = {int(c): 1.0 / int(n) for c, n in zip(classes, counts, strict=True)}
    return {name: share[target[0]] for name, target in targets.items()}


class HeadData(ResumableData):
    """The data loaders of a head's training; checkpoints hold the position in the data.

    Args:
        train: training utterances.
        dev: dev utterances.
        targets: by "train" and "dev", then by utterance id; the same id may be in both.
        caches: by "train" and "dev", features of the frozen model.
        batch_size: utterances of the global batch.
        balanced: draw every class equally often, and weight it equally in validation.
        crop_s: training utterances that are longer are cropped, seconds.
        buckets: batches that are formed together, of utterances of similar duration.
        workers: processes that read.
        seed: of order and crops.
        model: that computes the features, for their number of frames; default: HuBERT base.
    """

    def __init__(
        self,
        train: Sequence[Cut],
        dev: Sequence[Cut],
        targets: Mapping[str, Mapping[str, list[int]]],
        *,
        model: EncoderConfig | None = None,
        caches: Mapping[str, Sequence[FeatureCache]] | None = None,
        batch_size: int = 32,
        balanced: bool = False,
        crop_s: float | None = None,
        buckets: int = 1,
        workers: int = 0,
        seed: int = 0,
    ):
        super().__init__()
        self.cuts = {"train": list(train), "dev": list(dev)}
        self.targets, self.caches, self.batch_size = targets, caches or {}, batch_size
        self.balanced, self.crop_s, self.buckets = balanced, crop_s, buckets
        self.workers, self.seed, self.model = workers, seed, model

    @override
    def train_dataloader(self) -> Any:
        process = self._process()
        if self.batch_size % process["world_size"]:
            raise UsageError(
                f"batch_size {self.batch_size} (global) is not a multiple of the {process['world_size']} "
                "processes"
            )
        options: dict[str, Any] = {"batch_size": self.batch_size, "seed": self.seed, **process}
        cuts, targets, caches = self._of("train")
        if self.balanced:
            weights = class_weights({cut.id: targets[cut.id] for cut in cuts})
            sampler = BalancedSampler([weights[cut.id] for cut in cuts], **options)
        else:
            sampler = EpochSampler(ListedCuts(cuts), buckets=self.buckets, **options)
        sampler.start_after(**self.consumed)
        crop = None if self.crop_s is None else round(self.crop_s * SAMPLE_RATE)
        speech = HeadSpeech(
            cuts,
            targets,
            model=self.model,
            caches=caches,
            crop_samples=crop,
            seed=self.seed,
            **process,
        )
        return batch_loader(sampler, speech, self.workers)

    @override
    def val_dataloader(self) -> Any:
        process = self._process()
        cuts, targets, caches = self._of("dev")
        cuts = sorted(cuts, key=lambda cut: cut.duration)
        weights = class_weights({cut.id: targets[cut.id] for cut in cuts}) if self.balanced else None
        speech = HeadSpeech(cuts, targets, model=self.model, caches=caches, weights=weights)
        sampler = EpochSampler(
            speech.cuts,
            batch_size=max(self.batch_size, process["world_size"]),
            buckets=1,
            shuffle=False,
            rank=process["rank"],
            world_size=process["world_size"],
        )
        return batch_loader(sampler, speech, min(self.workers, 2))

    def _of(self, split: str) -> tuple[list[Cut], Mapping[str, list[int]], Sequence[FeatureCache]]:
        return self.cuts[split], self.targets[split], self.caches.get(split, ())

    def _process(self) -> dict[str, Any]:
        assert self.trainer is not None
        return {"rank": self.trainer.global_rank, "world_size": self.trainer.world_size}
