"""Every setup of cross-distortion mapping names views that batches have; mistakes are named."""

import pytest

from distill.options import CDM
from tests.distill.recipe_helpers import refused


def test_views():
    assert set(CDM) == {"none", "setup1", "setup2", "setup2_same"}
    assert {view for pair in CDM.values() for view in pair} == {None, "teacher", "student"}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("student.activation_dropout=-0.1", "student: activation_dropout must be in [0, 1]"),
        ("dat.lr=-1", "dat: lr must be positive"),
        ("distortion.curriculum=2", "distortion: curriculum must be a share of the training"),
        ("cosine_weight=inf", "cosine_weight must be finite"),
    ],
)
def test_a_mistake_is_named(override, message):
    assert message in refused("s6", override)


def test_one_layer_has_no_attention_map_to_reuse():
    assert "reuse_attention needs 2 layers at least, and layers is 1" in refused(
        "s4", "student.layers=1", "student.reuse_attention=true"
    )
