"""Training a head under Lightning.

Shapes: B utterances, T samples, F frames, D features, V outputs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from distill.atomic import write_json
from distill.downstream.batches import HeadBatch
from distill.downstream.features import Selection
from distill.downstream.head_run import HeadFolder
from distill.downstream.heads import Head, spec_augment
from distill.downstream.labels import Labels
from distill.encoder import Encoder
from distill.errors import DataError
from distill.hashing import hash_number
from distill.optim import OptimConfig
from distill.processes import is_first_process
from distill.training.saving import read_checkpoint
from distill.waveforms import with_gain


class HeadTraining(pl.LightningModule):
    """A head on a frozen model, or on one that is trained with it.

    Args:
        encoder: the model.
        selection: which of its hidden states are the head's input.
        head: the task's.
        labels: the task's.
        optim: learning rate and clipping.
        finetune: train the model too.
        augment: SpecAugment on the features in training.
        seed: of SpecAugment.
        gain_db: change of the level of all speech, in dB.
    """

    def __init__(
        self,
        encoder: Encoder,
        selection: Selection,
        head: Head,
        labels: Labels,
        optim: OptimConfig,
        *,
        finetune: bool = False,
        augment: bool = False,
        seed: int = 0,
        gain_db: float = 0.0,
    ):
        super().__init__()
        self.encoder = encoder.requires_grad_(finetune)
        self.selection, self.head = selection, head
        self.labels, self.optim = labels, optim
        self.finetune, self.augment, self.seed, self.gain_db = finetune, augment, seed, gain_db
        self.counts = [0.0, 0.0]  # errors, and units that could be wrong
        self.losses = [0.0, 0.0]  # over dev utterances: sum of the losses, and number of utterances

    def encode(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T), (B,) samples -> what `Selection.select` keeps, (B,) frames.

        The level is changed here, after the distortions, which are the same at any level.
        """
        waveforms = with_gain(waveforms, self.gain_db)
        full = bool((lengths == waveforms.shape[1]).all())  # then no masks are needed
        with torch.set_grad_enabled(self.finetune and torch.is_grad_enabled()):
            out = self.encoder(waveforms, None if full else lengths)
            return self.selection.select(out), out.lengths

    def features(self, batch: HeadBatch) -> tuple[Tensor, Tensor]:
        """(B, F, D) features and (B,) frames of a batch, computed or from the cache."""
        if batch.features is None:
            selected, frames = self.encode(batch.waveforms, batch.lengths)
        else:
            assert batch.frames is not None
            selected, frames = batch.features, batch.frames.to(self.device)
            if batch.online:
                computed, _ = self.encode(batch.waveforms, batch.lengths[batch.online])
                selected[batch.online, : computed.shape[1]] = computed.to(selected.dtype)
        return self.selection(selected), frames

    def training_step(self, batch: HeadBatch, batch_idx: int) -> Tensor:
        """One batch -> the task's loss."""
        features, frames = self.features(batch)
        if self.augment:
            generator = torch.Generator().manual_seed(hash_number(self.seed, *batch.position) >> 1)
            features = spec_augment(features, frames, generator)
        loss = self.loss(self.head(features, frames), frames, batch)
        self.log("train/loss", loss.detach(), batch_size=len(batch))
        return loss

    def loss(self, outputs: Tensor, frames: Tensor, batch: HeadBatch) -> Tensor:
        """The task's loss of the head's outputs."""
        return self.labels.loss(self.head, outputs, frames, batch.targets, batch.target_lengths)

    def on_validation_epoch_start(self) -> None:
        """Reset the counts."""
        self.counts, self.losses = [0.0, 0.0], [0.0, 0.0]

    def validation_step(self, batch: HeadBatch, batch_idx: int) -> None:
        """Count errors, and sum the loss."""
        features, frames = self.features(batch)
        outputs = self.head(features, frames)
        self.losses[0] += len(batch) * float(self.loss(outputs, frames, batch))
        self.losses[1] += len(batch)
        targets = unpadded(batch.targets, batch.target_lengths)
        weights = [1.0] * len(batch) if batch.weights is None else batch.weights.tolist()
        outcomes = self.labels.outcomes(self.head, outputs, frames, targets)
        for weight, outcome in zip(weights, outcomes, strict=True):
            self.counts[0] += weight * outcome.errors
            self.counts[1] += weight * outcome.total

    def on_validation_epoch_end(self) -> None:
        """Log the mean loss of an utterance and the error rate in per cent, over all processes.

        Summed here: Lightning divides by the mean number of utterances of a process, rounded down.
        """
        sums = torch.tensor([*self.counts, *self.losses], device=self.device)
        if self.trainer.world_size > 1:
            torch.distributed.all_reduce(sums)
        errors, total, loss, utterances = sums
        self.log("val/loss", loss / utterances, sync_dist=True)
        self.log("val/error", 100.0 * errors / total, sync_dist=True)

    def configure_optimizers(self) -> Any:
        """Adam with a constant learning rate, as in SUPERB."""
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        return torch.optim.Adam(trained, lr=self.optim.lr)

    def configure_gradient_clipping(self, optimizer: Any, *_: Any, **__: Any) -> None:
        """Clip the gradient to `optim.clip_norm`."""
        self.clip_gradients(optimizer, gradient_clip_val=self.optim.clip_norm, gradient_clip_algorithm="norm")

    def train(self, mode: bool = True) -> HeadTraining:
        """Keep a frozen model in eval mode."""
        super().train(mode)
        if not self.finetune:
            self.encoder.eval()
        return self

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leave out a frozen model, which has its own checkpoint."""
        if not self.finetune:
            weights = checkpoint["state_dict"]
            checkpoint["state_dict"] = {k: v for k, v in weights.items() if not k.startswith("encoder.")}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Put the frozen model's weights back in."""
        if not self.finetune:
            for name, value in self.encoder.state_dict().items():
                checkpoint["state_dict"][f"encoder.{name}"] = value


def unpadded(targets: Tensor, lengths: Tensor) -> list[list[int]]:
    """(B, U), (B,) -> a list for each utterance."""
    return [row[:length] for row, length in zip(targets.tolist(), lengths.tolist(), strict=True)]


def load_best(module: HeadTraining, folder: Path) -> float | None:
    """Load the weights that were best on dev; returns their error rate there, in per cent, if known.

    Raises:
        DataError: if they are missing.
    """
    path = HeadFolder(folder).best
    if not path.exists():
        raise DataError(
            f"{path} is missing although {folder} is finished: remove the folder to train the head again"
        )
    state = read_checkpoint(path)
    module.cpu()
    module.on_load_checkpoint(state)
    module.load_state_dict(state["state_dict"])
    for key, value in state.get("callbacks", {}).items():
        if key.startswith("ModelCheckpoint") and (score := value.get("best_model_score")) is not None:
            return float(score)
    return None


def save_layer_weights(module: HeadTraining, folder: Path) -> None:
    """Write the weights of the weighted sum, from the transformer's input to the last layer."""
    weights = module.selection.weights
    if weights is not None and is_first_process():
        write_json(folder / "layer_weights.json", {"weights": weights.detach().softmax(0).tolist()})
