"""Whole runs with every term: resumed, together, made again, released without what was only for training."""

import json
from pathlib import Path

import numpy as np
import pytest

from distill.checkpoints import load_student, load_teacher, native
from distill.checkpoints.codebooks import encoder_identity
from distill.checkpoints.files import read_safetensors
from distill.errors import ConfigError, UserError
from distill.run import run
from distill.training.profiling import profile
from distill.training.several import train_several
from distill.training.train import make_module
from tests.distill.training.runs import STEADY, differs, log, tiny, weights, whole_and_in_parts

pytestmark = pytest.mark.slow

TERMS = (
    *("objective.input=0.5", "objective.correlation.weight=0.5", "objective.relations.weight=0.5"),
    *("objective.units.weight=0.2", "objective.units.layer=4", "objective.units.dim=16"),
    *("objective.enhancement.weight=0.5", "objective.enhancement.dim=8", "objective.enhancement.layers=1"),
)


@pytest.fixture
def terms(tmp_path) -> tuple[str, ...]:
    """Overrides that switch everything on."""
    np.save(tmp_path / "codebook.npy", np.random.default_rng(0).standard_normal((6, 128), np.float32))
    return (*TERMS, f"objective.units.codebook={tmp_path}/codebook.npy")


def test_a_resumed_run_ends_where_it_would_have_to_the_last_bit(mini_data, tmp_path, monkeypatch, terms):
    """Stopped in the second epoch, with DAT."""
    recipe = tiny(mini_data, *STEADY, *terms, name="s6", steps=8)
    whole, parts = whole_and_in_parts(recipe, tmp_path, monkeypatch, 5)
    for file in ("last", "best"):
        found, expected = weights(parts, file), weights(whole, file)
        assert differs(found, expected) == 0
        assert {"terms.units.codebook", "terms.enhancement.mask.weight"} < found.keys()
    columns = log(whole)
    names = ("input", "correlation", "relations", "units", "units_accuracy", "enhancement", "objective")
    assert all(np.isfinite(columns[f"train/{name}"]).all() for name in names)


def test_what_is_released_is_a_student_and_nothing_else(mini_data, tmp_path, terms):
    with_terms, plain = tmp_path / "with", tmp_path / "plain"
    run(tiny(mini_data, *terms), with_terms)
    run(tiny(mini_data), plain)
    released = [read_safetensors(out / "student.safetensors") for out in (with_terms, plain)]
    assert released[0].keys() == released[1].keys() and differs(*released) > 0
    for source in (with_terms, with_terms / "checkpoints" / "last.ckpt", with_terms / "student.safetensors"):
        assert load_student(str(source)).state_dict().keys() == load_student(str(plain)).state_dict().keys()
    with pytest.raises(ConfigError, match="of another shape than the recipe's"):
        run(tiny(mini_data, *terms, steps=4), plain, resume=True)


def test_students_of_one_pass_are_those_that_train_alone(mini_data, tmp_path, terms):
    """Each needs other layers of the teacher."""
    each = {
        "none": [],
        "all": terms,
        "relations": ["objective.relations.weight=1"],
        "input": ["objective.input=1"],
    }
    recipes = [tiny(mini_data, *STEADY, *more, f"name={name}", steps=4) for name, more in each.items()]
    for recipe in recipes:
        run(recipe, tmp_path / "alone" / recipe.name)
    train_several([(recipe, tmp_path / "joint" / recipe.name) for recipe in recipes])
    for name in each:
        assert differs(weights(tmp_path / "alone" / name), weights(tmp_path / "joint" / name)) == 0


def test_a_step_with_every_term_is_made_again(mini_data, tmp_path, monkeypatch, distill, terms):
    from distill.distillation import Distillation

    def training_step(self, batch, batch_idx, original=Distillation.training_step):
        if batch.position == (0, 1):
            batch.waveforms = batch.waveforms * float("nan")
        return original(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(Distillation, "training_step", training_step)
        run(tiny(mini_data, *terms, steps=3), tmp_path / "run")
        code, said, _ = distill("train", "--replay", tmp_path / "run" / "nonfinite" / "step-1.ckpt")
    assert code == 0 and said.splitlines()[-1] == "reproduced"


def test_a_profile_has_the_teacher_in_it(mini_data, terms):
    parts = profile(tiny(mini_data, *terms), 2).parts_ms
    assert parts["teacher"] > 0 and parts["student forward"] > 0


def test_a_run_without_regression_keeps_the_best_of_what_it_minimises(mini_data, tmp_path, terms):
    run(tiny(mini_data, *terms, "objective.regression=0", steps=2), tmp_path / "run")
    columns = log(tmp_path / "run")
    assert columns["val/loss"] and np.isfinite(columns["val/loss"]).all()
    assert abs(columns["val/loss"][-1] - columns["train/objective"][-1]) < columns["train/objective"][-1]


@pytest.mark.parametrize(
    ("description", "layer", "message"),
    [
        (None, 4, "no codebook can be read here"),
        ('{"features": "layer 3"}', 4, "is of layer 3, not 4: set objective.units.layer=3"),
        ('{"features": "mfcc"}', 4, "has clusters of mfcc, not of a teacher's layer"),
        ('{"features": "layer 4"}', 4, "centres of 9 features, the teacher's layers have 128"),
        ('{"features": "layer 7"}', 7, "objective.units.layer is 7, the teacher has layers 1 to 6"),
    ],
)
def test_a_wrong_codebook_is_a_line(mini_data, tmp_path: Path, description, layer, message):
    if description is not None:
        (tmp_path / "targets.json").write_text(description)
        np.save(tmp_path / "codebook.npy", np.zeros((4, 9), np.float32))
    units = ["objective.units.weight=1", f"objective.units.layer={layer}"]
    with pytest.raises(UserError, match=message) as error:
        run(tiny(mini_data, *units, f"objective.units.codebook={tmp_path}"), tmp_path / "run")
    assert "\n" not in str(error.value)


def test_other_units_than_the_run_s_are_refused(mini_data, tmp_path):
    """The checkpoint's would be labels of another layer, or its head would have learned others."""
    units = ["objective.units.weight=1", f"objective.units.codebook={tmp_path}/units.npy"]
    np.save(tmp_path / "units.npy", np.zeros((4, 128), np.float32))
    run(tiny(mini_data, *units), tmp_path / "run")
    np.save(tmp_path / "units.npy", np.ones((4, 128), np.float32))
    with pytest.raises(ConfigError, match="codebook has other centres than those that the run was started"):
        run(tiny(mini_data, *units, steps=4), tmp_path / "run", resume=True)


def test_units_of_another_model_are_said(mini_data, tmp_path, caplog):
    teacher = load_teacher("random:mini")
    source = native.write(teacher, tmp_path / "teacher")
    units = ["objective.units.weight=1", "objective.units.layer=4", f"objective.units.codebook={tmp_path}"]
    np.save(tmp_path / "codebook.npy", np.zeros((4, 128), np.float32))
    for identity, said in ((encoder_identity(teacher), False), ("0123456789abcdef", True)):
        (tmp_path / "targets.json").write_text(json.dumps({"features": "layer 4", "weights": identity}))
        make_module(tiny(mini_data, *units, f"teacher={source}"))
        assert ("clusters of another model than the teacher" in caplog.text) == said
