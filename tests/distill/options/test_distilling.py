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
