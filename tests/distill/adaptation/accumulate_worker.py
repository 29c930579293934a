"""Masked prediction in two processes, with whole batches and with micro-batches; run under torchrun.

Usage: accumulate_worker.py OUT
"""

import os
import sys
from pathlib import Path

import pytorch_lightning as pl
import torch

from distill.optim import OptimConfig
from distill.options import MaskingConfig
from tests.distill.adaptation.tiny_training import (
    loader_of,
    tiny_batch,
    tiny_encoder,
    tiny_module,
)

SAMPLES = {0: (16_000, 9_000, 5_000, 12_000), 1: (7_000, 16_000, 4_000)}  # of each process

if __name__ == "__main__":
    torch.set_num_threads(1)
    rank = int(os.environ["RANK"])
    for accumulate in (1, 3):
        torch.manual_seed(0)
        optim = OptimConfig(lr=2e-3, eps=1e-3, max_steps=4, warmup=0.0, accumulate=accumulate)
        module = tiny_module(optim, masking=MaskingConfig(unmasked_weight=0.3))
        module.encoder = tiny_encoder(dropout=0.0, attention_dropout=0.0)
        trainer = pl.Trainer(
            accelerator="cpu",
            devices=2,
            strategy="ddp",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            max_steps=4,
        )
        trainer.fit(module, loader_of([tiny_batch(rank, SAMPLES[rank])] * 4))
        torch.save(module.state_dict(), Path(sys.argv[1]) / f"{accumulate}-rank{rank}.pt")
