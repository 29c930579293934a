"""The loaders of a recipe, on every process, with the position in the data as part of the checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytorch_lightning as pl

from distill.batch import Batch
from distill.data.dataset import SpeechDataset
from distill.data.loading import dev_loader, train_loader
from distill.data.manifest import fingerprint
from distill.data.noise import NoiseReader
from distill.data.sources import index_cuts
from distill.data.unusable import blame
from distill.distortions import Distorter
from distill.errors import ConfigError, DataError
from distill.hubert import HubertConfig
from distill.options import Recipe
from distill.processes import largest_of_all


class NothingUsable(DataError):
    """A process has a batch of which nothing can be used; raised by all of them.

    Args:
        skipped: (id, reason) of what this process tried.
    """

    joint = True

    def __init__(self, skipped: Sequence[tuple[str, str]]):
        last = f", here the last: {blame(*skipped[-1], quoted=True)}" if skipped else ""
        super().__init__(
            "no utterance of a batch can be used, nor any of those tried in their place from all over the "
            f"corpus{last}"
        )
        self.skipped = skipped


class ResumableData(pl.LightningDataModule):
    """A data module that goes on where it was: its checkpoint says which batches were consumed.

    Batches have a `position`, (epoch, index); training loaders start behind `consumed`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.consumed = {"epoch": 0, "batches": 0}

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Note where a batch is that the model is about to see: what was fetched ahead does not count."""
        assert self.trainer is not None
        if self.trainer.training:
            epoch, index = batch.position
            self.consumed = {"epoch": epoch, "batches": index + 1}
        return batch

    def state_dict(self) -> dict[str, Any]:
        """Batches consumed in this epoch."""
        return dict(self.consumed)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Start behind those batches."""
        self.consumed = state_dict


class SpeechData(ResumableData):
    """The loaders of a recipe, and the position in the data as part of the checkpoint.

    Args:
        recipe: its data, distortion and seed.
        streams: the views that a batch shall have.
        targets: of "train" and of "dev", cluster labels by utterance id (masked prediction).
        model: whose frames crops and labels follow; default: HuBERT base's.
        other_speech: a resumed run may go on at its place in other training speech than it was saved with.
    """

    def __init__(
        self,
        recipe: Recipe,
        *,
        streams: Sequence[str],
        targets: Mapping[str, Mapping[str, np.ndarray]] | None = None,
        model: HubertConfig | None = None,
        other_speech: bool = False,
    ):
        super().__init__()
        self.other_speech = other_speech
        self.recipe = recipe
        self.streams = streams
        self.targets, self.model = targets, model
        # Opened here, so that whatever is missing is said before anything else happens.
        self.train_cuts = index_cuts(recipe.data.train, what="data.train")
        self.dev_cuts = index_cuts(recipe.data.dev, what="data.dev")
        self.speech = fingerprint(self.train_cuts)
        wanted = recipe.distortion.corpora if streams else ()
        self.noises = {
            "train": self._open_noises("noises", recipe.data.noises, wanted),
            "dev": self._open_noises("dev_noises", recipe.data.dev_noises or recipe.data.noises, wanted),
        }

    def setup(self, stage: str) -> None:  # noqa: D102
        world_size = self._process()["world_size"]
        for key, cuts in (("train", self.train_cuts), ("dev", self.dev_cuts)):
            if len(cuts) < world_size:
                raise DataError(
                    f"data.{key} has {len(cuts)} utterances for {world_size} processes: use fewer "
                    "(trainer.devices, trainer.num_nodes), or name more speech"
                )

    def on_before_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Stop, on all processes together, at a batch that is empty on one of them."""
        assert self.trainer is not None
        if largest_of_all(self.trainer, int(not len(batch))):
            raise NothingUsable(batch.skipped)
        return super().on_before_batch_transfer(batch, dataloader_idx)

    def state_dict(self) -> dict[str, Any]:
        """The place in the epoch, and in which speech that is."""
        return super().state_dict() | {"speech": self.speech}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on at that place.

        Raises:
            DataError: it is one in other speech, where it means nothing.
        """
        place = dict(state_dict)
        before = place.pop("speech", self.speech)  # checkpoints of old do not have it
        if before != self.speech and not self.other_speech:
            raise DataError(
                f"data.train has changed since the checkpoint was written ({before['utterances']} utterances "
                f"then, {self.speech['utterances']} now, or others, or in another order): restore it, or add "
                "--override to go on at the same place of the new one"
            )
        super().load_state_dict(place)

    def _open_noises(self, key: str, sources: Mapping[str, list[str]], wanted: Sequence[str]) -> NoiseReader:
        """The corpora that will be drawn from; what else is given stays unopened."""
        for corpus in wanted:
            if corpus not in sources:
                what, instead = f"{corpus} noise", "leave it out of distortion.additive"
                if corpus == "rir":
                    what, instead = "recorded rooms", "set distortion.rir=false"
                raise ConfigError(
                    f"recipe {self.recipe.name} draws {what}, but data.{key}.{corpus} is not set: "
                    f"name its source, or {instead}"
                )
        return NoiseReader({corpus: sources[corpus] for corpus in wanted})

    def train_dataloader(self) -> Any:  # noqa: D102
        data = self.recipe.data
        loader = train_loader(
            self._dataset("train"),
            batch_size=data.batch_size,
            batch_seconds=data.batch_seconds,
            buckets=data.buckets,
            workers=data.workers,
            seed=self.recipe.seed,
            **self._process(),
        )
        loader.sampler.start_behind(**self.consumed)  # pyright: ignore
        return loader

    def val_dataloader(self) -> Any:  # noqa: D102
        data = self.recipe.data
        return dev_loader(
            self._dataset("dev"),
            batch_size=data.batch_size,
            workers=min(data.workers, 2),
            **self._process(),
        )

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
            seed=self.recipe.seed,
            targets=None if self.targets is None else self.targets[split],
            model=self.model,
            fixed_epoch=split == "dev",
        )
