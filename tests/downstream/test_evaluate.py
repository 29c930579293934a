"""Evaluations from end to end: scores are right, nothing is done twice, mistakes are named."""

import json
import os
import shutil
import signal
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from distill.checkpoints import native
from distill.data.noise import NoiseReader
from distill.downstream.distorted_sets import DistortedSet
from distill.downstream.evaluate import evaluate
from distill.downstream.features import load_upstream
from distill.downstream.results import Result, parse_result
from distill.downstream.speech import TaskSpeech
from distill.downstream.task_sources import noise_sources
from distill.downstream.tasks import TASKS
from distill.errors import DataError, UsageError, UserError
from distill.hubert import HubertEncoder
from distill.spiral.encoder import SpiralEncoder
from distill.student import Student
from distill.training.stopping import Interrupted

pytestmark = pytest.mark.slow

TESTED = {"ks": 21, "ic": 6, "er": 10, "asr": 3, "pr": 4, "slurp_action": 8, "slurp_scenario": 8}


def read(paths: list[Path]) -> list[dict]:
    return [json.loads(path.read_text()) for path in paths]


@pytest.mark.parametrize("task", TASKS)
def test_every_task_from_end_to_end(task, quick, student, tmp_path):
    config = quick(task, folds=[2]) if task == "er" else quick(task)
    paths = evaluate(student, config, tmp_path)
    results = read(paths)
    assert {path.parent for path in paths} == {tmp_path / "results"}
    assert [result["condition"] for result in results] == list(TASKS[task].conditions)
    for result in results:
        assert set(result) <= {field.name for field in fields(Result)} and parse_result(result)
        assert (result["task"], result["metric"]) == (task, TASKS[task].metric)
        assert result["value"] >= 0 and (result["value"] <= 100 or result["metric"] != "accuracy")
        assert (result["seed"], result["fold"], result["lm"]) == (0, 2 if task == "er" else None, False)
        assert (result["features"], result["model"], result["head_steps"]) == ("last", "tiny", 4)
        assert result["checkpoint_hash"] == load_upstream(student).checkpoint_hash
    counts = {result["condition"]: result["n_utterances"] for result in results}
    recorded = {"test-other": 1, "chime3": 4}
    assert counts == {c: recorded.get(c, TESTED[task]) for c in TASKS[task].conditions}
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    assert evaluate(student, config, tmp_path) == paths  # all is there: nothing is written
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}


def test_all_folds_and_several_features_and_seeds_live_side_by_side(quick, student, tmp_path):
    clean = {"conditions": ["clean"], "steps": 1, "every_n_steps": 1}
    paths = evaluate(student, quick("er", **clean), tmp_path)
    paths += evaluate(student, quick("er", folds=[1], seed=1, **clean), tmp_path)
    paths += evaluate(student, quick("er", folds=[1], features="layer:0", **clean), tmp_path)
    assert [result["fold"] for result in read(paths)] == [1, 2, 3, 4, 5, 1, 1]
    assert len(set(paths)) == 7


def test_a_head_is_not_trained_again_for_another_condition(quick, student, tmp_path):
    (clean,) = evaluate(student, quick("ic", conditions=["clean"]), tmp_path)
    (head,) = tmp_path.glob("heads/*/checkpoints/last.ckpt")
    before = head.stat().st_mtime_ns, clean.stat().st_mtime_ns
    both = evaluate(student, quick("ic", conditions=["clean", "reverb"]), tmp_path)
    assert before == (head.stat().st_mtime_ns, clean.stat().st_mtime_ns)
    assert [result["condition"] for result in read(both)] == ["clean", "reverb"]


@pytest.fixture(scope="module")
def tones(tmp_path_factory) -> dict[str, str]:
    """Sources of tones, low and high and hiss, as keywords."""
    root = tmp_path_factory.mktemp("tones")
    generator = np.random.default_rng(0)
    rows = ["path\tlabel\tsplit"]
    for split, count in {"train": 48, "dev": 12, "test": 24}.items():
        for index in range(count):
            hz = (300, 3000)[index % 2]
            time_s = np.arange(int(generator.integers(3000, 6000))) / 16_000
            wave = 0.3 * np.sin(2 * np.pi * hz * generator.uniform(0.98, 1.02) * time_s)
            wave += 0.01 * generator.standard_normal(len(wave))
            soundfile.write(root / f"{split}{index}.wav", wave, 16_000)
            rows.append(f"{split}{index}.wav\t{hz}\t{split}")
    (root / "all.tsv").write_text("\n".join(rows) + "\n")
    return {split: f"{root}/all.tsv?split={split}" for split in ("train", "dev", "test")}


@pytest.mark.parametrize("features", ["last", "weighted_sum", "layer:0"])
def test_what_can_be_heard_is_learned(quick, student, tones, tmp_path, features):
    config = quick(
        "ks",
        sources=tones,
        conditions=["clean"],
        steps=60,
        every_n_steps=60,
        batch_size=16,
        features=features,
    )
    (result,) = read(evaluate(student, config, tmp_path))
    assert result["value"] > 90
    weights = list(tmp_path.glob("heads/*/layer_weights.json"))
    if features == "weighted_sum":
        learned = json.loads(weights[0].read_text())["weights"]
        assert len(learned) == 3 and sum(learned) == pytest.approx(1) and len(set(learned)) == 3
    else:
        assert not weights


def test_fine_tuning_trains_the_model_too(quick, student, tones, tmp_path):
    options = {"sources": tones, "conditions": ["clean"], "steps": 10, "lr": 1e-3}
    (tuned,) = read(evaluate(student, quick("ks", finetune=True, **options), tmp_path))
    (frozen,) = read(evaluate(student, quick("ks", **options), tmp_path))
    assert (tuned["features"], frozen["features"]) == ("finetune:last", "last")
    encoder = load_upstream(student).encoder.state_dict()
    state = {
        name: torch.load(tmp_path / "heads" / name / "checkpoints" / "last.ckpt", weights_only=True)[
            "state_dict"
        ]
        for name in ("ks-finetune-last-seed0", "ks-last-seed0")
    }
    assert not any(name.startswith("encoder.") for name in state["ks-last-seed0"])
    moved = [
        name
        for name, value in encoder.items()
        if not torch.equal(value, state["ks-finetune-last-seed0"][f"encoder.{name}"])
    ]
    assert len(moved) > 0.9 * len(encoder)


def test_the_score_is_that_of_the_head_on_the_distorted_set(quick, student, task_data, tmp_path):
    """Utterance by utterance, with the audio of `DistortedSet` and the head's weights by hand."""
    config = quick("ks", conditions=["2-dist", "dns"], steps=60, every_n_steps=60, batch_size=8, seed=3)
    results = read(evaluate(student, config, tmp_path))
    (path,) = tmp_path.glob("heads/*/checkpoints/best.ckpt")
    weights = torch.load(path, weights_only=True)["state_dict"]
    classes = json.loads((path.parents[1] / "head.json").read_text())["labels"][0]
    encoder = load_upstream(student).encoder
    cuts = TaskSpeech(config).test("clean", None)
    for result in results:
        right = 0
        distorted = DistortedSet(cuts, result["condition"], NoiseReader(noise_sources(config)), seed=3)
        for (cut,), wave, _, _ in distorted.batches(1):
            with torch.no_grad():
                z = encoder(wave).hidden_states[-1][0]
            hidden = z @ weights["head.projector.weight"].T + weights["head.projector.bias"]
            scores = weights["head.linear.weight"] @ hidden.mean(0) + weights["head.linear.bias"]
            right += classes[int(scores.argmax())] == cut.custom["label"]
        assert result["value"] == pytest.approx(100 * right / len(cuts))
    assert len({result["value"] for result in results}) > 1 or results[0]["value"] > 100 / 12


def test_an_interrupted_training_goes_on(quick, student, tmp_path, monkeypatch):
    """Ctrl-C after three steps, the same command again: the head of an uninterrupted training."""
    options = {"conditions": ["clean"], "steps": 6, "every_n_steps": 2, "batch_size": 8}
    config = quick("ic", **options)
    evaluate(student, config, tmp_path / "whole")

    forward, calls = HubertEncoder.forward, []

    def stopped(self, *args, **kwargs):
        if self.training is False and torch.is_inference_mode_enabled() is False:
            calls.append(1)
            if len(calls) == 4:  # steps 1 and 2, one validation batch ran without gradients before
                os.kill(os.getpid(), signal.SIGINT)
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(HubertEncoder, "forward", stopped)
    with pytest.raises(Interrupted, match="give the same command again"):
        evaluate(student, config, tmp_path / "halves")
    monkeypatch.setattr(HubertEncoder, "forward", forward)
    assert not (tmp_path / "halves" / "results").exists()
    evaluate(student, config, tmp_path / "halves")
    states = [
        torch.load(next((tmp_path / name).glob("heads/*/checkpoints/last.ckpt")), weights_only=True)
        for name in ("whole", "halves")
    ]
    assert states[0]["global_step"] == states[1]["global_step"] == 6
    for name, value in states[0]["state_dict"].items():
        torch.testing.assert_close(value, states[1]["state_dict"][name], atol=1e-6, rtol=0)


def test_unreadable_training_audio_and_what_to_do(quick, student, tones, tmp_path):
    """No words of `distill train`: the same command continues once the fault is repaired or allowed."""
    folder = tmp_path / "tones"
    shutil.copytree(Path(tones["train"].partition("?")[0]).parent, folder)
    sources = {split: f"{folder}/all.tsv?split={split}" for split in tones}
    broken = [folder / f"train{number}.wav" for number in range(10)]
    mended = {path: path.read_bytes() for path in broken}
    for path in broken:
        n_samples = soundfile.info(path).frames
        soundfile.write(path, np.full(n_samples, np.nan), 16_000, subtype="FLOAT")
    options = {"sources": sources, "conditions": ["clean"], "cache": "float32", "batch_size": 8}
    config = quick("ks", steps=20, every_n_steps=6, **options)
    with pytest.raises(DataError) as error:
        evaluate(student, config, tmp_path / "out")
    said = str(error.value)
    assert "more than max_bad_fraction=0.01 allows" in said and "--resume" not in said and "data." not in said
    assert said.endswith("lists them: fix them, or raise max_bad_fraction, then give the same command again")
    assert "train" in (tmp_path / "out/heads/ks-last-seed0/skipped.tsv").read_text()
    allowed = quick("ks", steps=20, every_n_steps=6, max_bad_fraction=0.6, **options)
    assert evaluate(student, allowed, tmp_path / "allowed")
    for path in broken:
        path.write_bytes(mended[path])
    shutil.copytree(folder, tmp_path / "elsewhere")
    other = {
        "sources": {split: source.replace("/tones/", "/elsewhere/") for split, source in sources.items()}
    }
    with pytest.raises(UserError, match=r"was made with other settings \(training audio\)"):
        evaluate(student, quick("ks", steps=20, every_n_steps=6, **options | other), tmp_path / "out")
    assert evaluate(student, config, tmp_path / "out")
    assert "mending" not in json.loads((tmp_path / "out/heads/ks-last-seed0/head.json").read_text())


def test_a_layer_that_the_model_does_not_have(quick, student, tmp_path):
    with pytest.raises(UsageError, match=r"layer:9: the model has layers 0 .* to 2"):
        evaluate(student, quick("ks", features="layer:9"), tmp_path)


def test_an_unknown_condition(quick, student, tmp_path):
    with pytest.raises(UsageError, match="unknown condition 'rain'"):
        evaluate(student, quick("ks", conditions=["rain"]), tmp_path)


def test_missing_corpora_are_named_at_once_with_the_commands_that_make_them(quick, student, tones, tmp_path):
    lacking = {"data": str(tmp_path), "noises": {}, "conditions": ["clean", "dns"]}
    with pytest.raises(DataError) as error:
        evaluate(student, quick("ks", **lacking), tmp_path / "out")
    said, *commands = str(error.value).split("; ")
    names = ("train", "dev", "test")
    assert all(f"{tmp_path}/speech_commands/{name}.jsonl.gz" in said for name in names)
    assert said.endswith(" do not exist") and f"{tmp_path}/dns/" in said
    assert commands[0] == (
        f"distill data prepare speech_commands --root FOLDER --out {tmp_path}/speech_commands"
    )
    assert [command for command in commands if command.startswith("distill data prepare dns ")]
    assert len(commands) == len(set(commands))
    sources = tones | {"train": str(tmp_path / "gone.tsv")}
    with pytest.raises(DataError, match=r"^\S+gone.tsv \(sources.train\) does not exist; name a "):
        evaluate(student, quick("ks", sources=sources, conditions=["clean"]), tmp_path / "out")
    noisy = {"sources": tones, "noises": {"fsd": ["nowhere"]}, "conditions": ["fsd"]}
    with pytest.raises(DataError, match=r"^nowhere \(fsd noise\) does not exist; name a manifest, TSV or f"):
        evaluate(student, quick("ks", **noisy), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_half_a_corpus_is_refused_with_the_files_that_are_missing(quick, student, tones, tmp_path):
    folder = tmp_path / "half"
    shutil.copytree(Path(tones["train"].partition("?")[0]).parent, folder)
    from distill.data_prep.manifests import cut_from_file, write_cuts

    cuts = [cut_from_file(path) for path in sorted(folder.glob("train*.wav"))]
    for cut in cuts:
        cut.custom = {"label": "tone"}
    write_cuts(cuts, folder / "train.jsonl.gz")
    for index in (3, 5, 7, 9):
        (folder / f"train{index}.wav").unlink()
    sources = tones | {"train": str(folder / "train.jsonl.gz")}
    with pytest.raises(
        DataError, match=r"4 audio files of 48 utterances cannot be used: .*train3.wav: does not .*, \.\.\.;"
    ):
        evaluate(student, quick("ks", sources=sources, conditions=["clean"]), tmp_path / "out")


@pytest.mark.parametrize("split", ["train", "dev", "test"])
def test_a_table_that_names_files_which_cannot_be_used_is_refused(quick, student, tones, tmp_path, split):
    folder = tmp_path / "tones"
    shutil.copytree(Path(tones["train"].partition("?")[0]).parent, folder)
    sources = {split: f"{folder}/all.tsv?split={split}" for split in tones}
    (folder / f"{split}1.wav").write_text("no audio")
    with pytest.raises(DataError, match=rf"1 audio files of \d+ utterances .*{split}1.wav: cannot be read"):
        evaluate(student, quick("ks", sources=sources, conditions=["clean"]), tmp_path / "out")
    (folder / f"{split}0.wav").unlink()
    with pytest.raises(DataError, match=rf"2 audio files of \d+ utterances .*{split}0.wav: does not exist"):
        evaluate(student, quick("ks", sources=sources, conditions=["clean"]), tmp_path / "out")


def test_heads_of_another_model_or_length_are_left_alone(quick, student, tones, tmp_path):
    options = {"sources": tones, "conditions": ["clean"]}
    evaluate(student, quick("ks", **options), tmp_path)
    with pytest.raises(UserError, match=r"other settings \(checkpoint\): choose another --out"):
        torch.manual_seed(1)
        evaluate("random:mini", quick("ks", **options), tmp_path)
    with pytest.raises(UserError, match=r"other settings \(width\)"):
        evaluate(student, quick("ks", width=8, conditions=["pitch"], sources=tones), tmp_path)
    with pytest.raises(UserError, match=r"clean.json was made with other settings \(width\):"):
        evaluate(student, quick("ks", width=8, **options), tmp_path)
    with pytest.raises(UserError, match="trained for 4 steps already: set steps=4"):
        evaluate(student, quick("ks", steps=2, **options), tmp_path)


def test_a_test_class_that_training_did_not_have(quick, student, tones, tmp_path):
    folder = Path(tones["test"].partition("?")[0]).parent
    (folder / "odd.tsv").write_text("path\tlabel\ntest0.wav\t9000\n")
    sources = tones | {"test": str(folder / "odd.tsv")}
    with pytest.raises(DataError, match="test0: its label '9000' does not occur in the training speech"):
        evaluate(student, quick("ks", sources=sources, conditions=["clean"]), tmp_path)


def test_a_test_utterance_that_cannot_be_read_is_not_left_out(quick, student, tones, tmp_path):
    folder = Path(tones["test"].partition("?")[0]).parent
    soundfile.write(folder / "bad.wav", np.full(4000, np.nan), 16_000, subtype="FLOAT")
    (folder / "bad.tsv").write_text("path\tlabel\ntest0.wav\t300\nbad.wav\t300\n")
    sources = tones | {"test": str(folder / "bad.tsv")}
    with pytest.raises(DataError, match="test utterance bad: samples are not finite"):
        evaluate(student, quick("ks", sources=sources, conditions=["clean"]), tmp_path)


def test_a_spiral_student_is_evaluated_as_any_other(quick, student, tmp_path):
    torch.manual_seed(0)
    spiral = Student.from_teacher(SpiralEncoder.from_preset("mini"), layers=1, targets=(4,))
    native.write(spiral, tmp_path / "spiral")
    scores = []
    for cache in ("off", "float32"):
        config = quick("ks", conditions=["clean", "reverb"], features="weighted_sum", cache=cache)
        results = read(evaluate(tmp_path / "spiral", config, tmp_path / cache))
        assert [result["n_utterances"] for result in results] == [TESTED["ks"]] * 2
        assert {result["model"] for result in results} == {"spiral"}
        assert results[0]["checkpoint_hash"] != load_upstream(student).checkpoint_hash
        (weights,) = (tmp_path / cache).glob("heads/*/layer_weights.json")
        assert len(json.loads(weights.read_text())["weights"]) == 2
        scores.append([result["value"] for result in results])
    assert scores[0] == scores[1]
    asr = quick("asr", conditions=["clean"])
    (result,) = read(evaluate(tmp_path / "spiral", asr, tmp_path / "asr"))
    assert result["metric"] == "wer" and result["value"] > 0
