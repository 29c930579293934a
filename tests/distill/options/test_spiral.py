"""Options of pre-training: the paper's defaults, and mistakes that are named."""

import pytest

from distill.errors import ConfigError
from distill.optim import OptimConfig
from distill.options import AdaptRecipe, SpiralRecipe


def test_defaults_are_the_paper_s():
    recipe = SpiralRecipe(kind="spiral")
    assert (recipe.ema.base, recipe.ema.final, recipe.shift) == (0.995, 1.0, 16)
    assert (recipe.contrast.negatives, recipe.contrast.temperature, recipe.heads.dim) == (100, 0.3, 256)
    masking = recipe.masking
    assert masking.time_probability / masking.time_length == pytest.approx(0.025)
    assert masking.channel_probability / masking.channel_length == pytest.approx(0.02)
    assert not issubclass(SpiralRecipe, AdaptRecipe) and issubclass(ConfigError, Exception)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SpiralRecipe(optim=OptimConfig(accumulate=2)), "optim.accumulate must be 1: batch norm"),
        (lambda: SpiralRecipe(shift=-1), "shift must not be negative"),
    ],
)
def test_mistakes(make, message):
    with pytest.raises(ValueError, match=message):
        make()
