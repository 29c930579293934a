"""SPIRAL's pre-training step: the student, perturbed, guesses what its moving average hears in clean speech.

Shapes: B utterances, T samples at 16 kHz, M mel frames (10 ms), F frames (80 ms), P width of projections.
"""

from __future__ import annotations

import logging
from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from pytorch_lightning.core.optimizer import LightningOptimizer
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from typing_extensions import override

from distill.batch import Batch
from distill.distortions import Distorter
from distill.optim import FusedAdamW, OptimConfig, adamw
from distill.options import ContrastConfig, EmaConfig, HeadsConfig
from distill.spiral import ema
from distill.spiral.collapse import collapse_stats
from distill.spiral.contrastive import (
    ContrastiveLoss,
    contrasted_frames,
    contrastive_loss,
    draw_negatives,
)
from distill.spiral.encoder import SpiralEncoder
from distill.spiral.heads import Predictor, Projection
from distill.spiral.perturbation import MOST_SHIFT, SpecAugment, draw_masks, draw_shifts, shift, unshift
from distill.waveforms.logmel import mel_frames

logger = logging.getLogger(__name__)

COLLAPSED = 0.95
"""Mean cosine of frames of different utterances at different positions above which nothing is told apart."""
POSITIONAL = 0.9
"""The same at the same position, above which positions are told apart, and not speech."""


class SpiralPretraining(pl.LightningModule):
    """Student, teacher and how a batch trains them (Fig. 1, Algorithm 1).

    The student hears masked, and with a distorter noisy, speech; the teacher, the moving average of the
    student, hears it clean, at another position, and computes with dropout too. The loss tells the teacher's
    frame at a position from others of the utterance.

    Args:
        encoder: the student, trained in place; its dropout is its config's.
        optim: optimiser and schedule.
        masking: SpecAugment of the student's input.
        most_shift: largest change of the teacher's position, in frames.
        contrast: the loss.
        heads: projection and predictor.
        average: how the teacher follows its student.
        distorter: of the student's view.
        seed: of masks, positions and negatives.
        provenance: plain values to keep in the checkpoint.
    """

    def __init__(
        self,
        encoder: SpiralEncoder,
        *,
        optim: OptimConfig,
        masking: SpecAugment | None = None,
        most_shift: int = MOST_SHIFT,
        contrast: ContrastConfig | None = None,
        heads: HeadsConfig | None = None,
        average: EmaConfig | None = None,
        distorter: Distorter | None = None,
        seed: int = 0,
        provenance: dict[str, Any] | None = None,
    ):
        super().__init__()
        self.automatic_optimization = False
        self.optim = optim
        self.masking = masking or SpecAugment()
        self.most_shift = most_shift
        self.contrast = contrast or ContrastConfig()
        self.average = average or EmaConfig()
        self.distorter = distorter
        self.student_view = "student" if distorter is not None else None
        self.teacher_view = None  # clean speech
        self.seed = seed
        self.provenance = dict(provenance or {})
        heads = heads or HeadsConfig()
        self.encoder = encoder
        self.projection = Projection(encoder.config.dim, heads.dim, kind=heads.projection)  # pyright: ignore[reportArgumentType]
        self.predictor = None
        if heads.predictor != "none":
            self.predictor = Predictor(heads.dim, norm=heads.predictor)  # pyright: ignore[reportArgumentType]
        self.teacher = ema.teacher_of(nn.ModuleDict({"encoder": encoder, "projection": self.projection}))
        self._validation: dict[str, Tensor] = {}  # summed over the dev set
        self.collapse = ""

    @override
    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """One update of the student, and then of the teacher."""
        epoch = batch.position[0]
        n_frames = self._global_frames(batch)
        predictions, lengths = self.predict(batch, epoch)  # (B, F, P)
        targets = self.targets(batch, epoch)  # (B, F, P)
        loss = self._contrast(batch, predictions, targets, lengths, epoch, n_frames)
        self.manual_backward(loss.total)
        optimizer, scheduler = self.optimizers(), self.lr_schedulers()
        assert isinstance(optimizer, LightningOptimizer) and isinstance(scheduler, LambdaLR)
        optimizer.step()
        self._follow(optimizer.found_inf)
        optimizer.zero_grad()
        self._log_step(loss, n_frames, scheduler)
        scheduler.step()

    def predict(self, batch: Batch, epoch: int, stream: str = "student") -> tuple[Tensor, Tensor]:
        """The student's predictions (B, F, P) from perturbed speech, and their valid frames (B,)."""
        waveforms = batch.waveforms
        if self.distorter is not None:
            waveforms, _ = batch.views["student"].distort(self.distorter, waveforms, batch.lengths)
        features, frames = self.encoder.features(waveforms, batch.lengths)  # (B, M, 128)
        features = self._masked(self.masking, batch, features, epoch, stream)
        out = self.encoder.encode(features, frames)
        x = self.projection(out.last_hidden_state, out.lengths)
        return x if self.predictor is None else self.predictor(x, out.lengths), out.lengths

    @torch.no_grad()
    def targets(self, batch: Batch, epoch: int) -> Tensor:
        """The teacher's projections (B, F, P) of clean speech, in training at another position."""
        encoder: Any = self.teacher["encoder"]
        features, frames = encoder.features(batch.waveforms, batch.lengths)  # (B, M, 128)
        if self.average.masking is not None:
            features = self._masked(self.average.masking, batch, features, epoch, "teacher")
        left = None
        if self.training and self.most_shift:
            left, right = draw_shifts(batch.ids, seed=self.seed, epoch=epoch, most=self.most_shift)
            features, frames = shift(
                *(features, frames, left, right, encoder.mask_embedding), unit=encoder.config.stride
            )
        out = encoder.encode(features, frames)
        x = self.teacher["projection"](out.last_hidden_state, out.lengths)
        config = encoder.config
        width = config.frames(batch.waveforms.shape[1])
        return x if left is None else unshift(x, left, config.frames(batch.lengths), width=width)

    def _masked(self, spec: SpecAugment, batch: Batch, features: Tensor, epoch: int, stream: str) -> Tensor:
        """Features (B, M, 128) under the masks of this epoch."""
        frames = mel_frames(batch.lengths).tolist()
        width = features.shape[1]
        masks = draw_masks(
            *(spec, batch.ids, frames, self.encoder.config.bands),
            seed=self.seed,
            epoch=epoch,
            stream=stream,
            width=width,
        ).to(features.device)
        return self.encoder.masked(features, masks.time, masks.channels)

    def _contrast(
        self,
        batch: Batch,
        predictions: Tensor,
        targets: Tensor,
        lengths: Tensor,
        epoch: int,
        n_frames: Tensor | float,
    ) -> ContrastiveLoss:
        """The loss against negatives drawn for this epoch."""
        frames = self.encoder.config.frames(batch.lengths).tolist()
        negatives = draw_negatives(
            *(batch.ids, frames, self.contrast.negatives),
            seed=self.seed,
            epoch=epoch,
            width=predictions.shape[1],
        )
        return contrastive_loss(
            *(predictions, targets, lengths, negatives),
            temperature=self.contrast.temperature,
            n_frames=n_frames,
        )

    def _follow(self, left_out: Tensor) -> None:
        """Move the teacher, right behind an update; not behind one that was left out (a scalar 1)."""
        ema.update(self.teacher, self, self.alpha(self.global_step), left_out)

    def alpha(self, step: int) -> float:
        """Share of the teacher that stays when `step` updates have been made."""
        steps = self.average.steps or self.optim.max_steps
        return ema.alpha(step, base=self.average.base, final=self.average.final, steps=steps)

    def _log_step(self, loss: ContrastiveLoss, n_frames: Tensor, scheduler: LambdaLR) -> None:
        every: int = self.trainer.log_every_n_steps  # pyright: ignore[reportAttributeAccessIssue]
        if self.global_step % every == 0:
            # Each process holds its share of the global mean: their mean is the loss of the global batch.
            shares = torch.stack([loss.total.detach(), loss.correct / n_frames])
            total, accuracy = self._all_sum(shares) / self.trainer.world_size
            self.log_dict({"train/loss": total, "train/accuracy": accuracy}, prog_bar=True)
            lr, alpha = scheduler.get_last_lr()[0], self.alpha(self.global_step)
            self.log_dict({"gradient_norm": self._gradient_norm, "lr": lr, "ema": alpha})

    @override
    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Loss and accuracy under fixed masks and negatives, without dropout; how alike the targets are."""
        targets = self.targets(batch, epoch=0)
        predictions, lengths = self.predict(batch, epoch=0, stream="dev")
        loss = self._contrast(batch, predictions, targets, lengths, epoch=0, n_frames=1.0)
        found = {"loss": loss.total, "accuracy": loss.correct.float(), "frames": loss.frames.float()}
        stats = collapse_stats(targets, self.encoder.config.frames(batch.lengths))
        for name in ("within_utterance", "same_position", "other_positions"):
            found[f"cosine/{name}"] = stats.get(name, loss.total.new_zeros(()))
            found[f"batches/{name}"] = loss.total.new_tensor(float(name in stats))
        for name, value in found.items():
            self._validation[name] = self._validation.get(name, 0.0) + value.detach()

    @override
    def on_validation_epoch_end(self) -> None:
        """Means over the whole set, on all processes; warns of a collapse."""
        sums = self._all_sum(torch.stack(list(self._validation.values())).float())
        found, self._validation = dict(zip(self._validation, sums, strict=True)), {}
        frames = found["frames"].clamp(min=1)
        means = {f"val/{name}": found[name] / frames for name in ("loss", "accuracy")}
        for name in ("within_utterance", "same_position", "other_positions"):
            if found[f"batches/{name}"] > 0:
                means[f"val/cosine_{name}"] = found[f"cosine/{name}"] / found[f"batches/{name}"]
        self.log_dict(means, prog_bar=True)
        self._judge({name.removeprefix("val/cosine_"): float(value) for name, value in means.items()})

    def _judge(self, cosines: dict[str, float]) -> None:
        """Say that a run has collapsed, once the warm-up is over: before, all targets are alike."""
        alike, same = cosines.get("other_positions", 0.0), cosines.get("same_position", 0.0)
        kind = ""
        if alike > COLLAPSED:
            kind = f"the targets are all alike: mean cosine {alike:.2f} between any two utterances"
        elif same > POSITIONAL and same - alike > 0.2:
            kind = f"the targets tell positions, not speech: mean cosine {same:.2f} at the same position"
        self.collapse = kind if self.global_step >= self.optim.warmup * self.optim.max_steps else ""
        if self.collapse and self.trainer.is_global_zero:
            logger.warning(
                "step %d: this run has collapsed, %s; a lower optim.lr, a larger shift or a larger batch may "
                "help",
                *(self.global_step, kind),
            )

    @override
    def configure_optimizers(self) -> Any:
        """AdamW and its schedule, for the student and its heads; weight decay on all of it, as the code."""
        optimizer = adamw((p for p in self.parameters() if p.requires_grad), self.optim)
        return [optimizer], [LambdaLR(optimizer, self.optim.next_factor)]

    @override
    def on_before_optimizer_step(self, optimizer: FusedAdamW) -> None:
        """Clip here: mixed precision has unscaled the gradients by now."""
        self._gradient_norm = optimizer.clip(self.optim.clip_norm)

    def passes(self) -> list[tuple[SpiralEncoder, int, list[nn.Parameter], bool]]:
        """What a step computes: encoder, how many of its layers, weights of its heads, whether it learns."""
        layers, teacher = self.encoder.config.layers, self.teacher
        encoder: Any = teacher["encoder"]
        heads = [self.projection] if self.predictor is None else [self.projection, self.predictor]
        return [
            (encoder, layers, list(teacher["projection"].parameters()), False),
            (self.encoder, layers, list(nn.ModuleList(heads).parameters()), True),
        ]

    @override
    def train(self, mode: bool = True) -> SpiralPretraining:
        """Unlike a HuBERT teacher this one computes with dropout in training, if `average.noise` says so."""
        super().train(mode)
        self.teacher.train(mode and self.average.noise)
        return self

    def _global_frames(self, batch: Batch) -> Tensor:
        """Frames that the loss compares in the global batch, divided by the number of processes."""
        frames = int(contrasted_frames(self.encoder.config.frames(batch.lengths)))
        count = torch.full((), float(frames), device=self.device)  # an argument of a kernel, not a copy
        return self._all_sum(count) / self.trainer.world_size

    def _all_sum(self, value: Tensor) -> Tensor:
        if dist.is_initialized():
            dist.all_reduce(value)
        return value

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what is needed to rebuild the student's encoder."""
        checkpoint["distill"] = {
            "kind": "teacher",
            "architecture": self.encoder.config.to_dict(),
            "provenance": self.provenance | {"step": self.global_step},
        }
