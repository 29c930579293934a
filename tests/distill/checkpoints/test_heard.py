"""Which noise a model has heard: in its own training, or in that of its teacher."""

import json

import pytest
import torch

from distill.checkpoints import native
from distill.checkpoints.heard import heard_facts, noises_heard
from distill.hubert import HubertEncoder
from tests.distill.checkpoints.small_models import CONVS, SMALL


@pytest.mark.parametrize(
    ("recipe", "heard"),
    [
        ({"kind": "distil", "cdm": "setup2"}, ["dns"]),
        ({"kind": "distil", "cdm": "none"}, []),
        ({"cdm": "setup1"}, ["dns"]),
        ({"kind": "adapt", "distort": True}, ["dns"]),
        ({"kind": "spiral", "distort": False}, []),
        ({"kind": "spiral", "distort": True}, ["dns"]),
        ({"kind": "teacher", "distort": True}, []),
    ],
)
def test_a_recipe_tells_whether_its_model_heard_its_noise(recipe, heard):
    recipe |= {"distortion": {"additive": ["dns", "gaussian", "none"]}}
    assert noises_heard({}, recipe) == heard
    assert noises_heard({"noises_heard": ["musan"]}, recipe) == [*heard, "musan"]


def test_what_is_not_known_or_damaged_is_nothing():
    assert noises_heard({}) == [] and noises_heard({"noises_heard": "dns"}, {"cdm": "setup2"}) == []
    assert noises_heard({"noises_heard": ["dns"]}, {"cdm": "setup2", "distortion": None}) == ["dns"]


def test_a_student_inherits_what_its_teacher_heard(tmp_path):
    """The draws of the run stay what they were."""
    torch.manual_seed(0)
    model = HubertEncoder.from_preset("mini", conv_layers=CONVS, **SMALL)
    teacher = native.write(model, tmp_path, heard_facts("random:mini", ("dns", "rir")))
    assert json.loads(teacher.with_suffix(".json").read_text())["provenance"] == {"noises_heard": ["dns"]}
    before = torch.get_rng_state()
    assert heard_facts(str(tmp_path), ("musan",)) == {"noises_heard": ["dns", "musan"]}
    assert heard_facts(f"{tmp_path}?normalize=true", ()) == {"noises_heard": ["dns"]}
    assert torch.equal(torch.get_rng_state(), before)
    assert heard_facts("facebook/hubert-base-ls960", ()) == {}
