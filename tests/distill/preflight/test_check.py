"""What `distill data check` says: everything that is missing, at once, and what there is to do."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from distill.checkpoints import native
from distill.config import load
from distill.data_prep.advice import how_to_make
from distill.errors import UsageError
from distill.options import DataConfig, FinetuneRecipe, SpiralRecipe
from distill.options.finetuning import TestSet
from distill.preflight.check import check
from distill.preflight.findings import WIDTH, Finding
from distill.spiral.encoder import SpiralEncoder
from distill.student import Student
from tests.distill.preflight.reports import finding, mini


def test_a_recipe_that_has_everything(mini_data, tmp_path):
    report = check(mini(mini_data), tmp_path / "run")
    assert report.ok and not report.problems
    lines = str(report).splitlines()
    assert lines[-1] == "mini: ready" and max(map(len, lines)) <= WIDTH
    with gzip.open(mini_data / "speech_train.jsonl.gz") as file:
        cuts = [json.loads(line) for line in file]
    hours = sum(soundfile.info(cut["recording"]["sources"][0]["source"]).duration for cut in cuts) / 3600
    expected = f"{len(cuts)} utterances, {hours:.2f} h"
    assert finding(report, "train: speech_train").detail == expected
    assert [line.what for line in report.findings if "noises" in line.what] == [
        *("noises.musan: musan_train", "noises.wham: wham_train"),
        *("dev_noises.musan: musan_dev", "dev_noises.wham: wham_dev"),
    ]
    assert not (tmp_path / "run").exists()


def test_all_problems_at_once(mini_data, tmp_path):
    recipe = mini(
        mini_data,
        "data.train=[/nowhere/librispeech/train-clean-100.jsonl.gz, /nowhere/else.jsonl.gz]",
        "data.dev=[]",
        "data.dev_noises={musan: [/nowhere/musan/all.jsonl.gz], wham: []}",
        "teacher=runs/t1_prime",
        "data.batch_size=7",
        "trainer.devices=2",
    )
    (tmp_path / "file").touch()
    report = check(recipe, tmp_path / "file", how_to_make=how_to_make)
    states = {line.what: line.state for line in report.problems}
    assert states == {
        "train: train-clean-100": "missing",
        "train: else": "missing",
        "dev": "missing",
        "dev_noises.musan: all": "missing",
        "dev_noises.wham": "missing",
        "teacher: runs/t1_prime": "missing",
        "batch": "wrong",
        f"run: {tmp_path / 'file'}": "wrong",
    }
    text = str(report)
    assert "mini: 8 problems" in text and not report.ok
    for command in (
        "distill data prepare librispeech --root FOLDER --out /nowhere/librispeech",
        "distill data prepare musan --root FOLDER --out /nowhere/musan",
        "distill adapt t1_prime",
        "data.batch_size=8",
        "name the folder of your manifests (data.root=...",
        "leave wham out of distortion.additive",
    ):
        assert " ".join(text.split()).count(command) == 1  # lines are wrapped


def test_options_that_cannot_work(mini_data):
    student = check(mini(mini_data, "student.layers=7"))
    assert "the teacher has 6" in finding(student, "student").problem
    nodes = mini(mini_data, "trainer.devices=2", "trainer.num_nodes=3", "data.batch_size=16")
    assert finding(check(nodes), "batch").fix == "data.batch_size=18"
    assert check(mini(mini_data, "trainer.devices=2", "data.batch_seconds=30")).ok


@pytest.mark.parametrize(
    "option", ["num_nodes=x", "num_nodes=0", "devices=x", "devices=0", "devices=1.5", "devices=[a]"]
)
def test_processes_that_are_no_number(option):
    key = option.partition("=")[0]
    with pytest.raises(UsageError, match=f"^trainer.{key} must be .*a positive number"):
        check(mini(Path("nowhere"), f"trainer.{option}"))


def test_targets_of_an_adaptation(mini_data, tmp_path):
    def targets(*overrides: str) -> Finding:
        options = [f"data.root={mini_data}", "trainer.accelerator=cpu", *overrides]
        return finding(check(load("mini_teacher", options)), "targets")

    assert targets().state == "ok"
    assert targets("targets.features=layer", "targets.layer=7").state == "wrong"
    lost = targets(f"targets.folder={tmp_path}")
    assert "train and dev" in lost.problem
    assert lost.fix == f"distill adapt targets mini_teacher --out {tmp_path}"
    assert targets("targets.codebook=/none.npy").state == "missing"


def test_recipes_of_spiral_and_of_fine_tuning(corpus, tmp_path):
    speech = DataConfig(train=[f"{corpus}/some/all.jsonl.gz"], dev=[f"{corpus}/some/all.jsonl.gz"])
    report = check(SpiralRecipe(name="x", teacher="random:spiral_mini", data=speech), tmp_path / "run")
    lines = {line.what.partition(":")[0]: line.state for line in report.findings}
    assert lines["train"] == lines["teacher"] == lines["disk"] == "ok" and "memory" in lines
    noisy = SpiralRecipe(name="x", teacher="random:spiral_mini", data=speech, distort=True)
    assert any(line.what.startswith("noises.") for line in check(noisy, tmp_path / "run").findings)
    student = Student.from_teacher(SpiralEncoder.from_preset("mini"), layers=1, targets=(4,))
    teacher = str(native.write(student, tmp_path))
    tests = {"none": TestSet(), "some": TestSet(sources=speech.dev, noises={"dns": ["nowhere"]})}
    report = check(FinetuneRecipe(name="x", teacher=teacher, data=speech, tests=tests), tmp_path / "run")
    states = {line.what.partition(":")[0]: line.state for line in report.findings}
    assert states["teacher"] == "ok" and states["tests.some.dns"] == states["tests.none"] == "missing"
    assert "tests.none.sources is empty" in str(report)


def test_a_codebook_of_masked_units_must_be_there(mini_data, tmp_path):
    units = ["objective.units.weight=1", f"objective.units.codebook={tmp_path}"]
    (problem,) = check(mini(mini_data, *units), tmp_path / "run").problems
    assert problem.state == "missing" and f"objective.units.codebook: {tmp_path}" in problem.problem
    np.save(tmp_path / "codebook.npy", np.zeros((4, 128), np.float32))
    report = check(mini(mini_data, *units), tmp_path / "run")
    assert report.ok and finding(report, "units").detail == "4 clusters of layer 6"
