"""Fine-tuning with CTC: how a batch trains an encoder and its classifier.

Shapes: B utterances, T samples at 16 kHz, F frames of the classifier, V outputs, U symbols, M and C time
and channels of the encoder's masks.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from pytorch_lightning.core.optimizer import LightningOptimizer
from rapidfuzz.distance import Levenshtein
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from typing_extensions import override

from distill.batch import Batch
from distill.distillation import add_to, gradient_sync
from distill.distortions import Distorter
from distill.downstream.decoding import greedy
from distill.downstream.finetuning.classifier import ctc_losses
from distill.downstream.finetuning.model import FineTuned
from distill.downstream.finetuning.units import Units
from distill.options import FinetuneRecipe
from distill.spiral.perturbation import SpecAugment, draw_masks
from distill.waveforms.logmel import mel_frames

Targets = Mapping[str, Sequence[int]]
"""By utterance id: numbers of symbols."""


CHOICE = "val/wer_then_loss"
"""What the best checkpoint is chosen by: word error rate in per cent, and a trace of the loss."""
_TIE, _MOST_LOSS = 1e-5, 100.0  # together what one word in 100 000 makes; visible in float32


class FineTuning(pl.LightningModule):
    """A model, the transcripts, and how a batch trains it.

    One batch is one update. Optimisation is manual: in the first `freeze_updates` the encoder has no
    gradients, and DistributedDataParallel must not wait for them.

    Args:
        model: encoder and classifier, trained in place.
        units: what it writes.
        recipe: options of the training.
        targets: of "train" and of "dev", those that CTC can align.
        references: transcripts of dev by utterance id, whose words are counted.
        distorter: for the training speech, if it is to be distorted.
        provenance: plain values to keep in the checkpoint.
    """

    def __init__(
        self,
        model: FineTuned,
        units: Units,
        recipe: FinetuneRecipe,
        *,
        targets: Mapping[str, Targets],
        references: Mapping[str, str],
        distorter: Distorter | None = None,
        provenance: Mapping[str, Any] | None = None,
    ):
        super().__init__()
        self.automatic_optimization = False
        self.model, self.units, self.recipe, self.optim = model, units, recipe, recipe.optim
        self.targets, self.references = targets, references
        self.distorter = distorter
        self.provenance = dict(provenance or {})
        self.frozen = recipe.frozen
        model.encoder.requires_grad_(not recipe.frozen)
        self.augment = SpecAugment(**asdict(recipe.masking))
        if self.masks_time and model.encoder.config.family != "spiral":  # a SPIRAL has a vector of its own
            self.mask_embedding = nn.Parameter(torch.empty(model.encoder.config.dim).uniform_())
        else:
            self.mask_embedding = None
        self._collected: dict[str, Tensor] = {}  # summed over the micro-batches of a step
        self._validation: dict[str, Tensor] = {}  # summed over the dev set

    @property
    def masks_time(self) -> bool:
        """Whether stretches of time are hidden from the encoder in training."""
        return not self.frozen and self.augment.time_probability > 0

    @property
    def masks_channels(self) -> bool:
        """Whether channels are."""
        return not self.frozen and self.augment.channel_probability > 0

    @property
    def encoder_learns(self) -> bool:
        """Whether this update trains the encoder too."""
        return not self.frozen and self.global_step >= self.recipe.freeze_updates

    @override
    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """One update: CTC, summed over each transcript, mean over the utterances of the global batch."""
        epoch, learns = batch.position[0], self.encoder_learns
        n_utterances = self._global_count(len(batch))
        parts = batch.split(self.optim.accumulate)
        for part in parts:
            with gradient_sync(self, last=learns_jointly(self, learns) and part is parts[-1]):
                heard = self.distorted(part)  # (B, T)
                log_probs, frames = self.log_probs(heard, part, epoch, learns=learns)  # (B, F, V), (B,)
                losses = self.losses(log_probs, frames, part.ids, "train")  # (B,)
                loss = losses.sum() / n_utterances
                self.manual_backward(loss)
            add_to(self._collected, {"train/loss": loss.detach()})
        self._step(learns)

    def distorted(self, batch: Batch) -> Tensor:
        """The waveforms as the model hears them in training, (B, T)."""
        if self.distorter is None:
            return batch.waveforms
        return batch.views["student"].distort(self.distorter, batch.waveforms, batch.lengths)[0]

    def log_probs(
        self, waveforms: Tensor, batch: Batch, epoch: int, *, learns: bool
    ) -> tuple[Tensor, Tensor]:
        """(B, F, V) and (B,) frames, under this epoch's masks; without `learns` the encoder gets no gradient.

        It still is in training mode then, with its masks, dropout and layerdrop.
        """
        masks = self.masks(waveforms.shape[1], batch, epoch)
        with contextlib.nullcontext() if learns else torch.no_grad():
            out = self.model.encoder(waveforms, batch.lengths, **masks)
        return self.model.classifier(out.last_hidden_state, out.lengths)

    def masks(self, n_samples: int, batch: Batch, epoch: int) -> dict[str, Tensor]:
        """What the encoder's forward takes: `mask` (B, M), `mask_channels` (B, C), `mask_embedding` (C,)."""
        if not (self.masks_time or self.masks_channels):
            return {}
        config = self.model.encoder.config
        width, channels = config.mask_shape(n_samples)
        spiral = config.family == "spiral"
        frames = mel_frames(batch.lengths) if spiral else config.frames(batch.lengths)
        drawn = draw_masks(
            self.augment,
            batch.ids,
            frames.tolist(),
            channels,
            seed=self.recipe.seed,
            epoch=epoch,
            stream="finetune",
            width=width,
        ).to(self.device)
        made = {"mask": drawn.time} if self.masks_time else {}
        if self.masks_channels:
            made["mask_channels"] = drawn.channels
        if self.mask_embedding is not None:
            made["mask_embedding"] = self.mask_embedding
        return made

    def losses(self, log_probs: Tensor, frames: Tensor, ids: Sequence[str], split: str) -> Tensor:
        """CTC of each utterance, (B,); 0 for those without a target."""
        targets = [list(self.targets[split].get(name, ())) for name in ids]
        lengths = torch.tensor([len(target) for target in targets])
        padded = torch.zeros(len(targets), max(1, int(lengths.max())), dtype=torch.int64)
        for row, target in zip(padded, targets, strict=True):
            row[: len(target)] = torch.tensor(target, dtype=torch.int64)
        device = log_probs.device
        losses = ctc_losses(log_probs, frames.to(device), padded.to(device), lengths.to(device))
        return torch.where((lengths > 0).to(device), losses, 0.0)

    def _step(self, learns: bool) -> None:
        """AdamW's update, the schedule's next rate, and the log."""
        optimizer, scheduler = self.optimizers(), self.lr_schedulers()
        assert isinstance(optimizer, LightningOptimizer) and isinstance(scheduler, LambdaLR)
        if not learns_jointly(self, learns):
            for parameter in self.model.classifier.parameters():
                if dist.is_initialized() and parameter.grad is not None:
                    dist.all_reduce(parameter.grad)
                    parameter.grad /= self.trainer.world_size
        optimizer.step()
        optimizer.zero_grad()
        every: int = self.trainer.log_every_n_steps  # pyright: ignore[reportAttributeAccessIssue]
        if self.global_step % every == 0:
            # Each process holds its share of the global mean.
            self.log("train/loss", self._all_sum(self._collected["train/loss"]) / self.trainer.world_size)
            self.log_dict({"gradient_norm": self._gradient_norm, "lr": scheduler.get_last_lr()[0]})
        self._collected = {}
        scheduler.step()

    @override
    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Word errors of greedy decoding and CTC, on clean and unmasked speech."""
        log_probs, frames = self.model(batch.waveforms, batch.lengths)
        losses = self.losses(log_probs, frames, batch.ids, "dev")
        errors, words = 0, 0
        rows = log_probs.float().cpu()
        for row, n_frames, name in zip(rows, frames.tolist(), batch.ids, strict=True):
            truth = self.references[name].split()
            errors += Levenshtein.distance(self.units.words(greedy(row[:n_frames])), truth)
            words += len(truth)
        learnable = sum(name in self.targets["dev"] for name in batch.ids)
        counts = {"errors": errors, "words": words, "learnable": learnable}
        sums = {name: torch.tensor(float(count), device=self.device) for name, count in counts.items()}
        add_to(self._validation, {"loss": losses.sum(), **sums})

    @override
    def on_validation_epoch_end(self) -> None:
        """Word error rate in per cent, and mean loss of the utterances that have one, of all processes."""
        totals = self._all_sum(torch.stack(list(self._validation.values()))).tolist()
        found, self._validation = dict(zip(self._validation, totals, strict=True)), {}
        wer, loss = 100.0 * found["errors"] / found["words"], found["loss"] / max(found["learnable"], 1.0)
        self.log_dict({"val/wer": wer, "val/loss": loss}, prog_bar=True)
        # Of equal error rates, 100 % of a model that writes nothing for instance, the lower loss is better.
        self.log(CHOICE, wer + min(loss, _MOST_LOSS) * _TIE)

    @override
    def configure_optimizers(self) -> Any:
        """AdamW and its schedule; encoder and classifier have weight decays of their own."""
        encoder = [parameter for parameter in self.model.encoder.parameters() if parameter.requires_grad]
        if self.mask_embedding is not None:
            encoder.append(self.mask_embedding)
        groups = [{"params": list(self.model.classifier.parameters())}]
        if encoder:
            groups += [{"params": encoder, "weight_decay": self.recipe.encoder_weight_decay}]
        optim = self.optim
        optimizer = torch.optim.AdamW(
            groups, lr=optim.lr, betas=optim.betas, eps=optim.eps, weight_decay=optim.weight_decay
        )
        return [optimizer], [LambdaLR(optimizer, optim.next_factor)]

    @override
    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """Clip here: mixed precision has unscaled the gradients by now."""
        limit = self.optim.clip_norm or float("inf")
        self._gradient_norm = torch.nn.utils.clip_grad_norm_(self.parameters(), limit)

    @override
    def train(self, mode: bool = True) -> FineTuning:
        """Keep an encoder that is never trained in eval mode."""
        super().train(mode)
        if self.frozen:
            self.model.encoder.eval()
        return self

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what is needed to rebuild the model."""
        checkpoint["distill"] = {
            "kind": "finetuned",
            "architecture": self.model.to_dict(),
            "provenance": self.provenance | {"step": self.global_step},
        }

    def _global_count(self, count: int) -> float:
        """Utterances of the global batch over the number of processes, whose gradients are averaged."""
        total = self._all_sum(torch.tensor(float(count), device=self.device))
        return float(total) / self.trainer.world_size

    def _all_sum(self, value: Tensor) -> Tensor:
        if dist.is_initialized():
            dist.all_reduce(value)
        return value


def learns_jointly(module: FineTuning, learns: bool) -> bool:
    """Whether DistributedDataParallel exchanges the gradients of this update: all that it knows of have one.

    The parameters of a frozen encoder are none of its own; those of an encoder that waits are.
    """
    return learns or module.frozen
