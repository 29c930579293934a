"""What `distill data check` says: everything that is missing, at once, and what there is to do."""

import gzip
import io
import json
import shutil
import socket
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch

from distill import Student
from distill.checkpoints import export
from distill.config import load, recipe_names
from distill.data_prep.advice import how_to_make
from distill.data_prep.manifests import cut_from_file, write_cuts
from distill.devices import Layout, layout_of
from distill.errors import UsageError
from distill.hubert import PRESETS, HubertEncoder
from distill.objective import distillation_loss
from distill.options import OptimConfig, Recipe, adamw
from distill.preflight import check as checking
from distill.preflight.check import check
from distill.preflight.findings import WIDTH, CheckReport, Finding
from distill.preflight.needs import activation_bytes, estimate
from distill.preflight.survey import survey


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*_):
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def mini(data: Path, *overrides: str) -> Recipe:
    return load("mini", [f"data.root={data}", "teacher=random:mini", "trainer.accelerator=cpu", *overrides])


def finding(report: CheckReport, what: str) -> Finding:
    """The one line whose first column begins like that."""
    (found,) = [line for line in report.findings if line.what.startswith(what)]
    return found


@pytest.fixture
def corpus(tmp_path) -> Path:
    """Ten files of half a second and their manifest."""
    generator = np.random.default_rng(0)
    files = [tmp_path / "audio" / f"{i}.wav" for i in range(10)]
    files[0].parent.mkdir()
    for file in files:
        soundfile.write(file, 0.1 * generator.standard_normal(8_000), 16_000)
    write_cuts([cut_from_file(file) for file in files], tmp_path / "some" / "all.jsonl.gz")
    return tmp_path


# --------------------------------------------------------------------------------------------- speech, noise


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


def test_every_bad_file_is_found_and_five_are_named(corpus):
    audio = corpus / "audio"
    for i in range(5):
        (audio / f"{i}.wav").unlink()
    (audio / "5.wav").write_bytes(b"")
    (audio / "6.wav").write_text("no audio")
    soundfile.write(audio / "7.wav", np.zeros(4_000), 16_000)
    found = survey(f"{corpus}/some/all.jsonl.gz", sample=2000, seed=0)
    assert [line.rpartition("/")[2] for line in found.bad] == [
        *(f"{i}.wav: does not exist" for i in range(5)),
        "5.wav: is empty",
        "6.wav: cannot be read (Format not recognised)",
        "7.wav: has 0.25 s, its manifest says 0.50 s",
    ]
    report = check(mini(corpus, f"data.train=[{corpus}/some/all.jsonl.gz]"))
    line = finding(report, "train: all")
    assert (line.state, line.detail) == ("missing", "8 bad of 10, 0.00 h")
    text = str(report)
    assert "0.wav: does not exist" in text and "4.wav: does not exist" in text and "5.wav" not in text
    assert "and 3 more" in text


@pytest.mark.parametrize("kind", ["table", "folder"])
def test_bad_files_of_a_table_or_folder(corpus, kind):
    audio = corpus / "audio"
    if kind == "table":
        (corpus / "t.tsv").write_text("path\n" + "\n".join(f"audio/{i}.wav" for i in range(10)) + "\n")
        (audio / "3.wav").unlink()
    else:
        (audio / "3.wav").write_text("no audio")
    found = survey(str(corpus / "t.tsv" if kind == "table" else audio), sample=2000, seed=0)
    assert (found.utterances, len(found.bad), found.bad_share) == (10, 1, 0.1)
    why = "does not exist" if kind == "table" else "cannot be read (Format not recognised)"
    row = f"{corpus}/t.tsv, line 5: " if kind == "table" else ""
    assert found.bad == [f"{row}{audio}/3.wav: {why}"]
    assert found.hours == pytest.approx(9 * 0.5 / 3600)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.jsonl.gz", "no gzip", "not a lhotse cut manifest"),
        ("a.tsv", "file\nx.wav\n", "no column 'path'"),
        ("a.tsv", "path\nx.wav\n", "no file that it names exists"),
        ("a.txt", "x.wav\n", "expected a .jsonl.gz manifest, a .tsv or a folder of audio"),
    ],
)
def test_a_source_that_cannot_be_used(mini_data, tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    report = check(mini(mini_data, f"data.dev=[{tmp_path}/{name}]"))
    line = finding(report, "dev: a")
    assert line.state == "wrong" and message in line.problem and len(report.problems) == 1


def test_fewer_utterances_than_processes(mini_data):
    report = check(mini(mini_data, "trainer.devices=1000", "data.batch_size=1000"))
    said = [line.problem for line in report.problems if line.what == "dev"]
    assert len(said) == 1 and said[0].endswith(" utterances for 1000 processes")


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


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_says_how_to_get_its_data(name, tmp_path):
    """The manifests that recipes name are those that `distill data prepare` makes."""
    overrides = [] if load(name).kind == "teacher" else [f"data.root={tmp_path}"]
    report = check(load(name, overrides), tmp_path / "run", how_to_make=how_to_make)
    for line in report.problems:
        if line.what.startswith(("train", "dev", "noises")) and not name.startswith(("mini", "real_mini")):
            assert line.fix.startswith("distill data prepare ")
            assert f" --out {tmp_path}/" in line.fix
    assert all(len(line) <= WIDTH for line in str(report).split("\n\n")[0].splitlines())


def test_noise_that_is_not_drawn_is_not_needed(mini_data):
    gone = "data.noises={musan: [/nowhere]}"
    assert check(mini(mini_data, "cdm=none", gone, "data.dev_noises={}")).ok
    assert not check(mini(mini_data, gone)).ok
    no_corpus = check(mini(mini_data, "distortion.additive=[gaussian]", "distortion.rir=true"))
    assert [line.what for line in no_corpus.problems] == ["noises.rir", "dev_noises.rir"]


# ----------------------------------------------------------------------------------------- teacher, options


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


# -------------------------------------------------------------------------------------------------- machine


def test_a_full_disk_and_a_run_that_is_there(mini_data, tmp_path, monkeypatch):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "last.ckpt").touch()
    report = check(mini(mini_data), tmp_path)
    assert report.ok and "--resume" in finding(report, "run").detail
    monkeypatch.setattr(shutil, "disk_usage", lambda _: namedtuple("Usage", "free")(1_000_000))
    disk = finding(check(mini(mini_data), tmp_path / "new" / "er"), "disk")
    assert disk.state == "missing" and f"{tmp_path} has 0.0 GB free" in disk.problem


def test_too_little_memory_is_said_but_does_not_stop_a_run(mini_data, monkeypatch):
    monkeypatch.setattr("distill.preflight.check.available_memory", lambda: 10_000_000)
    report = check(mini(mini_data))
    assert report.ok and finding(report, "memory").state == "note"
    assert "note: memory: may not be enough" in str(report)


@pytest.mark.parametrize(("preset", "targets"), [("mini", (2, 4, 6)), ("base", (4, 8, 12)), ("large", (8,))])
def test_the_estimate_of_activations_against_what_autograd_keeps(preset, targets):
    teacher = HubertEncoder.from_preset(preset, layers=max(targets))
    student = Student.from_teacher(teacher, layers=2, targets=targets)
    weights = {parameter.untyped_storage().data_ptr() for parameter in student.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in weights:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        out = student(torch.randn(2, 24_000), torch.tensor([24_000, 20_000]))
        goal = torch.randn_like(out.predictions)
        distillation_loss(out.predictions, goal, out.lengths, cosine_weight=1.0)
    total = sum(
        tensor.untyped_storage().nbytes()
        for tensor in kept.values()
        if tensor.shape[:1] != (student.encoder.config.dim,)  # the positional kernel: not an activation
    )
    estimated = activation_bytes(student.encoder.config, 48_000, heads=len(targets))
    assert estimated == pytest.approx(total, rel=0.2)


def test_the_estimate_of_checkpoints_against_a_real_one():
    recipe = mini(Path("nowhere"))
    teacher = HubertEncoder.from_preset("mini")
    student = Student.from_teacher(teacher, layers=2, targets=(2, 4, 6))
    optimizer = adamw(student.parameters(), OptimConfig())
    for parameter in student.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    file = io.BytesIO()
    torch.save([student.state_dict(), optimizer.state_dict()], file)
    release = sum(parameter.numel() for parameter in student.parameters()) * 4
    needs = estimate(recipe, PRESETS["mini"], Layout(processes=1, nodes=1, gpu=False))
    assert needs.disk - 100_000_000 == pytest.approx(2 * file.tell() + release, rel=0.05)


def test_what_makes_a_run_smaller():
    one = Layout(processes=1, nodes=1, gpu=True)
    teacher = PRESETS["base"]

    def gpu(*overrides: str, layout: Layout = one) -> int:
        return estimate(load("s4", list(overrides)), teacher, layout).device

    whole = gpu()
    assert 10e9 < whole < 40e9  # 24 utterances of 15.6 s in float32
    assert gpu("optim.accumulate=2") < 0.6 * whole
    assert gpu("trainer.precision=bf16-mixed") < 0.8 * whole
    assert gpu("student.activation_checkpointing=true") < whole
    assert gpu(layout=Layout(processes=4, nodes=2, gpu=True)) < 0.25 * whole
    assert gpu("data.batch_seconds=187.5") == pytest.approx(gpu("data.batch_size=12"), rel=1e-6)


def test_little_room_for_handing_batches_over(monkeypatch):
    """A container with 64 MB of shared memory, and a low limit of open files."""
    recipe = load("s4", ["data.workers=4", "trainer.accelerator=cpu"])
    needs = estimate(recipe, PRESETS["base"], layout_of(recipe))
    batch = 24 * 250_000 * 4 * 3  # speech, and noise for teacher and student
    assert needs.shared == 2 * (4 + 2) * batch and needs.open_files < 200
    usage = SimpleNamespace(free=64 << 20)
    monkeypatch.setattr(checking.shutil, "disk_usage", lambda _: usage)
    monkeypatch.setattr(checking, "most_open_files", lambda: 64)
    shared, files = checking._handing_over(needs)
    assert (shared.what, shared.state, shared.detail) == ("shared memory", "note", "up to 0.9 GB of 0.1 GB")
    assert "--shm-size=1g" in shared.fix
    assert (files.what, files.state) == ("open files", "note") and "the limit is 64" in files.detail
    usage.free = 1 << 40
    monkeypatch.setattr(checking, "most_open_files", lambda: None)
    (shared,) = checking._handing_over(needs)
    assert (shared.state, shared.fix) == ("ok", "")
