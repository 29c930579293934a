"""A tiny encoder, speech whose clusters can be heard, and a training of masked prediction with both."""

from typing import Any

import pytorch_lightning as pl
import torch

from distill.adaptation.masked_prediction import MaskedPrediction
from distill.batch import Batch
from distill.hubert import HubertConfig, HubertEncoder
from distill.optim import OptimConfig

OPTIM = OptimConfig(lr=1e-3, max_steps=40)
CLUSTERS = 5


def tiny_encoder(**changes):
    torch.manual_seed(0)
    small = {"layers": 2, "dim": 32, "heads": 2, "ffn_dim": 64, "position_groups": 4}
    return HubertEncoder.from_preset("mini", **{**small, **changes})


def batch_of(waveforms, lengths, targets):
    return Batch([str(row) for row in range(len(waveforms))], waveforms, lengths, targets=targets)


def tiny_batch(seed=0, samples=(16_000, 12_000, 9_000)):
    """Noise whose colour changes every few frames; the target names the colour."""
    rng = torch.Generator().manual_seed(seed)
    frames = HubertConfig().frames(torch.tensor(samples))
    waveforms = torch.zeros(len(samples), max(samples))
    targets = torch.full((len(samples), int(frames.max())), -1)
    for row, (length, n_frames) in enumerate(zip(samples, frames.tolist(), strict=True)):
        blocks = torch.randint(CLUSTERS, (length // 3200 + 1,), generator=rng)
        labels = blocks.repeat_interleave(10)[:n_frames]
        hz = 200.0 * 2.0 ** blocks.repeat_interleave(3200)[:length]
        phase = torch.cumsum(2 * torch.pi * hz / 16_000, 0)
        waveforms[row, :length] = 0.2 * phase.sin() + 0.01 * torch.randn(length, generator=rng)
        targets[row, :n_frames] = labels
    return batch_of(waveforms, torch.tensor(samples), targets)


def tiny_module(optim=OPTIM, **changes):
    encoder = tiny_encoder()
    return MaskedPrediction(encoder, CLUSTERS, optim=optim, final_dim=16, **changes)


def targets_of(batch) -> torch.Tensor:
    assert batch.targets is not None
    return batch.targets


class Logged(pl.Callback):
    def __init__(self):
        self.train, self.dev = [], []

    def on_train_batch_end(self, trainer, *_):
        self.train.append({name: float(value) for name, value in trainer.callback_metrics.items()})

    def on_validation_epoch_end(self, trainer, *_):
        self.dev.append({name: float(value) for name, value in trainer.callback_metrics.items()})


def loader_of(batches: Any) -> torch.utils.data.DataLoader:
    return torch.utils.data.DataLoader(batches, batch_size=None)


def fit(module, batch, folder, *, ckpt_path=None, val=None, **options):
    logged = Logged()
    trainer = pl.Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        callbacks=[logged],
        **{
            "enable_checkpointing": False,
            "max_steps": module.optim.max_steps,
            "num_sanity_val_steps": 0,
            "log_every_n_steps": 1,
            **options,
        },
    )
    loader = loader_of([batch] * 10)
    trainer.fit(module, loader, val, ckpt_path=ckpt_path)
    return trainer, logged
