"""The loaders of a recipe in each process, with the position in the data as part of the checkpoint."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytorch_lightning as pl
from typing_extensions import override

from distill.batch import Batch
from distill.data.dataset import SpeechDataset
from distill.data.loading import dev_loader, train_loader
from distill.data.manifest import Cuts, at_least, fingerprint
from distill.data.noise import NoiseReader
from distill.data.sources import index_cuts
from distill.data.unusable import blame
from distill.distortions import Distorter
from distill.encoder import EncoderConfig
from distill.errors import ConfigError, DataError
from distill.options import Recipe
from distill.processes import is_first_process, largest_of_all
from distill.waveforms import SAMPLE_RATE

logger = logging.getLogger(__name__)


class NothingUsable(DataError):
    """One process has a batch without a usable utterance; all processes raise it together.

    Args:
        skipped: (id, reason) of every utterance that this process tried.
    """

    joint = True

    def __init__(self, skipped: Sequence[tuple[str, str]]):
        last = f"; the last: {blame(*skipped[-1], quoted=True)}" if skipped else ""
        super().__init__(
            "no utterance of a batch can be used, nor any of those tried in its place from all over the "
            f"corpus{last}"
        )
        self.skipped = skipped


class ResumableData(pl.LightningDataModule):
    """A data module that resumes where it was: its checkpoint says which batches were consumed.

    Batches have a `position`, (epoch, index); training loaders start after `consumed`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.consumed = {"epoch": 0, "batches": 0}

    @override
    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Note the position of the batch that the model is about to see: prefetched ones do not count."""
        assert self.trainer is not None
        if self.trainer.training:
            epoch, index = batch.position
            self.consumed = {"epoch": epoch, "batches": index + 1}
        return batch

    @override
    def state_dict(self) -> dict[str, Any]:
        """Batches consumed in this epoch."""
        return dict(self.consumed)

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Start after those batches."""
        self.consumed = state_dict


class SpeechData(ResumableData):
    """The loaders of a recipe, and the position in the data as part of the checkpoint.

    Args:
        recipe: its data, distortion and seed.
        streams: the distorted views that a batch has ("student", "teacher").
        targets: of "train" and of "dev", cluster labels by utterance id (masked prediction).
        model: whose frames crops and labels follow; default: HuBERT base's.
        other_speech: a resumed run may continue at its position although the training speech has changed.
        share: gets "train" or "dev" and a loader, and returns the one to use, where runs read together.
    """

    def __init__(
        self,
        recipe: Recipe,
        *,
        streams: Sequence[str],
        targets: Mapping[str, Mapping[str, np.ndarray]] | None = None,
        model: EncoderConfig | None = None,
        other_speech: bool = False,
        share: Callable[[str, Any], Any] | None = None,
    ):
        super().__init__()
        self.other_speech = other_speech
        self.resumed = (0, 0)  # epoch and number of processes of the checkpoint
        self.per_epoch = 0  # batches of an epoch, of the checkpoint or of now
        self.share = share or (lambda split, loader: loader)
        self.recipe = recipe
        self.streams = streams
        self.targets, self.model = targets, model
        # Opened here, so that missing sources are reported before anything else happens.
        self.train_cuts = _long_enough(index_cuts(recipe.data.train, what="data.train"), recipe)
        self.dev_cuts = index_cuts(recipe.data.dev, what="data.dev")
        self.speech = fingerprint(self.train_cuts)
        wanted = recipe.distortion.corpora if streams else ()
        self.noises = {split: self._open_noises(split, wanted) for split in ("train", "dev")}

    @override
    def setup(self, stage: str) -> None:
        world_size = self._process()["world_size"]
        for key, cuts in (("train", self.train_cuts), ("dev", self.dev_cuts)):
            if len(cuts) < world_size:
                raise DataError(
                    f"data.{key} has {len(cuts)} utterances for {world_size} processes: use fewer "
                    "(trainer.devices, trainer.num_nodes), or name more speech"
                )

    @override
    def on_before_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Stop, on all processes together, at a batch that is empty on one of them."""
        assert self.trainer is not None
        if largest_of_all(self.trainer, int(not len(batch))):
            raise NothingUsable(batch.skipped)
        return super().on_before_batch_transfer(batch, dataloader_idx)

    @override
    def state_dict(self) -> dict[str, Any]:
        """Position in the epoch and its size, for how many processes, and a fingerprint of the speech."""
        position = {"speech": self.speech, "processes": self._made_for(), "per_epoch": self.per_epoch}
        return super().state_dict() | position

    def _made_for(self) -> int:
        """Processes for which the batches of the epoch were made: those of now, if it began with them."""
        epoch, processes = self.resumed
        if processes and epoch == self.consumed["epoch"]:
            return processes
        return self.trainer.world_size if self.trainer is not None else 0

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue at that position.

        Raises:
            DataError: it is a position in other speech, where it means nothing.
        """
        position = dict(state_dict)
        before = position.pop("speech", self.speech)  # checkpoints of earlier versions lack it
        if before != self.speech and not self.other_speech:
            raise DataError(
                f"data.train has changed since the checkpoint was written ({before['utterances']} utterances "
                f"then, {self.speech['utterances']} now, or others, or in another order): restore it, or add "
                "--override to continue at the same position of the new one"
            )
        processes = position.pop("processes", 0)  # nor did they say this, and what follows
        self.per_epoch = position.pop("per_epoch", 0)
        super().load_state_dict(position)
        self.resumed = position["epoch"], processes if type(processes) is int else 0

    def _open_noises(self, split: str, wanted: Sequence[str]) -> NoiseReader:
        """The corpora that will be drawn from; what else is given stays unopened.

        Other speech is that of the split itself where no other source is given.
        """
        key, given = self.recipe.data.noises_of(split)
        itself = self.train_cuts if split == "train" else self.dev_cuts
        sources: dict[str, Cuts | list[str]] = {"speech": itself, **given}
        for corpus in wanted:
            if corpus not in sources:
                what, instead = f"{corpus} noise", "leave it out of distortion.additive"
                if corpus == "rir":
                    what, instead = "recorded rooms", "set distortion.rir=false"
                raise ConfigError(
                    f"recipe {self.recipe.name} draws {what}, but data.{key}.{corpus} is not set: "
                    f"name its source, or {instead}"
                )
        reader = NoiseReader({corpus: sources[corpus] for corpus in wanted})
        if self.recipe.distortion.strung:
            for corpus in set(wanted) - {"rir"}:
                reader.check_strung(corpus)
        return reader

    @override
    def train_dataloader(self) -> Any:
        data = self.recipe.data
        loader = train_loader(
            self._dataset("train"),
            batch_size=data.batch_size,
            batch_seconds=data.batch_seconds,
            buckets=data.buckets,
            workers=data.workers,
            seed=self.recipe.order_seed,
            **self._process(),
        )
        self._count(loader.dataset.batches_per_epoch)  # pyright: ignore
        loader.sampler.start_after(**self.consumed, processes=self._made_for())  # pyright: ignore
        return self.share("train", loader)

    def _count(self, per_epoch: int) -> None:
        """Note the size of an epoch, by which a curriculum knows the update of a batch.

        Raises:
            ConfigError: the curriculum of a resumed run would jump.
        """
        before, self.per_epoch = self.per_epoch, per_epoch
        begun = self.consumed["epoch"] or self.consumed["batches"]
        if self.recipe.distortion.curriculum is not None and begun and before not in (0, per_epoch):
            raise ConfigError(
                f"an epoch has {per_epoch} batches now and had {before} before, by which "
                "distortion.curriculum counts: leave the size of batches and data.train as they were, or "
                "turn it off (distortion.curriculum=null)"
            )

    @override
    def val_dataloader(self) -> Any:
        data = self.recipe.data
        loader = dev_loader(
            self._dataset("dev"),
            batch_size=data.batch_size,
            workers=min(data.workers, 2),
            **self._process(),
        )
        return self.share("dev", loader)

    def _process(self) -> dict[str, int]:
        assert self.trainer is not None
        return {"rank": self.trainer.global_rank, "world_size": self.trainer.world_size}

    def _dataset(self, split: str) -> SpeechDataset:
        return SpeechDataset(
            self.train_cuts if split == "train" else self.dev_cuts,
            distorter=Distorter.from_config(self.recipe.distortion, split=split),
            noises=self.noises[split],
            streams=self.streams,
            max_samples=self.recipe.data.max_samples,
            seed=self.recipe.order_seed,
            targets=None if self.targets is None else self.targets[split],
            model=self.model,
            fixed_epoch=split == "dev",
            max_steps=self.recipe.optim.max_steps if split == "train" else None,
        )


def _long_enough(cuts: Cuts, recipe: Recipe) -> Cuts:
    """The training speech without utterances below `data.min_samples`; says how many these are."""
    least_s = recipe.data.min_samples / SAMPLE_RATE
    try:
        kept = at_least(cuts, recipe.data.min_samples)
    except DataError as error:
        raise DataError(f"data.train: {error} (data.min_samples)") from None
    if (left_out := len(cuts) - len(kept)) and is_first_process():
        logger.warning(
            "data.train: %d of %d utterances are shorter than %g s (data.min_samples) and left out",
            *(left_out, len(cuts), least_s),
        )
    return kept
