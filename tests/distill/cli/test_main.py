"""The command: exit codes, one line for every foreseeable mistake, verbs on tiny data."""

import gzip
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from lhotse import CutSet

from distill.checkpoints import native
from distill.cli import one_line
from distill.config import load, recipe_names
from distill.errors import DataError
from distill.hubert import HubertEncoder
from distill.student import Student
from tests.paths import ROOT


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, Path]:
    """Releases of a random teacher and student, and files that are none."""
    root = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    teacher = HubertEncoder.from_preset("mini")
    student = Student.from_teacher(teacher, layers=1, targets=(2, 6))
    native.write(teacher, root / "teacher", {"recipe": "t1"})
    native.write(student, root / "student", {"recipe": "s4"})

    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {root / 'was_run'}",)

    (root / "evil.pt").write_bytes(pickle.dumps({"model": Evil()}))
    torch.save({"model": Evil()}, root / "evil_zip.pt")
    torch.save({"weights": torch.zeros(3)}, root / "other.pt")
    (root / "notes.pt").write_text("no checkpoint")
    return {path.stem: path for path in root.iterdir()} | {"root": root}


@pytest.fixture(scope="module")
def sources(noise_folder, tmp_path_factory) -> dict[str, str]:
    """Sources of audio, good and bad."""
    root = tmp_path_factory.mktemp("sources")
    with gzip.open(root / "empty.jsonl.gz", "wt"):
        pass
    (root / "silent").mkdir()
    (root / "list.tsv").write_text("path\tset\na.wav\tseen\n")
    (root / "notes.txt").write_text("x")
    return {
        "good": str(noise_folder),
        "missing": str(root / "none.jsonl.gz"),
        "empty": str(root / "empty.jsonl.gz"),
        "silent": str(root / "silent"),
        "gone": str(root / "list.tsv"),
        "no_column": str(root / "list.tsv") + "?split=dev",
        "text": str(root / "notes.txt"),
    }


# ------------------------------------------------------------------------------------------------- mistakes

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
        (["train"], 2, "name a recipe: hubert_base_it1, hubert_base_it2, mini, "),
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
    assert last.startswith("distill: no utterance of a batch can be used, nor any of those tried in their")
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


# ---------------------------------------------------------------------------------------------------- verbs


@pytest.mark.parametrize(
    ("verb", "recipe", "other"), [("train", "mini_teacher", "adapt"), ("adapt", "s4", "train")]
)
def test_each_recipe_has_its_verb(distill, tmp_path, verb, recipe, other):
    code, _, err = distill(verb, recipe, "--out", tmp_path / "run")
    assert code == 2
    assert err == f"distill: {recipe} is a recipe for distill {other}, not for distill {verb}\n"


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="a place where even root cannot make folders")
def test_a_folder_that_cannot_be_made(distill, models):
    code, _, err = distill("export", models["student"], "--to", "huggingface", "--out", "/proc/nowhere/hf")
    assert code == 1 and err.splitlines()[-1].startswith("distill: ") and "/proc/nowhere" in err
    assert "Traceback" not in err


def test_the_words_of_a_sweep_are_checked_first(distill, tmp_path):
    code, _, err = distill(
        "sweep", "random:mini", "--task", "ks", "--task", "asr", "asr:stepz=5", "--out", tmp_path / "out"
    )
    assert (code, err) == (2, "distill: unknown key 'stepz': did you mean 'steps'?\n")
    assert not (tmp_path / "out").exists()


def test_the_resolved_recipe_is_printed(distill, tmp_path):
    code, out, err = distill("train", "s6", "--print", "optim.lr=1e-3", "seed=4")
    assert (code, err) == (0, "")
    (tmp_path / "printed.yaml").write_text(out)
    assert load(str(tmp_path / "printed.yaml")) == load("s6", ["optim.lr=1e-3", "seed=4"])
    for name in recipe_names():
        assert distill("train", name, "--print")[0] == 0


@pytest.mark.parametrize(
    "words",
    [
        ["s4", "seed=4", "optim.lr=1e-3", "--out", "x"],
        ["s4", "--out", "x", "seed=4", "optim.lr=1e-3"],
        ["--out", "x", "s4", "seed=4", "optim.lr=1e-3"],
        ["s4", "seed=4", "--out", "x", "optim.lr=1e-3"],
    ],
)
def test_overrides_may_stand_before_and_behind_options(distill, tmp_path, words):
    code, out, _ = distill("train", *words, "--print")
    assert code == 0
    (tmp_path / "printed.yaml").write_text(out)
    recipe = load(str(tmp_path / "printed.yaml"))
    assert (recipe.seed, recipe.optim.lr) == (4, 1e-3)


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


def test_inspect(distill, models):
    code, out, err = distill("inspect", models["student"])
    facts = dict(line.split("  ", 1) for line in out.splitlines())
    facts = {name.strip(): value.strip() for name, value in facts.items()}
    student = Student.from_teacher(HubertEncoder.from_preset("mini"), layers=1, targets=(2, 6))
    assert (code, err) == (0, "")
    assert (facts["format"], facts["kind"], facts["layers"], facts["dim"]) == (
        "native",
        "student",
        "1",
        "128",
    )
    assert facts["parameters (total)"] == f"{sum(p.numel() for p in student.parameters()):,}"
    assert facts["parameters (encoder)"] == f"{sum(p.numel() for p in student.encoder.parameters()):,}"
    assert facts["predicts teacher layers"] == "2, 6" and facts["provenance: recipe"] == "s4"


@pytest.mark.parametrize("kind", ["student", "teacher"])
def test_export_to_hugging_face(distill, models, tmp_path, kind):
    transformers = pytest.importorskip("transformers")
    code, out, _ = distill("export", models[kind], "--to", "huggingface", "--out", tmp_path / "hf")
    assert code == 0 and out == f"{tmp_path}/hf\n"
    theirs = transformers.HubertModel.from_pretrained(tmp_path / "hf").eval()
    ours, _ = native.read(models[kind])
    encoder = ours.encoder if isinstance(ours, Student) else ours
    waves = torch.randn(1, 8000)
    with torch.no_grad():
        expected = theirs(waves).last_hidden_state
        torch.testing.assert_close(encoder(waves).last_hidden_state, expected, atol=1e-5, rtol=1e-4)


def test_prepare_a_folder(distill, noise_folder, tmp_path):
    code, out, _ = distill("data", "prepare", "folder", "--root", noise_folder, "--out", tmp_path)
    assert code == 0 and out.startswith("4 files, ") and "in train" in out
    prepared = [
        cut.id for name in ("train", "dev") for cut in CutSet.from_file(tmp_path / f"{name}.jsonl.gz")
    ]
    assert sorted(prepared) == ["a", "b", "deep/c", "deep/d"]


def test_distort(distill, noise_folder, tmp_path):
    words = ["data", "distort", noise_folder, tmp_path / "set", "--condition", "fsd"]
    words += ["--noise", f"fsd={noise_folder}"]
    code, out, _ = distill(*words)
    assert code == 0 and out == f"{tmp_path}/set/distortions.tsv\n"
    assert len(list((tmp_path / "set").glob("*.flac"))) == 4
    code, _, err = distill(*words)
    assert code == 1 and "distortions.tsv exists: choose another folder" in err and err.count("\n") == 1


def test_tsne(distill, models, noise_folder, tmp_path):
    words = ["tsne", models["student"], models["teacher"], "--speech", noise_folder]
    code, out, err = distill(*words, "--noise", f"musan={noise_folder}", "--out", tmp_path / "x.png")
    assert code == 0 and out == f"{tmp_path}/x.png\n", err
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG\r\n")


def test_provenance_is_kept_by_export(distill, models, tmp_path):
    assert distill("export", models["student"], "--to", "native", "--out", tmp_path)[0] == 0
    assert json.loads((tmp_path / "student.json").read_text())["provenance"] == {"recipe": "s4"}


def test_prepare_takes_the_options_that_a_corpus_has(distill, tmp_path, noise_folder):
    root = tmp_path / "LibriSpeech" / "dev-clean" / "1" / "2"
    root.mkdir(parents=True)
    soundfile.write(root / "1-2-0000.flac", np.zeros(16_000), 16_000)
    (root / "1-2.trans.txt").write_text("1-2-0000 NOTHING AT ALL\n")
    words = ["data", "prepare", "librispeech", "--root", tmp_path, "--out", tmp_path / "out", "--jobs", 2]
    code, out, _ = distill(*words, "--split", "dev-clean")
    assert code == 0 and "dev-clean" in out
    (cut,) = list(CutSet.from_file(tmp_path / "out" / "dev-clean.jsonl.gz"))
    assert cut.id == "1-2-0000" and cut.supervisions[0].text == "NOTHING AT ALL"
    for more, message in [
        (["folder", "--root", noise_folder, "--shards", "s3://x"], "corpus folder has no option --shards"),
        (["mini", "--split", "dev"], "corpus mini has no option --split"),
        (["librispeech", "--root", tmp_path, "--jobs", "0"], "--jobs 0: at least 1"),
    ]:
        code, _, err = distill("data", "prepare", *more, "--out", tmp_path / "no")
        assert code == 2 and message in err and "Traceback" not in err


def test_check_lists_all_problems(distill, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = distill("data", "check", "s4", f"data.root={tmp_path}")
    assert code == 1 and "Traceback" not in err
    assert "distill data prepare librispeech" in out and "musan" in out and "wham" in out


def test_resuming_with_another_recipe_is_refused_with_the_difference(distill, tmp_path):
    from distill.config import load, to_yaml

    run = tmp_path / "run"
    run.mkdir()
    (run / "recipe.yaml").write_text(to_yaml(load("s4", ["optim.lr=0.001"])))
    code, _, err = distill("train", "s4", "optim.max_steps=7", "--resume", run)
    assert code == 2 and err.count("\n") == 1
    assert "optim.lr: 0.001 -> 0.0002; optim.max_steps: 20000 -> 7" in err


def test_a_finished_run_is_left_alone_by_resume(distill, tmp_path):
    from distill.config import load, to_yaml

    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    for name, text in {
        "recipe.yaml": to_yaml(load("s4")),
        "finished.json": '{"steps": 20000}',
        "student.safetensors": "",
    }.items():
        (run / name).write_text(text)
    code, out, err = distill("train", "--resume", run)
    assert code == 0 and out == f"{run}/student.safetensors\n" and "is finished already" in err
    code, _, err = distill("train", "--resume", run, "--out", tmp_path / "other")
    assert code == 2 and "leave out --out" in err


def test_a_folder_of_other_things_is_no_run_folder(distill, mini_data, tmp_path):
    (tmp_path / "song.flac").write_text("")
    words = [f"data.root={mini_data}", "teacher=random:mini", "--out", tmp_path]
    code, _, err = distill("train", "mini", *words)
    assert code == 1 and "holds other things" in err and err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["song.flac"]


def test_the_noise_of_a_condition_is_missed_before_any_work(distill, noise_folder, tmp_path):
    words = ["data", "distort", noise_folder, tmp_path / "set", "--noise", f"musan={noise_folder}"]
    code, _, err = distill(*words)
    assert code == 1 and "needs wham recordings: name them with --noise wham=SOURCE" in err
    assert not (tmp_path / "set").exists()


def test_messages_cannot_steer_the_terminal():
    assert one_line(DataError("no layer \x1b[31mred\x07 in naïve.pt")) == "no layer ?[31mred? in naïve.pt"
