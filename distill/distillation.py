"""Distillation of a robust student: cross-distortion mapping and domain-adversarial training (Fig. 1).

Shapes: B utterances, T samples at 16 kHz, F frames, N prediction heads, D features, K distortion labels.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from pytorch_lightning.core.optimizer import LightningOptimizer
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR
from typing_extensions import override

from distill.batch import Batch
from distill.distortions import LABELS, Distorter
from distill.encoder import Encoder
from distill.errors import ConfigError
from distill.objective import (
    DistillationLoss,
    DistortionClassifier,
    Seen,
    Terms,
    classification_loss,
    distillation_loss,
)
from distill.optim import FusedAdamW, OptimConfig, adamw
from distill.options import CDM, DatConfig, ObjectiveConfig
from distill.student import Student, StudentOutput

PITCH = LABELS.index("pitch")
Features = Mapping[int, Tensor] | list[Tensor]
"""Of the teacher, (B, F, D) by layer: 0 is its transformer's input."""


class Distillation(pl.LightningModule):
    """Teacher, student, distorter and distortion classifier, and how a batch trains them.

    One batch is one student update, with DAT on or off alike. Optimisation is manual; only the student's
    optimiser is known to Lightning, so that its `global_step` counts student updates. The classifier has an
    optimiser of its own, kept in the checkpoint, and stays outside DistributedDataParallel: its few thousand
    gradients are summed over the processes by hand.

    Args:
        teacher: frozen, always in eval mode, not saved in checkpoints.
        student: the model to train.
        distorter: applies the views of a batch.
        cdm: "none", "setup1", "setup2" or "setup2_same".
        cosine_weight: gamma of Eq. 2.
        dat: domain-adversarial training.
        objective: weights of Eq. 2 and of further terms.
        codebook: (C, D), the teacher's units, where the objective has them.
        seed: of the masks.
        optim: optimiser, schedule, clipping, accumulation.
        provenance: plain values to keep in the checkpoint (recipe, teacher, versions).
    """

    def __init__(
        self,
        teacher: Encoder,
        student: Student,
        distorter: Distorter | None = None,
        *,
        cdm: str = "none",
        cosine_weight: float = 1.0,
        dat: DatConfig | None = None,
        objective: ObjectiveConfig | None = None,
        codebook: Tensor | None = None,
        seed: int = 0,
        optim: OptimConfig | None = None,
        provenance: dict[str, Any] | None = None,
    ):
        super().__init__()
        if cdm not in CDM:
            raise ValueError(f"cdm must be one of {', '.join(CDM)}, not {cdm!r}")
        self.automatic_optimization = False
        self.optim = optim or OptimConfig()
        self.dat = dat or DatConfig()
        if self.dat.enabled and cdm == "none":
            raise ValueError("dat needs distorted speech: choose cdm setup1, setup2 or setup2_same")
        self.cosine_weight = cosine_weight
        self.objective = objective or ObjectiveConfig()
        self.objective.check_accumulate(self.optim.accumulate)
        self.teacher = teacher.requires_grad_(False).eval()
        self.student = student
        self.distorter = distorter
        self.teacher_view, self.student_view = CDM[cdm]
        self.provenance = provenance or {}
        if self.dat.enabled:
            self.classifier = DistortionClassifier(student.encoder.config.dim, len(LABELS))
            self.classifier_optimizer = adamw(self.classifier.parameters(), self.optim, self.dat.lr)
            names = [f"classifier.{name}" for name, _ in self.classifier.named_parameters()]
            self._ddp_params_and_buffers_to_ignore = names  # read by DistributedDataParallel
        configs = student.encoder.config, teacher.config
        self.terms = Terms(self.objective, cosine_weight, *configs, codebook=codebook, seed=seed)
        self._collected: dict[str, Tensor] = {}  # summed over the micro-batches of a step
        self._by_type: dict[str, Tensor] = {}  # (K,) each, summed over the steps since the last log line
        self._validation: dict[str, Tensor] = {}  # summed over the dev set

    @override
    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """One update of the classifier (Eq. 3) and of the student (Eq. 4)."""
        n_frames, n_utterances, n_masked = self._global_counts(batch)
        parts = batch.split(self.optim.accumulate)
        for part in parts:
            with gradient_sync(self, last=part is parts[-1]):
                teacher_waves, student_waves, labels = self._heard(part)  # (B, T), (B, T), (B, K)
                features = self.teacher_features(teacher_waves, part.lengths)
                targets = self._predicted(features)  # (B, N, F, D)
                asked = self.terms.asks(part)
                student = self.student(student_waves, part.lengths, **asked)
                loss = self._distillation_loss(student, targets, n_frames)
                heard = student_waves, labels[:, PITCH].bool()
                seen = Seen(student, targets, features, part, *heard, asked)
                total, terms = self.terms(loss.total, seen, n_frames, n_masked, self._processes)
                self._collect(loss_parts(loss, self.student.targets, terms))
                self._collect_by_type(labels, loss.per_utterance, student.lengths)
                if self.dat.enabled:
                    self._teach_classifier(student, labels, n_utterances)
                    if self.optim.accumulate == 1:  # the student is trained against the updated classifier
                        self._step_classifier()
                    total = total - self.dat.weight * self._adversarial_loss(student, labels, n_utterances)
                self.manual_backward(total)
        if self.dat.enabled and self.optim.accumulate > 1:  # all parts used that of the previous update
            self._step_classifier()
        self._step_student()

    def _heard(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """What teacher and student hear, (B, T) each, and the student's distortions (B, K)."""
        teacher_waves, labels = self.distort(batch, self.teacher_view)
        if self.student_view == self.teacher_view:
            return teacher_waves, teacher_waves, labels
        return teacher_waves, *self.distort(batch, self.student_view)

    def distort(self, batch: Batch, view_name: str | None) -> tuple[Tensor, Tensor]:
        """One view of the batch, clean where it has no name: waveforms (B, T), distortion labels (B, K)."""
        if view_name is None:
            labels = batch.waveforms.new_zeros(len(batch), len(LABELS))
            labels[:, LABELS.index("clean")] = 1.0
            return batch.waveforms, labels
        assert self.distorter is not None, "cdm needs a distorter"
        return batch.views[view_name].distort(self.distorter, batch.waveforms, batch.lengths)

    def teacher_targets(self, waveforms: Tensor, lengths: Tensor) -> Tensor:
        """The hidden states to predict, (B, N, F, D); the last after the final norm of pre-norm teachers."""
        return self._predicted(self.teacher_features(waveforms, lengths))

    def _predicted(self, features: Features) -> Tensor:
        return torch.stack([features[layer] for layer in self.student.targets], dim=1)

    @torch.inference_mode()
    def teacher_features(self, waveforms: Tensor, lengths: Tensor) -> Features:
        """What students take their targets from: the input and outputs of the layers, each (B, F, D)."""
        return self.teacher(waveforms, lengths).features

    def _distillation_loss(
        self, student: StudentOutput, targets: Tensor, n_frames: Tensor | float
    ) -> DistillationLoss:
        """L_distil of a batch's share of the frames (Eq. 2)."""
        return distillation_loss(
            *(student.predictions, targets, student.lengths),
            cosine_weight=self.cosine_weight,
            n_frames=n_frames,
        )

    def _teach_classifier(self, student: StudentOutput, labels: Tensor, n_utterances: Tensor) -> None:
        """Gradients of L_D for the classifier alone: z is detached (Eq. 3)."""
        logits = self.classifier(student.z.detach(), student.lengths)
        loss = classification_loss(logits, labels, n_utterances=n_utterances)
        loss.backward()
        correct = ((logits.detach() > 0) == labels.bool()).float()  # (B, K)
        self._collect({"dat/loss": loss, "dat/accuracy": correct.mean(1).sum() / n_utterances})
        add_to(self._by_type, {"correct": correct.sum(0), "answers": torch.ones_like(correct).sum(0)})

    def _adversarial_loss(self, student: StudentOutput, labels: Tensor, n_utterances: Tensor) -> Tensor:
        """L_D for the student alone: the classifier is frozen (Eq. 4)."""
        logits = self.classifier(student.z, student.lengths, frozen=True)
        return classification_loss(logits, labels, n_utterances=n_utterances)

    def _step_classifier(self) -> None:
        """theta_d <- theta_d - alpha dL_D / dtheta_d (Eq. 3), the same on every process."""
        for parameter in self.classifier.parameters():
            if dist.is_initialized() and parameter.grad is not None:
                dist.all_reduce(parameter.grad)
                parameter.grad /= self.trainer.world_size
        for group in self.classifier_optimizer.param_groups:
            group["lr"] = (self.dat.lr or self.optim.lr) * self.optim.schedule(self.global_step + 1)
        self.classifier_optimizer.clip(0.0)  # if it is not finite, the student's update will be left out, too
        self.classifier_optimizer.step()
        self.classifier_optimizer.zero_grad()

    def _step_student(self) -> None:
        """theta_s <- theta_s - beta d(L_distil - lambda L_D) / dtheta_s (Eq. 4), and the log."""
        optimizer, scheduler = self.optimizers(), self.lr_schedulers()
        assert isinstance(optimizer, LightningOptimizer) and isinstance(scheduler, LambdaLR)
        optimizer.step()
        optimizer.zero_grad()
        every: int = self.trainer.log_every_n_steps  # pyright: ignore[reportAttributeAccessIssue]
        if self.global_step % every == 0:
            # Each process holds its share of the global mean: their mean is the loss of the global batch.
            values = self._all_sum(torch.stack(list(self._collected.values()))) / self.trainer.world_size
            self.log_dict(dict(zip(self._collected, values, strict=True)))
            self.log_dict({"gradient_norm": self._gradient_norm, "lr": scheduler.get_last_lr()[0]})
            self.log_dict(self._means_by_type())
        self._collected = {}
        scheduler.step()

    def _collect(self, parts: dict[str, Tensor]) -> None:
        """Add the parts of a micro-batch to what this step will log."""
        add_to(self._collected, {name: value.detach() for name, value in parts.items()})

    def _collect_by_type(self, labels: Tensor, loss: Tensor, frames: Tensor) -> None:
        """Add loss and frames of each utterance (B,) to those of its distortions, by its labels (B, K)."""
        # One utterance whose loss is not finite would spoil the sums until the next log line.
        labels = labels * loss.isfinite()[:, None]
        sums = {"loss": loss.nan_to_num(0.0, 0.0, 0.0), "frames": frames}
        add_to(self._by_type, {name: (labels * value[:, None]).sum(0) for name, value in sums.items()})

    def _means_by_type(self) -> dict[str, Tensor]:
        """By distortion, of all processes: the loss over its frames, the accuracy over all utterances.

        Of a distortion that has not occurred since the last log line there is no loss: Lightning repeats the
        value before.
        """
        sums = self._all_sum(torch.stack(list(self._by_type.values())))
        found, self._by_type = dict(zip(self._by_type, sums, strict=True)), {}
        occurred = found["frames"].tolist()
        means = {
            f"loss_by_type/{label}": found["loss"][k] / found["frames"][k]
            for k, label in enumerate(LABELS)
            if occurred[k]
        }
        if self.dat.enabled:
            accuracy = found["correct"] / found["answers"]
            means |= {f"dat_accuracy_by_type/{label}": accuracy[k] for k, label in enumerate(LABELS)}
        return means

    @override
    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """The distillation loss under the recipe's own CDM and on clean speech, summed over frames.

        Where Eq. 2 is off, the other terms in its place.
        """
        pairs = {"val/loss": (self.teacher_view, self.student_view), "val/loss_clean": (None, None)}
        # Each wave, feature and prediction is made once: without distortions both losses are of the same.
        teacher_views, student_views = map(dict.fromkeys, zip(*pairs.values(), strict=True))
        waves, labels = {}, {}
        for view in teacher_views | student_views:
            waves[view], labels[view] = self.distort(batch, view)
        features = {view: self.teacher_features(waves[view], batch.lengths) for view in teacher_views}
        asked = {} if self.objective.regression else self.terms.asks(batch)
        students = {view: self.student(waves[view], batch.lengths, **asked) for view in student_views}
        for name, (teacher_view, student_view) in pairs.items():
            student, target = students[student_view], self._predicted(features[teacher_view])
            loss = self._distillation_loss(student, target, 1.0).total
            if not self.objective.regression:  # its heads are not trained
                heard = waves[student_view], labels[student_view][:, PITCH].bool()
                seen = Seen(student, target, features[teacher_view], batch, *heard, asked)
                n_frames = student.lengths.sum().float()
                loss = n_frames * self.terms(loss, seen, n_frames, float(self.terms.n_masked(batch)))[0]
            add_to(self._validation, {name: loss})
        add_to(self._validation, {"frames": students[None].lengths.sum().float()})

    @override
    def on_validation_epoch_end(self) -> None:
        """Means over the frames of the whole set, on all processes."""
        frames = self._all_sum(self._validation.pop("frames"))
        means = {name: self._all_sum(total) / frames for name, total in self._validation.items()}
        self._validation = {}
        self.log_dict(means, prog_bar=True)

    @override
    def configure_optimizers(self) -> Any:
        """AdamW and its schedule, for the student and what is trained with it."""
        optimizer = adamw([*self.student.parameters(), *self.terms.parameters()], self.optim)
        return [optimizer], [LambdaLR(optimizer, self.optim.next_factor)]

    @override
    def on_before_optimizer_step(self, optimizer: FusedAdamW) -> None:
        """Clip here: mixed precision has unscaled the gradients by now."""
        self._gradient_norm = optimizer.clip(self.optim.clip_norm)

    def _global_counts(self, batch: Batch) -> list[Tensor]:
        """Valid frames, utterances and masked frames of the global batch, each divided by the processes.

        DistributedDataParallel averages gradients over processes: divided by these, the average is the
        gradient of the mean over the global batch, however unevenly it is spread.
        """
        frames = int(self.student.encoder.config.frames(batch.lengths).sum())
        self.terms.check(frames * self._processes)  # others have a frame, too
        # As arguments of a kernel: to copy them to the device would wait for it.
        found = frames, len(batch), self.terms.n_masked(batch)
        counts = torch.stack([torch.full((), float(count), device=self.device) for count in found])
        return [*(self._all_sum(counts) / self.trainer.world_size)]

    @property
    def _processes(self) -> int:
        return dist.get_world_size() if dist.is_initialized() else 1

    @property
    def layers(self) -> set[int]:
        """Of the teacher, those that anything is learnt from; 0 is its transformer's input."""
        return {*self.student.targets, *self.terms.layers}

    def _all_sum(self, value: Tensor) -> Tensor:
        if dist.is_initialized():
            dist.all_reduce(value)
        return value

    def passes(self) -> list[tuple[Encoder, int, list[Tensor], bool]]:
        """What a step computes: encoder, how many of its layers, weights of its heads, whether it learns."""
        encoder, heads = self.student.encoder, self.student.heads
        weights: list[Tensor] = [*heads.matrices, *self.terms.parameters()]
        return [
            (self.teacher, max(self.layers), [], False),
            (encoder, encoder.config.layers, weights, True),
        ]

    @override
    def train(self, mode: bool = True) -> Distillation:
        """Keep the teacher in eval mode: no dropout in the student's targets."""
        super().train(mode)
        self.teacher.eval()
        return self

    @override
    def on_fit_start(self) -> None:
        """Start the classifier the same on every process; move its optimiser's state to its device."""
        if not self.dat.enabled:
            return
        for parameter in self.classifier.parameters():
            if dist.is_initialized():
                dist.broadcast(parameter.data, src=0)
        state = self.classifier_optimizer.state_dict()
        self.classifier_optimizer = adamw(self.classifier.parameters(), self.optim, self.dat.lr)
        # The moments of the checkpoint, but the settings of the recipe, which may have changed.
        state["param_groups"] = self.classifier_optimizer.state_dict()["param_groups"]
        self.classifier_optimizer.load_state_dict(state)

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leave the teacher out; add what is needed to rebuild the student."""
        weights = checkpoint["state_dict"]
        checkpoint["state_dict"] = {
            name: value for name, value in weights.items() if not name.startswith("teacher.")
        }
        checkpoint["distill"] = {
            "kind": "student",
            "architecture": self.student.to_dict(),
            "provenance": self.provenance | {"step": self.global_step},
        }
        if self.dat.enabled:
            checkpoint["classifier_optimizer"] = self.classifier_optimizer.state_dict()

    @override
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the teacher's weights, which come from its own checkpoint.

        Raises:
            ConfigError: masked units are now of other centres than the checkpoint's.
        """
        units = "terms.units.codebook"
        before, now = (state.get(units) for state in (checkpoint["state_dict"], self.state_dict()))
        if before is not None and now is not None and not torch.equal(before.cpu(), now.cpu()):
            raise ConfigError(
                "objective.units.codebook has other centres than those that the run was started with, whose "
                "units its head has learned: name these, or start a new run"
            )
        for name, value in self.teacher.state_dict().items():
            checkpoint["state_dict"][f"teacher.{name}"] = value
        if self.dat.enabled and "classifier_optimizer" in checkpoint:
            self.classifier_optimizer.load_state_dict(checkpoint["classifier_optimizer"])


def gradient_sync(module: pl.LightningModule, *, last: bool) -> contextlib.AbstractContextManager[None]:
    """Exchange gradients between processes with the last micro-batch only."""
    model = module.trainer.model
    if last or not isinstance(model, torch.nn.parallel.DistributedDataParallel):
        return contextlib.nullcontext()
    return model.no_sync()


def loss_parts(
    loss: DistillationLoss, targets: Sequence[int], terms: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The parts of the loss under the names they are logged by; `targets` are the predicted layers."""
    parts = {"train/loss": loss.total, "train/l1": loss.l1, "train/cosine": loss.cosine}
    for head, layer in enumerate(targets):
        parts[f"train/l1_layer{layer}"] = loss.l1_per_layer[head]
        parts[f"train/cosine_layer{layer}"] = loss.cosine_per_layer[head]
    return parts | {f"train/{name}": value for name, value in terms.items()}


def add_to(total: dict[str, Tensor], parts: dict[str, Tensor]) -> None:
    """Add `parts` to the running sums in `total`."""
    for name, value in parts.items():
        total[name] = total[name] + value if name in total else value
