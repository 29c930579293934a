"""Every option of a recipe, with its default, meaning and unit."""

from distill.options.adapting import AdaptRecipe, EncoderConfig, MaskingConfig, TargetsConfig
from distill.options.distilling import CDM, DatConfig, DistillRecipe, StudentConfig
from distill.options.shared import DataConfig, LoggingConfig, Recipe, ValidationConfig, check_name
from distill.options.spiral import ContrastConfig, EmaConfig, HeadsConfig, SpiralRecipe

__all__ = [
    "AdaptRecipe",
    "CDM",
    "ContrastConfig",
    "DatConfig",
    "DataConfig",
    "DistillRecipe",
    "EmaConfig",
    "EncoderConfig",
    "HeadsConfig",
    "LoggingConfig",
    "MaskingConfig",
    "Recipe",
    "SpiralRecipe",
    "StudentConfig",
    "TargetsConfig",
    "ValidationConfig",
    "check_name",
]
