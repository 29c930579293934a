"""Ten steps of distillation on a fixed list of global batches; run by test_distillation.py under torchrun.

Each process takes its share of every global batch.

Usage: ddp_worker.py OUT DAT ACCUMULATE SIZE [KEY=VALUE ...], with keys of a recipe's section `objective`.
"""

import os
import sys
from pathlib import Path

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from distill.batch import Batch, View
from distill.config import from_words
from distill.distillation import Distillation
from distill.distortions import Distorter, DistortionConfig
from distill.hubert import HubertEncoder
from distill.optim import OptimConfig
from distill.options import DatConfig, ObjectiveConfig
from distill.spiral import SpiralEncoder
from distill.student import Student
from distill.waveforms import pad

STEPS = 10
NO_NOISE_FILES = DistortionConfig(additive=("gaussian", "none"))
SMALL = {
    "conv_layers": ((16, 10, 5), *[(16, 3, 2)] * 4, *[(16, 2, 2)] * 2),
    "dim": 32,
    "ffn_dim": 64,
    "layers": 3,
}
SPIRAL = {
    "block1_conv_layers": ((8, 5, 2), (16, 5, 2), (16, 1, 1)),
    "block1_ffn_dim": 32,
    "conv_layers": ((16, 5, 2), (32, 1, 1)),
    "layers": 3,
    "ffn_dim": 64,
}
LARGE = {"conv_norm": "layer", "normalize_input": True, "pre_norm": True}


def make_batches(n_batches: int = STEPS, size: int = 6) -> list[Batch]:
    """Batches of uneven utterances, distorted without any files."""
    distorter = Distorter.from_config(NO_NOISE_FILES)
    batches = []
    for index in range(n_batches):
        generator = torch.Generator().manual_seed(index)
        lengths = torch.randint(1000, 9000, (size,), generator=generator).tolist()
        waveforms, lengths = pad([0.1 * torch.randn(n, generator=generator) for n in lengths])
        ids = [f"batch{index}-{row}" for row in range(size)]
        views = {
            stream: View(distorter.plan(ids, seed=0, epoch=0, stream=stream), [None] * size, [None] * size)
            for stream in ("teacher", "student")
        }
        batches.append(Batch(ids, waveforms, lengths, views))
    return batches


def make_module(
    dat: bool,
    accumulate: int = 1,
    size: str = "base",
    *,
    dropout: float = 0.0,
    weight: float = 0.1,
    **changes,
) -> Distillation:
    """A tiny teacher, HuBERT "base" or "large" or "spiral", and student, without dropout unless asked for."""
    torch.manual_seed(0)
    if size == "spiral":
        teacher = SpiralEncoder.from_preset("mini", **SPIRAL)
    else:
        teacher = HubertEncoder.from_preset("mini", **SMALL, **(LARGE if size == "large" else {}))
    student = Student.from_teacher(
        teacher,
        layers=1,
        targets=(1, 2, 3),
        dropout=dropout,
        attention_dropout=dropout,
        activation_dropout=dropout,
    )
    options = {
        "cdm": "setup2",
        "dat": DatConfig(enabled=dat, weight=weight),
        "optim": OptimConfig(max_steps=STEPS, accumulate=accumulate),
        "codebook": torch.randn(5, teacher.config.dim, generator=torch.Generator().manual_seed(0)),
    }
    return Distillation(teacher, student, Distorter.from_config(NO_NOISE_FILES), **(options | changes))


def make_trainer(**options) -> pl.Trainer:
    """A bare CPU trainer."""
    defaults = {
        "max_steps": STEPS,
        "max_epochs": -1,
        "accelerator": "cpu",
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
        "use_distributed_sampler": False,
        "log_every_n_steps": 1,
    }
    return pl.Trainer(**(defaults | options))


if __name__ == "__main__":
    torch.set_num_threads(1)
    out, dat, accumulate = Path(sys.argv[1]), sys.argv[2] == "True", int(sys.argv[3])
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    batches = make_batches()
    # Uneven on purpose: the first process gets two utterances of six, the second four.
    shares = [batch[:2] if rank == 0 else batch[2:] for batch in batches]
    objective = from_words(ObjectiveConfig, {}, sys.argv[5:])
    module = make_module(dat, accumulate, sys.argv[4], objective=objective)
    trainer = make_trainer(strategy="ddp", devices=world_size, log_every_n_steps=5)
    trainer.fit(module, DataLoader(shares, batch_size=None))
    state = {name: value for name, value in module.state_dict().items() if not name.startswith("teacher.")}
    torch.save(state, out / f"rank{rank}.pt")
    torch.save(dict(trainer.callback_metrics), out / f"metrics{rank}.pt")
