"""Options of a recipe that distils a student."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any

from typing_extensions import override

from distill.errors import check_finite
from distill.hubert import FRONTS
from distill.objective import ObjectiveConfig
from distill.options.shared import Recipe, last_part

CDM: dict[str, tuple[str | None, str | None]] = {
    "none": (None, None),  # plain DistilHuBERT
    "setup1": (None, "student"),
    "setup2": ("teacher", "student"),  # two independent draws
    "setup2_same": ("student", "student"),
}
"""Cross-distortion mapping: the views of the batch that teacher and student hear; None: clean speech."""


@dataclass(kw_only=True)
class StudentConfig:
    """The student's shape and regularisation."""

    layers: int = 2
    """Transformer layers (Tr1, Tr2, Tr3 in the paper)."""
    targets: tuple[Any, ...] = (4, 8, 12)
    """Teacher layers that the prediction heads regress; 1 is the first. "all": every one, layer to layer."""
    layer_to_layer: bool = False
    """Predict teacher layer t of L from the student's layer t L_student / L, not all from the last one."""
    front: str = "cnn"
    """Front end: cnn (the teacher's), slim (narrower convolutions) or mel (log-mel features)."""
    front_channels: int | None = None
    """Of front mel; default: as many as the teacher's CNN, whose projection then fits."""
    dim: int | None = None
    """D, width of the transformer; default: the teacher's. Another width starts at random."""
    heads: int | None = None
    """Attention heads; default: of the teacher's size, or as many as the teacher's."""
    ffn_dim: int | None = None
    """Hidden width of the feed-forward blocks; default: 4 D, or the teacher's if D is."""
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
    reuse_attention: bool = False
    """Layers 2, 4, ... attend with the maps of the layer before (ARMHuBERT): fewer parameters."""

    def __post_init__(self) -> None:
        check_finite(self)
        if self.reuse_attention and self.layers == 1:
            raise ValueError("reuse_attention needs 2 layers at least, and layers is 1: set it to false")
        self._check_targets()
        if self.front not in FRONTS:
            raise ValueError(f"front must be one of {', '.join(FRONTS)}, not {self.front!r}")
        if self.front_channels is not None and self.front != "mel":
            raise ValueError(f"front_channels is for front mel, not {self.front}")
        for name in ("front_channels", "dim", "heads", "ffn_dim"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{name} must be positive, not {value}")
        for name in ("dropout", "attention_dropout", "activation_dropout", "projection_dropout"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} must be in [0, 1], not {getattr(self, name)}")

    def _check_targets(self) -> None:
        """Numbers, or "all", in a tuple as well: OmegaConf has no type for one or the other."""
        self.targets = ("all",) if self.targets == "all" else tuple(self.targets)
        if self.targets == ("all",):
            self.layer_to_layer = True
        elif any(type(layer) is not int for layer in self.targets):
            raise ValueError("student.targets: expected a list, as in [4, 8, 12], or all")


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
class DistillRecipe(Recipe):
    """A row of the paper's tables that has a student."""

    student: StudentConfig = field(default_factory=StudentConfig)
    """Its shape."""
    cdm: str = "none"
    """Cross-distortion mapping: none, setup1, setup2 or setup2_same."""
    cosine_weight: float = 1.0
    """gamma of Eq. 2."""
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    """What is minimised beside Eq. 2."""
    dat: DatConfig = field(default_factory=DatConfig)
    """Domain-adversarial training."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.cdm not in CDM:
            raise ValueError(f"cdm must be one of {', '.join(CDM)}, not {self.cdm!r}")
        if self.cosine_weight < 0:
            raise ValueError(f"cosine_weight must not be negative, not {self.cosine_weight}")
        self.objective.check_accumulate(self.optim.accumulate)
        if self.objective.enhancement.weight and self.cdm == "none":
            raise ValueError(
                "objective.enhancement needs distorted speech: set cdm to setup1, setup2 or setup2_same"
            )
        if self.dat.enabled and self.cdm == "none":
            raise ValueError("dat needs distorted speech: set cdm to setup1, setup2 or setup2_same")
        if self.cdm == "none":
            self.refuse_curriculum("set cdm to setup1, setup2 or setup2_same")

    def without_effect(self) -> list[str]:
        """Settings of what is off, with the setting that would turn it on."""
        parts: list[tuple[str, str, Any]] = [
            (f"objective.{name}", "weight=1", part)
            for name, part in vars(self.objective).items()
            if getattr(part, "weight", 1) == 0
        ]
        if not self.dat.enabled:
            parts.append(("dat", "enabled=true", self.dat))
        return [
            f"{name}.{field.name} has no effect without {name}.{switch}"
            for name, switch, part in parts
            for field in fields(part)
            if getattr(part, field.name) != field.default
        ]

    @override
    def dev_score_of(self) -> dict[str, Any]:
        """As of every recipe; the further terms count only where Eq. 2 is off (`Distillation`)."""
        own = {"teacher": last_part(self.teacher), "cdm": self.cdm, "cosine_weight": self.cosine_weight}
        if not self.objective.regression:
            own |= {"objective": asdict(self.objective)}
        return super().dev_score_of() | own

    @property
    @override
    def distorted_dev(self) -> bool:
        return self.cdm != "none"
