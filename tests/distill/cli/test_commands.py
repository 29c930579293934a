"""What each verb does, on tiny data."""

import json

import numpy as np
import pytest
import soundfile
import torch
import yaml
from lhotse import CutSet

from distill.checkpoints import native
from distill.config import load, recipe_names
from distill.hubert import HubertEncoder
from distill.student import Student


@pytest.mark.parametrize(
    ("verb", "recipe", "other"), [("train", "mini_teacher", "adapt"), ("adapt", "s4", "train")]
)
def test_each_recipe_has_its_verb(distill, tmp_path, verb, recipe, other):
    code, _, err = distill(verb, recipe, "--out", tmp_path / "run")
    assert code == 2
    assert err == f"distill: {recipe} is a recipe for distill {other}, not for distill {verb}\n"


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


def test_several_recipes_and_seeds_are_printed(distill):
    code, out, _ = distill("train", "s4", "s6", "--seeds", "0", "2", "optim.lr=1e-3", "--print")
    assert code == 0
    printed = [yaml.safe_load(part) for part in out.split("---\n")]
    assert [(one["name"], one["seed"], one["optim"]["lr"]) for one in printed] == [
        *(("s4", 0, 1e-3), ("s4", 2, 1e-3), ("s6", 0, 1e-3), ("s6", 2, 1e-3)),
    ]
    code, out, _ = distill("train", "optim.lr=1e-3", "s2", "s4", "--print")
    assert code == 0 and [yaml.safe_load(part)["name"] for part in out.split("---\n")] == ["s2", "s4"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["s4", "s4"], "recipe s4 is given twice"),
        (["s4", "--seeds", "1", "0", "1"], "seed 1 is given twice"),
        (["s4", "--seeds", "0", "-1"], "--seeds takes whole numbers from 0, not '-1'"),
        (["s4", "--seeds", "0", "s6"], "--seeds takes whole numbers from 0, not 's6'"),
        (["s4", "--seeds", "4294967296"], "seed must be below 2**32"),
        (["s4", "--seeds", "0", "1", "seed=2"], "--seeds and seed=: give one of them"),
        (["--seeds", "0", "1"], "--seeds: name a recipe, too"),
        (["--seeds", "0", "1", "--resume", "run"], "--resume and --override are for one run: several are "),
        (["s4", "s44"], "unknown recipe 's44': did you mean 's4'?"),
        (["s4", "mini_teacher"], "mini_teacher makes no student"),
        (["s4", "s6", "trainer.devices=2"], "set trainer.devices=1"),
    ],
)
def test_mistakes_with_several_are_said(distill, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    code, out, err = distill("train", *words)
    assert code == 2 and message in err and err.startswith("distill: ") and err.count("\n") == 1 and not out
    assert not list(tmp_path.iterdir())


def test_runs_of_several_go_into_folders_by_name_and_seed(distill, tmp_path, monkeypatch):
    started = []
    monkeypatch.setattr("distill.training.several.train_several", lambda runs: started.extend(runs) or [])
    monkeypatch.chdir(tmp_path)
    assert distill("train", "s4", "s6")[0] == 0
    assert distill("train", "s4", "--seeds", "3", "--out", "x")[0] == 0
    assert distill("train", "s4", "s6", "--seeds", "1")[0] == 0
    found = [(recipe.name, recipe.seed, str(out)) for recipe, out in started]
    assert found == [
        *(("s4", 0, "runs/s4"), ("s6", 0, "runs/s6"), ("s4", 3, "x/s4-seed3")),
        *(("s4", 1, "runs/s4-seed1"), ("s6", 1, "runs/s6-seed1")),
    ]


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
    lines = out.splitlines()
    assert code == 0 and lines[-1] == f"{tmp_path}/x.png", err
    assert lines[0] == "| within / between splits | all | musan | gaussian | reverb |"
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG\r\n")
    code, out, err = distill(*words, "--out", tmp_path / "folder")
    assert code == 0 and out.endswith(f"\n{tmp_path}/folder/tsne.png\n"), err
    code, out, err = distill(*words, "--out", tmp_path / "folder", "--seed", 1)
    assert code == 1 and "was made with other settings (seed)" in err.splitlines()[-1] and not out


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
    import torch

    from distill.checkpoints.files import write_safetensors
    from distill.config import load, to_yaml

    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    for name, text in {
        "recipe.yaml": to_yaml(load("s4")),
        "finished.json": '{"steps": 20000}',
    }.items():
        (run / name).write_text(text)
    write_safetensors(run / "student.safetensors", {"a": torch.ones(1)})
    code, out, err = distill("train", "--resume", run)
    assert code == 0 and out == f"{run}/student.safetensors\n" and "is finished already" in err
    code, _, err = distill("train", "--resume", run, "cdm=setup1", "--override")
    assert code == 2 and err.count("\n") == 1
    assert "finished at step 20000, and this would have no effect: cdm: setup2 -> setup1: raise optim" in err
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
