"""What every recipe has: names, data, validation, logging."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

from distill.distortions.options import DistortionConfig
from distill.errors import check_finite
from distill.hubert import HubertConfig
from distill.optim import OptimConfig

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

_MOST_WORKERS = 1024  # more than any machine has cores; starting a million would take for ever
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


def check_name(field: str, name: str) -> None:
    """Refuse a name that is not plain: it becomes that of a folder, or part of a URL.

    Raises:
        ValueError: naming the field.
    """
    if not re.fullmatch(r"\w[\w.-]*", name) or len(name.encode()) > _LONGEST_NAME:
        shown = name if len(name) <= 40 else f"{name[:40]}..."
        raise ValueError(
            f"{field} must be a plain name of at most {_LONGEST_NAME} letters, digits, '_', '-' and '.', the "
            f"first a letter, a digit or '_', not {shown!r}"
        )


_LONGEST_NAME = 100  # bytes; file names may have 255, and something is added to it


@dataclass(kw_only=True)
class DataConfig:
    """Where speech and noise are, and how batches are made of them.

    A source is a lhotse manifest (.jsonl, .jsonl.gz), a TSV with a column `path`, or a folder of audio.
    `FILE.tsv?column=value&column=value` keeps the rows that match.
    """

    root: str = "data"
    """Folder that the recipes' sources start from."""
    train: list[str] = field(default_factory=list)
    """Sources of training speech."""
    dev: list[str] = field(default_factory=list)
    """Sources of speech to choose the best checkpoint on."""
    noises: dict[str, list[str]] = field(default_factory=dict)
    """By corpus (musan, wham, ...): sources of noise for training; speech, other utterances as noise, is
    `train` itself unless given."""
    dev_noises: dict[str, list[str]] = field(default_factory=dict)
    """The same for the dev set; default: as in training, and its own speech."""
    batch_size: int = 24
    """Utterances of a global batch, over all processes."""
    batch_seconds: float | None = None
    """Seconds of audio of a global batch, in place of `batch_size`."""
    max_samples: int = 250_000
    """Longer utterances are cropped at a random place, samples at 16 kHz."""
    min_samples: int = 0
    """Shorter utterances are not trained on, samples at 16 kHz; 0: all that are long enough for the model."""
    workers: int = 4
    """Data loading processes per training process."""
    buckets: int = 30
    """Batches that are cut together from a stretch of the shuffled corpus, sorted by duration: the more, the
    less padding; 1: utterances of any duration."""
    order_seed: int | None = None
    """Of the order of the data, its crops and distortions; default: the recipe's `seed`. With one of its own,
    runs whose seeds differ see the same batches, and can share them (`distill train --seeds`)."""
    max_bad_fraction: float = 0.01
    """Share of utterances, and of recordings of noise, that may be unusable, judged after 1000 reads and at
    the end of every epoch."""

    def noises_of(self, split: str) -> tuple[str, dict[str, list[str]]]:
        """The key and the sources of noise, by corpus, of "train" or "dev"."""
        if split == "train":
            return "noises", self.noises
        return "dev_noises", self.dev_noises or self.noises

    def __post_init__(self) -> None:
        check_finite(self)
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {self.batch_size}")
        if self.max_samples < (least := HubertConfig().receptive_field):
            raise ValueError(f"max_samples must be at least {least} (one frame), not {self.max_samples}")
        if self.min_samples < 0:
            raise ValueError(f"min_samples must be 0 (all) or positive, not {self.min_samples}")
        if not 0 <= self.workers <= _MOST_WORKERS or self.buckets < 1:
            raise ValueError(f"workers must be 0 to {_MOST_WORKERS} and buckets at least 1")
        if self.batch_seconds is not None and self.batch_seconds <= 0:
            raise ValueError(f"batch_seconds must be positive, not {self.batch_seconds}")
        if self.order_seed is not None and not 0 <= self.order_seed < 2**32:
            raise ValueError(f"order_seed must be in [0, 2**32), not {self.order_seed}")
        if not 0 <= self.max_bad_fraction <= 1:
            raise ValueError(f"max_bad_fraction must be in [0, 1], not {self.max_bad_fraction}")


@dataclass(kw_only=True)
class ValidationConfig:
    """When and on how much to validate; the checkpoint with the lowest dev loss is kept as the best."""

    every_n_steps: int = 1_000
    """Student updates between two validations; also how often `last.ckpt` is written."""
    max_batches: int | None = None
    """Batches per validation and process; default: the whole dev set."""

    def __post_init__(self) -> None:
        if self.every_n_steps < 1:
            raise ValueError(f"every_n_steps must be at least 1, not {self.every_n_steps}")


@dataclass(kw_only=True)
class LoggingConfig:
    """Where numbers go. CSV and TensorBoard files are always written."""

    wandb: str = "auto"
    """"online", "offline", "off", or "auto": as `WANDB_MODE` says, else online with an API key, else offline.
    `WANDB_MODE=disabled` and `WANDB_DISABLED=true` turn it off in any case."""
    project: str = "robust-distilhubert"
    """Weights & Biases project, a plain name."""
    every_n_steps: int = 50
    """Steps between two log lines."""
    audio_every_n_steps: int = 1_000
    """Steps between two samples, audio and spectrograms, of what teacher and student hear; 0: none."""

    def __post_init__(self) -> None:
        if self.wandb == "False":  # YAML reads a bare `off` as a boolean
            self.wandb = "off"
        check_name("project", self.project)
        if self.wandb not in ("auto", "online", "offline", "off"):
            raise ValueError(f"wandb must be auto, online, offline or off, not {self.wandb!r}")
        if self.every_n_steps < 1:
            raise ValueError(f"every_n_steps must be at least 1, not {self.every_n_steps}")
        if self.audio_every_n_steps < 0:
            raise ValueError(
                f"audio_every_n_steps must be 0 (never) or positive, not {self.audio_every_n_steps}"
            )


def last_part(path: str) -> str:
    """Of a path or an address."""
    return path.rstrip("/").rpartition("/")[2]


_NOT_IN_DEV = ("curriculum", "where")
"""Distortion settings of training alone, and those that change no distortion."""


@dataclass(kw_only=True)
class Recipe:
    """What every recipe has."""

    instead_of: ClassVar[Mapping[str, str]] = INSTEAD_OF
    """By Lightning option that is refused in the trainer section: what to use instead."""

    kind: str = "distil"
    """"distil" a student, "adapt" (or pre-train) a HuBERT, pre-train a "spiral", "finetune" an encoder for
    recognition, or take a published "teacher" as it is."""
    name: str = "unnamed"
    """Name of the run, and of its folder: letters, digits, `_`, `-` and `.`."""
    description: str = ""
    """One line for people."""
    teacher: str = "facebook/hubert-base-ls960"
    """Checkpoint, run folder or hub id; for "adapt" also "random:PRESET" to start from nothing."""
    distortion: DistortionConfig = field(default_factory=DistortionConfig)
    """Which distortions are drawn in training."""
    data: DataConfig = field(default_factory=DataConfig)
    """Speech and noise."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """Optimiser and schedule."""
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    """When to validate."""
    logging: LoggingConfig = field(default_factory=LoggingConfig)
    """Loggers."""
    trainer: dict[str, Any] = field(default_factory=dict)
    """Passed on to Lightning's Trainer: devices, num_nodes, precision, strategy, ..."""
    seed: int = 0
    """Of initialisation and dropout; of the order of the data and distortions too, unless `data.order_seed`
    is given."""

    def __post_init__(self) -> None:
        check_finite(self)
        check_name("name", self.name)
        if self.seed < 0:
            raise ValueError(f"seed must not be negative, not {self.seed}")
        if self.seed >= 2**32:  # numpy's generator, which Lightning seeds too, takes no more
            raise ValueError(f"seed must be below 2**32, not {self.seed}")
        check_trainer(self.trainer, self.instead_of)
        if getattr(self, "distort", True) is False:
            self.refuse_curriculum("set distort=true")

    def dev_score_of(self) -> dict[str, Any]:
        """What the dev score depends on beside the model, in plain values: others are not comparable.

        Files are called by the last part of their paths: runs and corpora may move.
        """
        heard = {name: value for name, value in asdict(self.distortion).items() if name not in _NOT_IN_DEV}
        noises = {name: [*map(last_part, sources)] for name, sources in self.data.dev_noises.items()}
        return {
            "data": {"dev": [*map(last_part, self.data.dev)]},
            "max_batches": self.validation.max_batches,
            **({"distortion": heard, "dev_noises": noises} if self.distorted_dev else {}),
        }

    @property
    def distorted_dev(self) -> bool:
        """Whether dev speech is distorted."""
        return getattr(self, "distort", True)

    def refuse_curriculum(self, instead: str) -> None:
        """Refuse a curriculum of distortions in a recipe that hears none.

        Raises:
            ValueError: saying what to set.
        """
        if self.distortion.curriculum is not None:
            raise ValueError(f"distortion.curriculum needs distorted speech: {instead}, or leave it out")

    @property
    def order_seed(self) -> int:
        """Of the order of the data, its crops and distortions."""
        return self.seed if self.data.order_seed is None else self.data.order_seed
