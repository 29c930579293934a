"""Teachers in files, in the hub's cache, on the hub, and none."""

from distill.checkpoints import export
from distill.hubert import HubertEncoder
from distill.options import AdaptRecipe, DistillRecipe, SpiralRecipe
from distill.preflight.check import check
from distill.preflight.check_teacher import check_teacher
from distill.preflight.findings import CheckReport, Finding
from distill.spiral.encoder import PRESETS as SPIRALS
from tests.distill.preflight.reports import finding, mini


def test_a_teacher_on_the_hub(mini_data, monkeypatch):
    recipe = mini(mini_data, "teacher=facebook/hubert-base-ls960", "student.targets=[4, 13]")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert finding(check(recipe), "teacher").state == "missing"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    report = check(recipe)
    teacher = finding(report, "teacher")
    assert (teacher.state, teacher.detail) == ("note", "will be downloaded, 378 MB")
    assert "the teacher has layers 1 to 12, not 13" in finding(report, "student").problem  # known beforehand
    assert finding(check(mini(mini_data, "teacher=some/one")), "teacher").detail == "will be downloaded"


def test_a_teacher_in_the_cache_of_the_hub(mini_data, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    model = tmp_path / "models--some--one"
    (model / "refs").mkdir(parents=True)
    (model / "refs" / "main").write_text("abc")
    export(HubertEncoder.from_preset("mini"), "huggingface", model / "snapshots" / "abc")
    teacher = finding(check(mini(mini_data, "teacher=some/one")), "teacher")
    assert (teacher.state, teacher.detail) == ("ok", "6 layers, 128 features")


def test_a_teacher_that_is_none(mini_data, tmp_path):
    (tmp_path / "t.pt").write_text("no checkpoint")
    line = finding(check(mini(mini_data, f"teacher={tmp_path}/t.pt")), "teacher")
    assert line.state == "wrong" and "a text file" in line.problem
    assert finding(check(mini(mini_data, "teacher=/no/t.pt")), "teacher").state == "missing"


def test_spiral_and_hubert_where_the_other_is_needed():
    def found(recipe) -> tuple[object, Finding]:
        report = CheckReport(recipe="x")
        return check_teacher(recipe, report), report.findings[0]

    config, finding = found(AdaptRecipe(name="x", teacher="random:spiral_mini"))
    assert config is None and finding.state == "wrong" and "is a SPIRAL encoder" in finding.problem
    config, finding = found(SpiralRecipe(name="x", teacher="random:mini"))
    assert config is None and "is a HuBERT or wav2vec 2.0" in finding.problem
    config, finding = found(SpiralRecipe(name="x", teacher="random:spiral_mini"))
    assert config == SPIRALS["mini"] and finding.detail == "4 layers, 128 features, SPIRAL"
    for name, command in (("spiral_mini", "distill train"), ("mini_teacher", "distill adapt")):
        _, finding = found(DistillRecipe(name="x", teacher=f"runs/{name}"))
        assert (finding.state, finding.fix) == ("missing", f"{command} {name}")
    config, finding = found(DistillRecipe(name="x", teacher="random:spiral_mini"))
    assert config == SPIRALS["mini"] and finding.state == "ok"
