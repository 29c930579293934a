"""Mistakes in the section `objective` of a recipe are named, in one line."""

import pytest

from distill.config import load
from tests.distill.recipe_helpers import refused


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["objective.input=-1"], "objective: input must not be negative"),
        (["objective.regression=nan"], "objective: regression must be finite"),
        (["objective.regression=0"], "regression is 0 and nothing else is on"),
        (
            ["objective.regression=0", "objective.input=1"],
            "before the transformer is compared (input): its layers would",
        ),
        (
            ["objective.regression=0", "objective.enhancement={weight: 1, place: cnn}", "objective.input=1"],
            "is compared (input, enhancement): its layers",
        ),
        (["objective.correlation.weight=-1"], "objective.correlation: weight must not be negative"),
        (["objective.correlation.weigth=1"], "did you mean 'objective.correlation.weight'"),
        (["objective.units.weight=1"], "objective.units: codebook must name cluster centres"),
        (["objective.units.probability=0"], "objective.units: probability must be in (0, 1]"),
        (["objective.units.temperature=0"], "objective.units: temperature must be positive"),
        (["objective.units.dim=0"], "objective.units: layer and dim must be at least 1"),
        (["objective.relations.weight=nan"], "objective.relations: weight must be finite"),
        (["objective.enhancement.place=first"], "objective.enhancement: place must be last or cnn"),
        (["objective.enhancement.layers=0"], "objective.enhancement: dim and layers must be at least 1"),
        (["objective.enhancement.weight=1", "cdm=none"], "objective.enhancement needs distorted speech"),
        (
            ["objective.correlation.weight=1", "optim.accumulate=2"],
            "objective.correlation needs the whole batch at once: set optim.accumulate=1",
        ),
    ],
)
def test_a_mistake_is_named(overrides, message):
    assert message in refused("s4", *overrides)


def test_regression_can_be_off_if_something_else_is_on():
    recipe = load("s4", ["objective.regression=0", "objective.correlation.weight=1"])
    assert recipe.objective.terms_on() == {"correlation": 1.0}
