"""Every option of a recipe, with its default, meaning and unit."""

from distill.options.adapting import AdaptRecipe, EncoderConfig, MaskingConfig, TargetsConfig
from distill.options.distilling import CDM, DatConfig, DistillRecipe, StudentConfig
from distill.options.shared import DataConfig, LoggingConfig, Recipe, ValidationConfig, check_name

__all__ = [
    "AdaptRecipe",
    "CDM",
    "DatConfig",
    "DataConfig",
    "DistillRecipe",
    "EncoderConfig",
    "LoggingConfig",
    "MaskingConfig",
    "Recipe",
    "StudentConfig",
    "TargetsConfig",
    "ValidationConfig",
    "check_name",
]
