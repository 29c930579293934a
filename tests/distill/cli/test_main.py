"""The command: exit codes, and one line for every foreseeable mistake."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from distill.cli import one_line
from distill.errors import DataError, UserError
from tests.paths import ROOT

RUNNABLE = [
    "teacher={teacher}",
    "student.targets=[2,4,6]",
    "data.train=[{good}]",
    "data.dev=[{good}]",
    "data.noises={{musan: [{good}], wham: [{good}]}}",
    "data.dev_noises={{musan: [{good}], wham: [{good}]}}",
    "trainer.accelerator=cpu",
    "logging.wandb=off",
]


RECIPE, FAILED = 2, 1


MISTAKES = [
    ("optim.lrr=1", RECIPE, "unknown key 'optim.lrr': did you mean 'optim.lr'?"),
    ("optim.lr=fast", RECIPE, "optim.lr: Value 'fast' of type 'str' could not be converted to Float"),
    ("optim.lr", RECIPE, "override 'optim.lr': write key=value"),
    ("optim.lr=[1", RECIPE, "the value is not valid YAML"),
    ("cdm=setup4", RECIPE, "cdm must be one of none, setup1, setup2, setup2_same"),
    ("trainer.max_steps=3", RECIPE, "trainer.max_steps is not passed on: use optim.max_steps"),
    ("trainer.devises=2", RECIPE, "unknown key 'trainer.devises': did you mean trainer.devices?"),
    ("student.targets=[4,8,12]", RECIPE, "the teacher has layers 1 to 6, not 8, 12"),
    ("student.layers=9", RECIPE, "layers is 9, but the teacher has 6"),
    ("distortion.additive=[fsd]", RECIPE, "data.noises.fsd"),
    ("data.train=[{missing}]", FAILED, "distill: data.train: {missing} does not exist"),
    ("data.train=[data/mini/a.jsonl.gz]", FAILED, "exist; distill data prepare mini --out data/mini"),
    ("data.train=[{empty}]", FAILED, "empty.jsonl.gz has no audio"),
    ("data.train=[{silent}]", FAILED, "silent has no audio"),
    ("data.dev=[{text}]", FAILED, "notes.txt: expected a .jsonl.gz manifest, a .tsv or a folder of audio"),
    ("data.dev=['{no_column}']", FAILED, "no column 'split' in its header (path, set)"),
    ("data.dev_noises.musan=[{missing}]", FAILED, "distill: musan noise: {missing} does not exist"),
    ("data.train=[]", FAILED, "no source of audio given"),
    ("teacher={root}/none.pt", FAILED, "none.pt does not exist"),
    ("teacher={student}", FAILED, "student, expected a teacher"),
    ("teacher={notes}", FAILED, "notes.pt is a text file, expected a teacher"),
    ("teacher={other}", FAILED, "other.pt is a torch file with weights"),
    ("teacher={evil}", FAILED, "system"),
    ("teacher={evil_zip}", FAILED, "system"),
    ("teacher=random:huge", FAILED, "there is no preset 'huge'"),
]


@pytest.mark.parametrize(("override", "expected", "message"), MISTAKES, ids=[m[0] for m in MISTAKES])
def test_a_mistake_is_one_line(distill, models, sources, tmp_path, override, expected, message):
    words = [word.format(**models, **sources) for word in (*RUNNABLE, override)]
    code, out, err = distill("train", "s4", *words, "--out", tmp_path / "run")
    assert code == expected
    assert (
        message.format(**sources) in err and err.startswith("distill: ") and err.count("\n") == 1 and not out
    )
    assert not (models["root"] / "was_run").exists()


def test_files_of_a_list_that_are_gone(distill, models, sources, tmp_path):
    words = [word.format(**models, **sources) for word in (*RUNNABLE, "data.train=[{gone}]")]
    code, _, err = distill("train", "s4", *words, "--out", tmp_path / "run")
    assert code == 1 and "Traceback" not in err
    assert (
        err.splitlines()[-1].startswith("distill: ")
        and "no file that it names exists" in err.splitlines()[-1]
    )


@pytest.mark.parametrize(
    ("words", "expected", "message"),
    [
        (["train", "s44"], 2, "unknown recipe 's44': did you mean 's4'?"),
        (["train", "none.yaml"], 2, "recipe none.yaml: no such file"),
        (["train"], 2, "name a recipe: finetune_base_100h, "),
        (["adapt"], 2, "name a recipe: "),
        (["train", "--resume", "no_run"], 1, "no_run is not a run folder: it has no recipe.yaml"),
        (["train", "s4", "--resume", "no_run"], 1, "no_run is not a run folder: it has no recipe.yaml"),
        (["train", "seed=3"], 2, "name a recipe before seed=3"),
        (["inspect", "none"], 1, "none does not exist"),
        (["export", "none", "--to", "huggingface", "--out", "x"], 1, "none does not exist"),
        (["data", "prepare", "librispech", "--out", "x"], 2, "unknown corpus 'librispech'; choose from "),
        (["data", "prepare", "folder", "--out", "x"], 2, "say where the audio is with --root FOLDER"),
        (["data", "prepare", "folder", "--root", "none", "--out", "x"], 1, "none"),
        (["data", "distort", "none", "x"], 1, "none does not exist"),
        (["data", "distort", "{good}", "x", "--condition", "rain"], 2, "unknown condition 'rain'"),
        (["data", "distort", "{good}", "x", "--noise", "musan"], 2, "--noise musan: write CORPUS=SOURCE"),
        (["data", "distort", "{good}", "x", "--noise", "rain=y"], 2, "--noise rain=y: write CORPUS=SOURCE"),
        (["data", "distort", "{good}", "x", "--condition", "fsd"], 1, "fsd"),
        (
            ["data", "distort", "{good}", "x", "--condition", "fsd", "--noise", "fsd=nowhere"],
            1,
            "fsd noise: nowhere does not exist; name a manifest, TSV or folder of audio",
        ),
        (["tsne", "{student}", "--speech", "{good}", "--out", "x.txt"], 1, "must end in .png, .pdf or .svg"),
        (["tsne", "{student}", "--speech", "none"], 1, "none does not exist"),
        (["tsne", "none", "--speech", "{good}"], 1, "none does not exist"),
    ],
)
def test_mistakes_in_commands(distill, models, sources, tmp_path, monkeypatch, words, expected, message):
    monkeypatch.chdir(tmp_path)
    code, out, err = distill(*(word.format(**models, **sources) for word in words))
    assert code == expected
    assert message in err and err.startswith("distill: ") and err.count("\n") == 1 and not out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "s4", "--ot", "x", "--bad"], "--bad"),
        (["trian", "s4"], "'trian'"),
        (["inspect", "a", "b"], "unrecognized arguments: b"),
        (["export", "a", "--out", "x"], "--to"),
        (["export", "a", "--to", "wav", "--out", "x"], "'wav'"),
        (["tsne", "a"], "--speech"),
        (["data", "distort", "a", "b", "--seed", "x"], "'x'"),
    ],
)
def test_wrong_usage_is_code_2(distill, words, message):
    code, out, err = distill(*words)
    assert code == 2 and not out
    assert message in err.splitlines()[-1] and "Traceback" not in err


def test_an_error_from_a_data_worker_is_one_line(tmp_path, distill, models):
    """All utterances are unusable, which only the workers find out."""
    (tmp_path / "speech").mkdir()
    for index in range(4):
        path = tmp_path / "speech" / f"{index}.wav"
        soundfile.write(path, np.full(16_000, np.nan), 16_000, subtype="FLOAT")
    words = [word.format(**models, good=tmp_path / "speech") for word in RUNNABLE]
    options = ["data.workers=1", "cdm=none", "optim.max_steps=1"]
    code, _, err = distill("train", "s4", *words, *options, "--out", tmp_path / "run")
    last = err.splitlines()[-1]
    assert code == 1 and "Traceback" not in err
    assert last.startswith(
        "distill: no utterance of a batch can be used, nor any of those tried in its place"
    )
    assert ": samples are not finite; " in last and f"{tmp_path}/run/skipped.tsv lists" in last


def test_one_line_of_an_error_that_crossed_a_process():
    text = "Caught DataError in worker 0.\nOriginal Traceback:\n  x\ndistill.errors.DataError: a: b: c\n"
    assert one_line(DataError(text)) == "a: b: c"
    assert one_line(DataError("a: b: c")) == "a: b: c"


def test_ctrl_c_is_130(distill, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("distill.config.load", stop)
    assert distill("train", "s4") == (130, "", "distill: stopped\n")


def test_the_module_exits_with_the_code():
    done = subprocess.run(
        [sys.executable, "-m", "distill", "train", "s44"],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 2 and not done.stdout
    assert done.stderr == "distill: unknown recipe 's44': did you mean 's4'?\n"


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="a place where even root cannot make folders")
def test_a_folder_that_cannot_be_made(distill, models):
    code, _, err = distill("export", models["student"], "--to", "huggingface", "--out", "/proc/nowhere/hf")
    assert code == 1 and err.splitlines()[-1].startswith("distill: ") and "/proc/nowhere" in err
    assert "Traceback" not in err


def test_train_writes_a_run_and_says_where(distill, models, noise_folder, tmp_path):
    words = [word.format(**models, good=noise_folder) for word in RUNNABLE]
    options = ["data.workers=0", "optim.max_steps=1", "data.batch_size=2", "data.max_samples=8000"]
    code, out, err = distill("train", "s4", *words, *options, "--out", tmp_path / "run")
    assert code == 0, err
    assert out == f"{tmp_path}/run/student.safetensors\n"
    code, _, err = distill("train", "s4", *words, *options, "--out", tmp_path / "run")
    assert code == 1 and "holds a run already: continue with --resume" in err and err.count("\n") == 1
    code, out, err = distill("train", "--resume", tmp_path / "run")
    assert code == 0 and out == f"{tmp_path}/run/student.safetensors\n", err


def test_messages_cannot_steer_the_terminal():
    said = "no layer \x1b[31mred\x07 in naïve.pt"
    assert one_line(UserError(said)) == "no layer ?[31mred? in naïve.pt"
    assert one_line(DataError(said)) == r"no layer \x1b[31mred\x07 in naïve.pt"  # it quotes files
