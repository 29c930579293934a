"""Every option of a recipe, with its default, meaning and unit."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

from distill.distortions.options import DistortionConfig
from distill.errors import check_finite
from distill.hubert import HubertConfig
from distill.optim import OptimConfig
from distill.trainer_keys import INSTEAD_OF, check_trainer

CDM: dict[str, tuple[str | None, str | None]] = {
    "none": (None, None),  # plain DistilHuBERT
    "setup1": (None, "student"),
    "setup2": ("teacher", "student"),  # two independent draws
    "setup2_same": ("student", "student"),
}
"""Cross-distortion mapping: the views of the batch that teacher and student hear; None: clean speech."""


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
class StudentConfig:
    """The student's shape and regularisation."""

    layers: int = 2
    """Transformer layers (Tr1, Tr2, Tr3 in the paper)."""
    targets: tuple[int, ...] = (4, 8, 12)
    """Teacher layers that the prediction heads regress; 1 is the first."""
    dropout: float = 0.1
    """Dropout probability of transformer input and residual branches."""
    attention_dropout: float = 0.1
    """Dropout probability of attention weights."""
    activation_dropout: float = 0.1
    """Dropout probability inside the feed-forward blocks."""
    projection_dropout: float = 0.0
    """Dropout probability after the CNN's projection; DistilHuBERT has none there, HuBERT base has 0.1."""
    cnn_grad_scale: float = 0.1
    """Factor on the gradient that reaches the CNN."""
    activation_checkpointing: bool = False
    """Recompute layers in the backward pass: less memory, more time."""

    def __post_init__(self) -> None:
        check_finite(self)
        for name in ("dropout", "attention_dropout", "activation_dropout", "projection_dropout"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} must be in [0, 1], not {getattr(self, name)}")


@dataclass(kw_only=True)
class DatConfig:
    """Domain-adversarial training."""

    enabled: bool = False
    """Train a distortion classifier, and the student against it."""
    weight: float = 0.01
    """lambda of Eq. 4."""
    lr: float | None = None
    """Learning rate alpha of the classifier (Eq. 3); default: the student's. Follows the same schedule."""

    def __post_init__(self) -> None:
        check_finite(self)
        if self.weight < 0:
            raise ValueError(f"weight must not be negative, not {self.weight}")
        if self.lr is not None and self.lr <= 0:
            raise ValueError(f"lr must be positive, not {self.lr}")


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
    """By corpus (musan, wham, ...): sources of noise for training."""
    dev_noises: dict[str, list[str]] = field(default_factory=dict)
    """The same for the dev set."""
    batch_size: int = 24
    """Utterances of a global batch, over all processes."""
    batch_seconds: float | None = None
    """Seconds of audio of a global batch, in place of `batch_size`."""
    max_samples: int = 250_000
    """Longer utterances are cropped at a random place, samples at 16 kHz."""
    workers: int = 4
    """Data loading processes per training process."""
    buckets: int = 30
    """Batches that are cut together from a stretch of the shuffled corpus, sorted by duration: the more, the
    less padding; 1: utterances of any duration."""
    max_bad_fraction: float = 0.01
    """Share of utterances, and of recordings of noise, that may be unusable, judged after 1000 reads and at
    the end of every epoch."""

    def __post_init__(self) -> None:
        check_finite(self)
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {self.batch_size}")
        if self.max_samples < (least := HubertConfig().receptive_field):
            raise ValueError(f"max_samples must be at least {least} (one frame), not {self.max_samples}")
        if self.workers < 0 or self.buckets < 1:
            raise ValueError("workers must be at least 0 and buckets at least 1")
        if self.batch_seconds is not None and self.batch_seconds <= 0:
            raise ValueError(f"batch_seconds must be positive, not {self.batch_seconds}")
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


@dataclass(kw_only=True)
class Recipe:
    """What every recipe has."""

    instead_of: ClassVar[Mapping[str, str]] = INSTEAD_OF
    """By Lightning option that is refused in the trainer section: what to use instead."""

    kind: str = "distil"
    """"distil" a student, "adapt" (or pre-train) a teacher, or a published "teacher" as it is."""
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
    """Of initialisation, order of the data and distortions."""

    def __post_init__(self) -> None:
        check_finite(self)
        check_name("name", self.name)
        if self.seed < 0:
            raise ValueError(f"seed must not be negative, not {self.seed}")
        if self.seed >= 2**32:  # numpy's generator, which Lightning seeds too, takes no more
            raise ValueError(f"seed must be below 2**32, not {self.seed}")
        check_trainer(self.trainer, self.instead_of)


@dataclass(kw_only=True)
class DistillRecipe(Recipe):
    """A row of the paper's tables that has a student."""

    student: StudentConfig = field(default_factory=StudentConfig)
    """Its shape."""
    cdm: str = "none"
    """Cross-distortion mapping: none, setup1, setup2 or setup2_same."""
    cosine_weight: float = 1.0
    """gamma of Eq. 2."""
    dat: DatConfig = field(default_factory=DatConfig)
    """Domain-adversarial training."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.cdm not in CDM:
            raise ValueError(f"cdm must be one of {', '.join(CDM)}, not {self.cdm!r}")
        if self.cosine_weight < 0:
            raise ValueError(f"cosine_weight must not be negative, not {self.cosine_weight}")
        if self.dat.enabled and self.cdm == "none":
            raise ValueError("dat needs distorted speech: set cdm to setup1, setup2 or setup2_same")


@dataclass(kw_only=True)
class TargetsConfig:
    """The hidden units that masked prediction predicts."""

    features: str = "mfcc"
    """"mfcc", or "layer": hidden states of the teacher."""
    layer: int = 6
    """Which layer, if features is "layer"."""
    clusters: int = 100
    """k of k-means."""
    codebook: str | None = None
    """Cluster centres to use instead of new ones: .npy, fairseq's joblib file, or a folder of targets."""
    folder: str | None = None
    """Folder of `distill adapt targets RECIPE` with `train` and `dev`; default: made in the run folder."""
    sample_hours: float = 100.0
    """Hours of random utterances whose frames the k-means is fitted on, at most."""

    def __post_init__(self) -> None:
        check_finite(self)
        if self.sample_hours <= 0:
            raise ValueError(f"sample_hours must be positive, not {self.sample_hours}")
        if self.features not in ("mfcc", "layer"):
            raise ValueError(f"features must be mfcc or layer, not {self.features!r}")
        if self.clusters < 2:
            raise ValueError(f"clusters must be at least 2, not {self.clusters}")


@dataclass(kw_only=True)
class MaskingConfig:
    """What is hidden, and what the loss is made of. Defaults: HuBERT."""

    probability: float = 0.8
    """Masked share of the frames, if spans did not overlap."""
    length: int = 10
    """Frames of a span."""
    unmasked_weight: float = 0.0
    """Weight of the cross-entropy over frames that are not masked."""
    feature_penalty: float = 10.0
    """Weight of the mean square of the CNN's output."""

    def __post_init__(self) -> None:
        check_finite(self)
        if not 0.0 < self.probability <= 1.0 or self.length < 1:
            raise ValueError("probability must be in (0, 1] and length at least 1")
        if self.unmasked_weight < 0 or self.feature_penalty < 0:
            raise ValueError("unmasked_weight and feature_penalty must not be negative")


@dataclass(kw_only=True)
class EncoderConfig:
    """How the teacher is regularised in training; what is None is as its checkpoint or preset says."""

    dropout: float | None = None
    """Of the transformer's input and its residual branches."""
    attention_dropout: float | None = None
    """Of attention weights."""
    activation_dropout: float | None = None
    """Inside the feed-forward blocks."""
    projection_dropout: float | None = None
    """After the projection."""
    layerdrop: float | None = None
    """Probability of skipping a layer."""
    cnn_grad_scale: float | None = None
    """Factor on the gradient that reaches the CNN."""

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            most = 1.0 if name == "cnn_grad_scale" else 0.99
            if value is not None and not 0.0 <= value <= most:
                raise ValueError(f"{name} must be between 0 and {most:g}, not {value}")


@dataclass(kw_only=True)
class AdaptRecipe(Recipe):
    """Masked prediction: a teacher from nothing, or an existing one adapted to distorted speech."""

    targets: TargetsConfig = field(default_factory=TargetsConfig)
    """What to predict."""
    masking: MaskingConfig = field(default_factory=MaskingConfig)
    """Which frames, and the loss."""
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    """Dropout and the like."""
    distort: bool = True
    """Distort the input (the targets stay clean)."""
