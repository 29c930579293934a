"""What the student learns from: Eq. 2, the distortion classifier (Eq. 3, 4), and terms beyond the paper."""

from distill.objective.adversary import DistortionClassifier, classification_loss
from distill.objective.options import CorrelationConfig, ObjectiveConfig
from distill.objective.regression import DistillationLoss, distillation_loss
from distill.objective.terms import Terms

__all__ = [
    "CorrelationConfig",
    "DistillationLoss",
    "DistortionClassifier",
    "ObjectiveConfig",
    "Terms",
    "classification_loss",
    "distillation_loss",
]
