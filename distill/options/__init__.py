"""Every option of a recipe, with its default, meaning and unit."""

from distill.objective import (
    CorrelationConfig,
    EnhancementConfig,
    ObjectiveConfig,
    RelationsConfig,
    UnitsConfig,
)
from distill.options.adapting import AdaptRecipe, EncoderConfig, MaskingConfig, TargetsConfig
from distill.options.distilling import CDM, DatConfig, DistillRecipe, StudentConfig
from distill.options.finetuning import (
    ClassifierConfig,
    DecodingConfig,
    FinetuneRecipe,
    RegularisationConfig,
    SpecAugmentConfig,
    TestSet,
)
from distill.options.shared import DataConfig, LoggingConfig, Recipe, ValidationConfig, check_name
from distill.options.spiral import ContrastConfig, EmaConfig, HeadsConfig, SpiralRecipe

__all__ = [
    "AdaptRecipe",
    "CDM",
    "ClassifierConfig",
    "ContrastConfig",
    "CorrelationConfig",
    "DatConfig",
    "DataConfig",
    "DecodingConfig",
    "DistillRecipe",
    "EmaConfig",
    "EncoderConfig",
    "EnhancementConfig",
    "FinetuneRecipe",
    "HeadsConfig",
    "LoggingConfig",
    "MaskingConfig",
    "ObjectiveConfig",
    "Recipe",
    "RegularisationConfig",
    "RelationsConfig",
    "SpecAugmentConfig",
    "SpiralRecipe",
    "StudentConfig",
    "TargetsConfig",
    "TestSet",
    "UnitsConfig",
    "ValidationConfig",
    "check_name",
]
