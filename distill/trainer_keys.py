"""Which options of Lightning's Trainer a recipe's `trainer` section may have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

INSTEAD_OF = {
    "gradient_clip_val": "optim.clip_norm",
    "gradient_clip_algorithm": "optim.clip_norm",
    "accumulate_grad_batches": "optim.accumulate",
    "max_steps": "optim.max_steps",
    "max_epochs": "optim.max_steps",
    "logger": "logging",
    "log_every_n_steps": "logging.every_n_steps",
    "val_check_interval": "validation.every_n_steps",
    "check_val_every_n_epoch": "validation.every_n_steps",
    "limit_val_batches": "validation.max_batches",
    "default_root_dir": "--out",
    "use_distributed_sampler": "nothing: batches are spread over processes by the data loader",
    # These would release a student after a few steps, or lose the place in the data when a run is resumed.
    "fast_dev_run": "optim.max_steps=1",
    "limit_train_batches": "optim.max_steps",
    "overfit_batches": "a data.train of a few utterances",
    "max_time": "nothing: `timeout -s TERM 2h distill ...` saves, and the run can be resumed",
    "min_steps": "optim.max_steps",
    "min_epochs": "optim.max_steps",
    "reload_dataloaders_every_n_epochs": "nothing: every epoch has its own order",
    "num_sanity_val_steps": "validation.every_n_steps",
    "enable_checkpointing": "nothing: a run needs its checkpoints",
    "barebones": "nothing: `distill profile` measures without logs and checkpoints",
}
"""Lightning options that are decided elsewhere: what to use instead."""

TRAINER_KEYS = (
    "accelerator",
    "devices",
    "num_nodes",
    "strategy",
    "precision",
    "deterministic",
    "benchmark",
    "detect_anomaly",
    "inference_mode",
    "profiler",
)
"""Lightning options that are passed on; all others are decided by the framework."""

_STRATEGIES = ("auto", "ddp", "ddp_find_unused_parameters_false", "ddp_find_unused_parameters_true")


def check_trainer(trainer: Mapping[str, Any], instead_of: Mapping[str, str] = INSTEAD_OF) -> None:
    """Refuse keys that are decided elsewhere, and values that this framework cannot work with.

    Keys that Lightning does not know are refused when the Trainer is made: Lightning takes seconds to import.

    Raises:
        ValueError: naming what to use instead.
    """
    for key, instead in instead_of.items():
        if key in trainer:
            raise ValueError(f"trainer.{key} is not passed on: use {instead}")
    precision, strategy = str(trainer.get("precision", "32")), str(trainer.get("strategy", "auto"))
    if precision in ("64", "64-true", "16-true", "bf16-true") or precision.startswith("transformer-engine"):
        raise ValueError(
            f"trainer.precision={precision} is not passed on: weights and audio stay in float32, use "
            "bf16-mixed, 16-mixed or 32"
        )
    if strategy not in _STRATEGIES:
        raise ValueError(
            f"trainer.strategy={strategy} is not passed on: use ddp, one process for each device, or leave "
            "it out"
        )
