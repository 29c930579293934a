"""Every setup of cross-distortion mapping names views that batches have; mistakes are named."""

import pytest

from distill.config import load, recipe_names, to_yaml
from distill.hubert import HubertEncoder
from distill.options import CDM
from distill.student import Student
from tests.distill.recipe_helpers import refused
from tests.distill.training.runs import tiny


def test_views():
    assert set(CDM) == {"none", "setup1", "setup2", "setup2_same"}
    assert {view for pair in CDM.values() for view in pair} == {None, "teacher", "student"}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("student.activation_dropout=-0.1", "student: activation_dropout must be in [0, 1]"),
        ("dat.lr=-1", "dat: lr must be positive"),
        ("student.front=fbank", "student: front must be one of cnn, slim, mel, not 'fbank'"),
        ("student.front_channels=64", "student: front_channels is for front mel, not cnn"),
        ("student.dim=0", "student: dim must be positive, not 0"),
        ("student.targets=[some]", "student.targets: expected a list, as in [4, 8, 12], or all"),
        ("student.targets=[true]", "student.targets: expected a list, as in [4, 8, 12], or all"),
        ("distortion.curriculum=2", "distortion: curriculum must be a share of the training"),
        ("cosine_weight=inf", "cosine_weight must be finite"),
    ],
)
def test_a_mistake_is_named(override, message):
    assert message in refused("s6", override)


def test_all_targets_are_predicted_layer_to_layer(tmp_path):
    student = tiny(tmp_path, "student.targets=all", "student.layers=6").student
    assert student.targets == ("all",) and student.layer_to_layer
    made = Student.from_teacher(HubertEncoder.from_preset("mini"), **vars(student))
    assert made.targets == made.sources == (1, 2, 3, 4, 5, 6)
    (tmp_path / "again.yaml").write_text(to_yaml(load("s4", ["student.targets=all"])))
    assert load(str(tmp_path / "again.yaml")) == load("s4", ["student.targets=all"])
    (tmp_path / "deep.yaml").write_text("extends: s4\nstudent: {targets: all, layers: 12}\n")
    assert (
        load(str(tmp_path / "deep.yaml")).student
        == load("s4", ["student.targets=all", "student.layers=12"]).student
    )


def test_one_layer_has_no_attention_map_to_reuse():
    assert "reuse_attention needs 2 layers at least, and layers is 1" in refused(
        "s4", "student.layers=1", "student.reuse_attention=true"
    )


def test_settings_of_what_is_off_have_no_effect():
    given = ["objective.correlation.off_diagonal=0.01", "objective.relations.layers=[6,12]", "dat.weight=0.1"]
    assert load("s4", given).without_effect() == [
        "objective.correlation.off_diagonal has no effect without objective.correlation.weight=1",
        "objective.relations.layers has no effect without objective.relations.weight=1",
        "dat.weight has no effect without dat.enabled=true",
    ]
    on = ["objective.correlation.weight=1", "objective.relations.weight=1", "dat.enabled=true"]
    assert load("s4", [*given, *on]).without_effect() == []
    assert all(not recipe.without_effect() for recipe in map(load, recipe_names()) if recipe.kind == "distil")
