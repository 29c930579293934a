"""A tiny SPIRAL pre-training on fixed batches; under torchrun, each process takes its share of every batch.

Usage: tiny.py OUT
"""

import os
import sys
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from distill.batch import Batch
from distill.optim import OptimConfig
from distill.options import ContrastConfig, EmaConfig, HeadsConfig
from distill.pretraining.spiral import SpiralPretraining
from distill.spiral import SpiralEncoder
from distill.spiral.perturbation import SpecAugment
from distill.waveforms import pad
from tests.distill.ddp_worker import make_trainer as bare_trainer

STEPS = 4
SMALL: dict[str, Any] = {
    "bands": 24,
    "block1_conv_layers": ((16, 5, 2), (24, 5, 2), (24, 1, 1)),
    "block1_ffn_dim": 32,
    "conv_layers": ((24, 5, 2), (16, 1, 1)),
    "layers": 2,
    "ffn_dim": 32,
    "position_kernel": 8,
    "position_groups": 4,
}


def make_batches(n_batches: int = STEPS, size: int = 6, shortest: int = 3_000) -> list[Batch]:
    """Batches of uneven utterances, one of a single frame."""
    batches = []
    for index in range(n_batches):
        generator = torch.Generator().manual_seed(index)
        lengths = torch.randint(shortest, 20_000, (size,), generator=generator).tolist()
        lengths[0] = 1_000
        waveforms, lengths = pad([0.1 * torch.randn(n, generator=generator) for n in lengths])
        ids = [f"batch{index}-{row}" for row in range(size)]
        batches.append(Batch(ids, waveforms, lengths, position=(0, index)))
    return batches


def make_module(*, dropout: float = 0.0, **changes: Any) -> SpiralPretraining:
    """A tiny model, without dropout unless asked for."""
    torch.manual_seed(0)
    encoder = SpiralEncoder.from_preset(
        "mini", **SMALL, dropout=dropout, attention_dropout=dropout, layerdrop=dropout
    )
    options = {
        "optim": OptimConfig(lr=1e-3, max_steps=STEPS, decay="cosine", clip_norm=0.0),
        "masking": SpecAugment(channel_length=5),
        "contrast": ContrastConfig(negatives=7),
        "heads": HeadsConfig(dim=12),
        "average": EmaConfig(base=0.9),
    }
    return SpiralPretraining(encoder, **(options | changes))


def make_trainer(**options: Any) -> pl.Trainer:
    """A bare CPU trainer."""
    return bare_trainer(**({"max_steps": STEPS} | options))


if __name__ == "__main__":
    torch.set_num_threads(1)
    out, rank, world_size = Path(sys.argv[1]), int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    # Uneven on purpose: the first process gets two utterances of six, the second four.
    shares = [batch[:2] if rank == 0 else batch[2:] for batch in make_batches()]
    for index, share in enumerate(shares):
        share.position = (0, index)
    module = make_module()
    trainer = make_trainer(strategy="ddp", devices=world_size)
    trainer.fit(module, DataLoader(shares, batch_size=None))
    torch.save(module.state_dict(), out / f"rank{rank}.pt")
    torch.save(dict(trainer.callback_metrics), out / f"metrics{rank}.pt")
