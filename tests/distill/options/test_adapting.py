"""Mistakes in the options of masked prediction are named."""

import pytest

from tests.distill.recipe_helpers import refused


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("masking.probability=0", "masking: probability must be in (0, 1] and length at least 1"),
        ("masking.unmasked_weight=-1", "masking: unmasked_weight and feature_penalty must not be negative"),
        ("targets.sample_hours=0", "targets: sample_hours must be positive"),
        ("encoder.dropout=1", "encoder: dropout must be between 0 and 0.99"),
        ("encoder.cnn_grad_scale=2", "encoder: cnn_grad_scale must be between 0 and 1"),
    ],
)
def test_a_mistake_is_named(override, message):
    assert message in refused("t1_prime", override)
