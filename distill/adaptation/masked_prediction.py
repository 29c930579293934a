"""HuBERT's masked prediction: pre-train an encoder from scratch, or continue in a new domain.

Shapes: B utterances, T samples at 16 kHz, F frames, D features, C CNN channels, K clusters.

Loss (Hsu et al. 2021, Eq. 1-2, with the weights of its reference implementation):

    total = L_m + unmasked_weight * L_u + feature_penalty * mean(cnn ** 2)

L_m and L_u are mean cross-entropies over masked and unmasked frames; the logit of cluster k at a frame is
cos(final_proj(h), e_k) / temperature. The reference sums the cross-entropy, multiplies the penalty by the
number of predicted frames and divides the gradient by that number: with masked frames only, the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pytorch_lightning.core.optimizer import LightningOptimizer
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from distill.batch import Batch
from distill.distillation import gradient_sync
from distill.distortions import Distorter
from distill.errors import CheckpointError
from distill.hubert import HubertEncoder
from distill.objective.masking import span_mask
from distill.objective.units import unit_logits
from distill.optim import OptimConfig, adamw
from distill.options import MaskingConfig
from distill.waveforms import frame_mask, to_device

# fairseq numbers labels after its dictionary's <s>, <pad>, </s> and <unk>, which label no frame.
FAIRSEQ_SPECIAL_LABELS = 4


@dataclass
class MaskedLoss:
    """Terms of the loss and what is logged with them; scalars."""

    total: Tensor
    """What is minimised."""
    penalty: Tensor
    """Mean square of the CNN's output over valid frames, unweighted."""
    masked_correct: Tensor
    """Masked frames whose target has the largest logit."""
    unmasked_correct: Tensor
    """The same of the unmasked ones."""
    masked: Tensor
    """Masked frames with a target, in this batch."""
    unmasked: Tensor
    """Unmasked ones."""


class MaskedPrediction(pl.LightningModule):
    """Trains `encoder` to predict the clusters of masked frames.

    With a distorter the input is distorted and the targets stay those of the clean speech.

    Example:
        >>> encoder = HubertEncoder.from_preset("mini")
        >>> module = MaskedPrediction(encoder, 100, optim=OptimConfig(lr=5e-4, max_steps=1000))
        >>> waveforms, lengths = torch.randn(1, 16_000), torch.tensor([16_000])
        >>> batch = Batch(["a"], waveforms, lengths, targets=torch.zeros(1, 49, dtype=torch.int64))
        >>> module.loss(batch, torch.ones(1, 49, dtype=torch.bool)).total.shape
        torch.Size([])
    """

    def __init__(
        self,
        encoder: HubertEncoder,
        n_clusters: int,
        *,
        optim: OptimConfig,
        final_dim: int = 256,
        masking: MaskingConfig | None = None,
        temperature: float = 0.1,
        distorter: Distorter | None = None,
        seed: int = 0,
        provenance: Mapping[str, Any] | None = None,
    ):
        """Adds a random prediction head to the encoder.

        Args:
            encoder: trained in place; its dropout and `cnn_grad_scale` are its config's.
            n_clusters: K.
            optim: learning rate, steps, clipping.
            final_dim: width in which frames and clusters are compared.
            masking: which frames are hidden, and the weights of the loss; default: HuBERT's.
            temperature: the cosine is divided by it.
            distorter: applied to the input with the plan of each batch's view "student".
            seed: of the masks.
            provenance: plain values to keep in the checkpoint.

        Raises:
            ValueError: for a value out of range.
        """
        super().__init__()
        if n_clusters < 2:
            raise ValueError(f"n_clusters must be at least 2, not {n_clusters}")
        if temperature <= 0:
            raise ValueError(f"temperature must be positive, not {temperature}")
        self.encoder = encoder
        self.n_clusters = n_clusters
        self.optim = optim
        self.masking = masking or MaskingConfig()
        self.temperature = temperature
        self.distorter = distorter
        self.seed = seed
        self.provenance = dict(provenance or {})
        self.automatic_optimization = False
        dim = encoder.config.dim
        self.mask_embedding = nn.Parameter(torch.empty(dim).uniform_())
        self.final_proj = nn.Linear(dim, final_dim)
        self.label_embeddings = nn.Parameter(torch.empty(n_clusters, final_dim).uniform_())

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """One batch, in `optim.accumulate` micro-batches: one update."""
        # Numbered by update, not by a running generator or batch_idx (which a resumed run may count
        # differently): resumed, every rank draws the masks that it would have drawn.
        mask = self._draw_mask(batch, (1, self.global_step, 0))  # (B, F)
        counts = self._counts(batch, mask)
        noted, parts, first = [], batch.split(self.optim.accumulate), 0
        for part in parts:
            rows = slice(first, first + len(part))
            first = rows.stop
            with gradient_sync(self, last=part is parts[-1]):
                loss = self.loss(*self._cut(part, mask[rows]), counts)
                self.manual_backward(loss.total)
            noted.append([getattr(loss, field.name).detach() for field in fields(loss)])
        optimizer, scheduler = self.optimizers(), self.lr_schedulers()
        assert isinstance(optimizer, LightningOptimizer) and isinstance(scheduler, LambdaLR)
        optimizer.step()
        optimizer.zero_grad()
        every: int = self.trainer.log_every_n_steps  # pyright: ignore[reportAttributeAccessIssue]
        if self.global_step % every == 0:
            # All at once: Lightning forgets values when another hook has logged.
            self._log("train", MaskedLoss(*(torch.stack(term).sum() for term in zip(*noted, strict=True))))
            values = {"gradient_norm": self._gradient_norm, "lr": scheduler.get_last_lr()[0]}
            self.log_dict(values, batch_size=1)
        scheduler.step()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """The same masks at every validation."""
        self._log("val", self.loss(batch, self._draw_mask(batch, (0, 0, batch_idx))))

    def loss(self, batch: Batch, mask: Tensor, counts: Tensor | None = None) -> MaskedLoss:
        """Loss of a batch under a given mask.

        Args:
            batch: with targets, those of the clean speech; with a view "student" if there is a distorter.
            mask: (B, F) bool on the batch's device, true where masked.
            counts: (3,) masked, unmasked and all frames to divide by, if this is only a part of a batch.

        Raises:
            ValueError: if the batch has no targets or they disagree with the encoder on the frames.
        """
        waveforms, lengths, targets = batch.waveforms, batch.lengths, self._targets(batch)
        if self.distorter is not None:
            waveforms, _ = batch.views["student"].distort(self.distorter, waveforms, lengths)
        out = self.encoder(waveforms, lengths, return_cnn=True, mask=mask, mask_embedding=self.mask_embedding)
        masked, unmasked, valid = self._kinds(batch, mask)
        counts = self._counts(batch, mask) if counts is None else counts
        # Frames of the padding mean nothing, and one that is not finite would make every gradient so.
        logits = self.logits(out.last_hidden_state.masked_fill(~valid[..., None], 0.0))  # (B, F, K)
        entropy = F.cross_entropy(logits.transpose(1, 2), targets, ignore_index=-1, reduction="none")
        correct = logits.argmax(2) == targets
        penalty = _mean_square(out.cnn, valid, counts[2])
        total = (entropy * masked).sum() / counts[0] + self.masking.feature_penalty * penalty
        if self.masking.unmasked_weight:
            total = total + self.masking.unmasked_weight * (entropy * unmasked).sum() / counts[1]
        return MaskedLoss(
            total,
            penalty.detach(),
            (correct & masked).sum(),
            (correct & unmasked).sum(),
            masked.sum(),
            unmasked.sum(),
        )

    def logits(self, hidden: Tensor) -> Tensor:
        """cos(final_proj(h), e_k) / temperature, in float32. (B, F, D) -> (B, F, K)."""
        return unit_logits(self.final_proj(hidden), self.label_embeddings, self.temperature)

    def load_head(self, head: Mapping[str, Tensor], *, label_embeddings: bool = True) -> None:
        """Take over the pre-training head of a fairseq checkpoint (`checkpoints.fairseq.read_head`).

        Args:
            head: `mask_emb` (D,), `final_proj.weight` (final_dim, D), `final_proj.bias` and
                `label_embs_concat` (K, final_dim), or (K + 4, final_dim): the first four then belong to
                fairseq's special symbols and are dropped.
            label_embeddings: False leaves the cluster embeddings random. Theirs only fit the k-means the
                checkpoint was trained with; with a new codebook, of however many clusters, start afresh.

        Raises:
            CheckpointError: if a tensor is missing or has another shape.
        """
        wanted: dict[str, Tensor] = {
            "mask_emb": self.mask_embedding,
            "final_proj.weight": self.final_proj.weight,
            "final_proj.bias": self.final_proj.bias,
        }
        if label_embeddings:
            wanted["label_embs_concat"] = self.label_embeddings
        loaded: dict[str, Tensor] = {}
        for name, parameter in wanted.items():
            if name not in head:
                raise CheckpointError(f"pre-training head: {name} is missing; load a pre-trained HuBERT")
            value = head[name]
            if name == "label_embs_concat" and len(value) == self.n_clusters + FAIRSEQ_SPECIAL_LABELS:
                value = value[FAIRSEQ_SPECIAL_LABELS:]
            if value.shape != parameter.shape:
                raise CheckpointError(
                    f"pre-training head: {name} is {tuple(value.shape)}, expected {tuple(parameter.shape)}; "
                    "for a new codebook leave the label embeddings out (label_embeddings=False)"
                )
            loaded[name] = value
        with torch.no_grad():
            for name, value in loaded.items():
                wanted[name].copy_(value)

    def configure_optimizers(self) -> Any:
        """AdamW and its schedule, one scheduler step per update."""
        optimizer = adamw(self.parameters(), self.optim)
        scheduler = LambdaLR(optimizer, self.optim.next_factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """Clip here: mixed precision has unscaled the gradients by now."""
        self._gradient_norm = optimizer.clip(self.optim.clip_norm)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Describe the teacher, whose weights are in the state dict under "encoder."."""
        checkpoint["distill"] = {
            "kind": "teacher",
            "architecture": self.encoder.config.to_dict(),
            "provenance": self.provenance
            | {
                "method": "masked prediction",
                "step": self.global_step,
                "n_clusters": self.n_clusters,
                "mask_probability": self.masking.probability,
                "mask_length": self.masking.length,
                "temperature": self.temperature,
                "unmasked_weight": self.masking.unmasked_weight,
                "feature_penalty": self.masking.feature_penalty,
                "distorted": self.distorter is not None,
                "seed": self.seed,
                "optim": asdict(self.optim),
            },
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """What is only known at the start of a run: whether its head is the teacher's."""
        begun = checkpoint.get("distill", {}).get("provenance", {})
        self.provenance |= {key: begun[key] for key in ("head",) if key in begun}

    def passes(self) -> list[tuple[HubertEncoder, int, list[Tensor], bool]]:
        """What a step computes: encoder, how many of its layers, weights of its heads, whether it learns."""
        heads = [self.final_proj.weight, self.label_embeddings]
        return [(self.encoder, self.encoder.config.layers, heads, True)]

    def _draw_mask(self, batch: Batch, key: tuple[int, int, int]) -> Tensor:
        """(B, F) bool on the batch's device, by a generator that seed, rank and key decide."""
        seed = np.random.SeedSequence([self.seed, self.global_rank, *key]).generate_state(1, np.uint32)
        generator = torch.Generator().manual_seed(int(seed[0]))
        config = self.encoder.config
        mask = span_mask(
            config.frames(batch.lengths),
            probability=self.masking.probability,
            length=self.masking.length,
            generator=generator,
        )
        missing = config.frames(batch.waveforms.shape[1]) - mask.shape[1]  # if no row is full
        return to_device(F.pad(mask, (0, missing)), batch.waveforms.device)

    def _kinds(self, batch: Batch, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Which frames (B, F) are masked, unmasked (each with a target) and valid at all."""
        lengths = to_device(self.encoder.config.frames(batch.lengths), mask.device)
        valid = frame_mask(lengths, mask.shape[1])
        labelled = valid & (self._targets(batch) >= 0)
        return labelled & mask, labelled & ~mask, valid

    def _counts(self, batch: Batch, mask: Tensor) -> Tensor:
        """(3,) frames of each kind to divide by, at least 1: under DDP, in training, the mean over the ranks.

        DDP averages the ranks' gradients: with these divisors the result is the mean over the global batch.
        """
        counts = torch.stack([kind.sum() for kind in self._kinds(batch, mask)]).float()
        if self.training and torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(counts)
            counts = counts / torch.distributed.get_world_size()
        return counts.clamp(min=1.0)

    def _cut(self, part: Batch, mask: Tensor) -> tuple[Batch, Tensor]:
        """Targets and mask of a micro-batch, as long as its own longest utterance."""
        assert part.targets is not None
        frames = self.encoder.config.frames(part.waveforms.shape[1])
        return replace(part, targets=part.targets[:, :frames]), mask[:, :frames]

    def _targets(self, batch: Batch) -> Tensor:
        """(B, F), checked."""
        if batch.targets is None:
            raise ValueError("the batch has no targets")
        expected = (len(batch.waveforms), self.encoder.config.frames(batch.waveforms.shape[1]))
        if batch.targets.shape != expected:
            raise ValueError(
                f"targets must be {expected} for waveforms {tuple(batch.waveforms.shape)}, "
                f"not {tuple(batch.targets.shape)}"
            )
        return batch.targets

    def _log(self, split: str, loss: MaskedLoss) -> None:
        """Loss and accuracies, each averaged over an epoch with its own number of frames."""
        on_epoch = split == "val"
        values = {
            "loss": (loss.total.detach(), loss.masked),
            "masked_accuracy": (loss.masked_correct / loss.masked.clamp(min=1), loss.masked),
            "unmasked_accuracy": (loss.unmasked_correct / loss.unmasked.clamp(min=1), loss.unmasked),
            "feature_penalty": (loss.penalty, loss.masked),
        }
        for name, (value, frames) in values.items():
            # The number of frames matters to averages only; reading it makes a GPU wait.
            weight = int(frames) if on_epoch else 1
            self.log(
                f"{split}/{name}",
                value,
                on_step=not on_epoch,
                on_epoch=on_epoch,
                batch_size=weight,
                sync_dist=on_epoch,
                prog_bar=name in ("loss", "masked_accuracy"),
            )


def _mean_square(cnn: Tensor | None, valid: Tensor, n_frames: Tensor) -> Tensor:
    """Mean of (B, F, C) squared over the valid frames (B, F), of which there are `n_frames`, in float32."""
    assert cnn is not None
    squares = cnn.float().masked_fill(~valid[..., None], 0.0).square().mean(2)  # (B, F)
    return squares.sum() / n_frames
