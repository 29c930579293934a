"""What the student learns from: Eq. 2, the distortion classifier (Eq. 3, 4), and terms beyond the paper."""

from distill.objective.adversary import DistortionClassifier, classification_loss
from distill.objective.options import (
    CorrelationConfig,
    EnhancementConfig,
    ObjectiveConfig,
    RelationsConfig,
    UnitsConfig,
)
from distill.objective.regression import DistillationLoss, distillation_loss
from distill.objective.terms import Seen, Terms

__all__ = [
    "CorrelationConfig",
    "DistillationLoss",
    "DistortionClassifier",
    "EnhancementConfig",
    "ObjectiveConfig",
    "RelationsConfig",
    "Seen",
    "Terms",
    "UnitsConfig",
    "classification_loss",
    "distillation_loss",
]
