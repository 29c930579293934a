"""Options of a recipe that adapts a HuBERT, or pre-trains one, by masked prediction."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from typing_extensions import override

from distill.errors import check_finite
from distill.options.shared import Recipe, last_part


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

    def stated(self) -> dict[str, float]:
        """The fields that say something."""
        return {name: value for name, value in asdict(self).items() if value is not None}


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

    @override
    def dev_score_of(self) -> dict[str, Any]:
        """As of every recipe, and what is predicted where."""
        targets = asdict(self.targets)
        targets |= {key: last_part(targets[key] or "") for key in ("codebook", "folder")}
        own = {"targets": targets, "masking": asdict(self.masking)}
        return super().dev_score_of() | own
