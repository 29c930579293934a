"""Options of a recipe that pre-trains a SPIRAL. Defaults: BASE."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from typing_extensions import override

from distill.errors import check_finite
from distill.options.adapting import EncoderConfig
from distill.options.shared import Recipe
from distill.spiral.perturbation import MOST_SHIFT, SpecAugment


@dataclass(kw_only=True)
class EmaConfig:
    """The teacher: a moving average of its student."""

    base: float = 0.995
    """Share of the teacher that stays at an update, at the beginning."""
    final: float = 1.0
    """The same at the end; in between a cosine."""
    steps: int | None = None
    """Updates from one to the other; default: all."""
    noise: bool = True
    """Whether the teacher computes with dropout and layerdrop in training (Table 8 without: worse)."""
    masking: SpecAugment | None = None
    """SpecAugment on the teacher's input (Table 8: much worse); default: none."""

    def __post_init__(self) -> None:
        check_finite(self)
        for name in ("base", "final"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} must be in [0, 1], not {getattr(self, name)}")
        if self.steps is not None and self.steps < 1:
            raise ValueError(f"steps must be at least 1, not {self.steps}")


@dataclass(kw_only=True)
class ContrastConfig:
    """The contrastive loss."""

    negatives: int = 100
    """Frames of the same utterance that each frame is told from, drawn with replacement."""
    temperature: float = 0.3
    """What cosines are divided by."""

    def __post_init__(self) -> None:
        check_finite(self)
        if self.negatives < 1:
            raise ValueError(f"negatives must be at least 1, not {self.negatives}")
        if self.temperature <= 0:
            raise ValueError(f"temperature must be positive, not {self.temperature}")


@dataclass(kw_only=True)
class HeadsConfig:
    """Projection head (of both) and predictor (of the student)."""

    dim: int = 256
    """Width of projection and predictor; 512 in LARGE."""
    projection: str = "linear"
    """"linear", or "convolution" (Table 9)."""
    predictor: str = "batch"
    """Its normalisation, "batch" or "layer"; "none": no predictor at all (Table 9)."""

    def __post_init__(self) -> None:
        if self.dim < 1:
            raise ValueError(f"dim must be at least 1, not {self.dim}")
        if self.projection not in ("linear", "convolution"):
            raise ValueError(f"projection must be linear or convolution, not {self.projection!r}")
        if self.predictor not in ("batch", "layer", "none"):
            raise ValueError(f"predictor must be batch, layer or none, not {self.predictor!r}")


@dataclass(kw_only=True)
class SpiralRecipe(Recipe):
    """Pre-training by perturbation invariance (Huang et al. 2022)."""

    teacher: str = "random:spiral_base"
    """What to start from: "random:spiral_PRESET", or a SPIRAL checkpoint to go on from."""
    masking: SpecAugment = field(default_factory=SpecAugment)
    """SpecAugment on the student's input."""
    shift: int = MOST_SHIFT
    """Largest number of frames (80 ms) put before and behind the teacher's input at random; 0: none."""
    contrast: ContrastConfig = field(default_factory=ContrastConfig)
    """The loss."""
    heads: HeadsConfig = field(default_factory=HeadsConfig)
    """Projection and predictor."""
    ema: EmaConfig = field(default_factory=EmaConfig)
    """The teacher's update."""
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    """Dropout and the like of the encoder, where not as its preset or checkpoint says."""
    distort: bool = False
    """Multi-condition: distort what the student hears."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.optim.accumulate > 1:
            raise ValueError(
                "optim.accumulate must be 1: batch norm and loss need the whole batch at once; to save "
                "memory use more processes"
            )
        if self.shift < 0:
            raise ValueError(f"shift must not be negative, not {self.shift}")
        if self.encoder.projection_dropout:
            raise ValueError("encoder.projection_dropout must be 0: SPIRAL has no projection")

    @override
    def dev_score_of(self) -> dict[str, Any]:
        """As of every recipe, and the task."""
        own = {"masking": asdict(self.masking), "contrast": asdict(self.contrast), "shift": self.shift}
        return super().dev_score_of() | own
