"""Loading recipes that are right, and wrong."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from distill.config import load
from distill.errors import ConfigError
from distill.options import DistillRecipe


def refused(recipe: str | Path, *overrides: str) -> str:
    """The message of the error, one line."""
    with pytest.raises(ConfigError) as error:
        load(str(recipe), overrides)
    message = str(error.value)
    assert "\n" not in message and "$VALUE" not in message
    return message


def load_distil(recipe: str, overrides: Sequence[str] = ()) -> DistillRecipe:
    """A recipe of a student."""
    loaded = load(recipe, overrides)
    assert isinstance(loaded, DistillRecipe)
    return loaded
