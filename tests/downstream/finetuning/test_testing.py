"""Word error rates: the count, the conditions, what is kept and what is refused."""

import functools
import json
from pathlib import Path

import pytest
import torch

from distill.downstream.finetuning.testing import evaluate_wer
from distill.downstream.results import read_results
from distill.errors import ConfigError, DataError, UserError
from distill.options import DecodingConfig
from tests.downstream.finetuning.made_speech import SAID, UNITS, Test, made, reader, write_speech
from tests.downstream.test_subword_search import UNIGRAMS, arpa

WRITTEN = ["THE CAT SAT", "A DOGS HAT HAT", "", "THE CAT IS THE MAT"]


def edits(one, other):
    """Fewest substitutions, insertions and deletions, by the recursion that defines them."""

    @functools.cache
    def between(i, j):
        if not i or not j:
            return i + j
        same = one[i - 1] == other[j - 1]
        return min(between(i - 1, j - 1) + (not same), between(i - 1, j) + 1, between(i, j - 1) + 1)

    return between(len(one), len(other))


@pytest.fixture
def speech(tmp_path):
    return write_speech(tmp_path / "speech")


def test_errors_and_words_are_counted(speech, tmp_path):
    recipe = made({"test-clean": Test([speech])})
    (path,) = evaluate_wer(reader(WRITTEN), UNITS, recipe, tmp_path / "run")
    assert path == tmp_path / "run" / "results" / "wer-test-clean.json"
    found = json.loads(path.read_text())
    wrong = sum(edits(one.split(), other.split()) for one, other in zip(SAID, WRITTEN, strict=True))
    words = sum(len(text.split()) for text in SAID)
    assert (found["errors"], found["words"], found["n_utterances"]) == (wrong, words, 4)
    assert wrong == 4 and found["value"] == pytest.approx(100 * wrong / words)
    (result,) = read_results([tmp_path / "run"])
    assert (result.task, result.condition, result.metric, result.lm) == (
        "finetune", "test-clean", "wer", False
    )  # fmt: skip
    assert (result.model, result.recipe, result.seed) == ("run", "finetune_mini", 0)
    assert result.settings["units"] == "char" and result.settings["vocabulary"] == 29
    assert result.settings["finetune_mct"] is False and result.settings["pretrain_mct"] is None
    rows = [line.split("\t") for line in Path(str(result.predictions)).read_text().splitlines()]
    assert rows[1][1:3] == [SAID[0], WRITTEN[0]]


def test_noise_is_added_and_is_the_same_for_every_seed(speech, tmp_path):
    noise = write_speech(tmp_path / "noise", [""] * 3, first=20_000)
    test = Test([speech], condition="ns", noises={"dns": [f"{noise}?part=0-1"]})
    models = [reader() for _ in range(3)]
    evaluate_wer(models[0], UNITS, made({"clean": Test([speech])}), tmp_path / "clean")
    for seed in (1, 2):
        evaluate_wer(models[seed], UNITS, made({"ns-clean": test}, seed=seed), tmp_path / f"run{seed}")
    for n_samples, clean in models[0].heard.items():
        assert not torch.equal(clean, models[1].heard[n_samples])
        assert torch.equal(models[1].heard[n_samples], models[2].heard[n_samples])
    (result,) = read_results([tmp_path / "run1"])
    assert result.settings["test"] == "ns" and result.settings["snr_db"] == [0.0, 30.0]
    loud = Test([speech], condition="ns", snr_db=[-5.0, -5.0], noises=test.noises)
    model = reader()
    evaluate_wer(model, UNITS, made({"ns-clean": loud}), tmp_path / "loud")
    for n_samples, clean in models[0].heard.items():
        added = model.heard[n_samples] - clean
        assert added.square().mean() / clean.square().mean() == pytest.approx(10**0.5, rel=0.02)


def test_what_is_done_is_kept(speech, tmp_path):
    out = tmp_path / "run"
    first = made({"a": Test([speech])})
    (path,) = evaluate_wer(reader(WRITTEN), UNITS, first, out)
    before = path.stat().st_mtime_ns
    model = reader(WRITTEN)
    paths = evaluate_wer(model, UNITS, made({"a": Test([speech]), "b": Test([speech])}), out)
    assert [each.name for each in paths] == ["wer-a.json", "wer-b.json"] and path.stat().st_mtime_ns == before
    path.write_text("{")  # damaged: made again
    evaluate_wer(model, UNITS, first, out)
    assert json.loads(path.read_text())["errors"] == 4


def test_other_speech_is_refused_and_another_model_is_tested_anew(speech, tmp_path):
    out = tmp_path / "run"
    (path,) = evaluate_wer(reader(), UNITS, made({"a": Test([speech])}), out)
    before = json.loads(path.read_text())["checkpoint_hash"]
    other = write_speech(tmp_path / "other", ["THE CAT SAT", "A DOG'S HAT", "YES", "THE CAT IS ON THE MAT"])
    with pytest.raises(UserError, match=r"wer-a.json was made with other settings \(test set\)"):
        evaluate_wer(reader(), UNITS, made({"a": Test([other])}), out)
    model = reader()
    next(model.encoder.parameters()).data.add_(1.0)
    (path,) = evaluate_wer(model, UNITS, made({"a": Test([speech])}), out)
    assert json.loads(path.read_text())["checkpoint_hash"] != before


def test_incomplete_test_sets_are_errors(speech, tmp_path):
    with pytest.raises(DataError, match="tests.a: condition ns needs dns: set noises.dns$"):
        evaluate_wer(reader(), UNITS, made({"a": Test([speech], condition="ns")}), tmp_path / "run")
    with pytest.raises(ConfigError, match="tests: 'a/b' names a file"):
        evaluate_wer(reader(), UNITS, made({"a/b": Test([speech])}), tmp_path / "run")
    (tmp_path / "speech" / "u2.wav").write_bytes(b"RIFF")
    with pytest.raises(DataError, match="u2"):
        evaluate_wer(reader(), UNITS, made({"a": Test([speech])}), tmp_path / "run")
    assert not list(tmp_path.rglob("wer-*.json"))


def test_a_language_model_is_searched_for_and_used(speech, tmp_path):
    pytest.importorskip("flashlight.lib.text.decoder.kenlm")
    vocabulary = dict.fromkeys({word for text in SAID for word in text.split()}, (-1.0, 0.0))
    unigrams = {name: UNIGRAMS[name] for name in ("<unk>", "<s>", "</s>")} | vocabulary
    lm = arpa(tmp_path / "lm.arpa", unigrams, {("<s>", "THE"): -0.1})
    recipe = made({"a": Test([speech])}, decoding=DecodingConfig(lm=str(lm), trials=3, test_beam=20))
    recipe.data.dev = [speech]
    out = tmp_path / "run"
    paths = evaluate_wer(reader(WRITTEN), UNITS, recipe, out)
    assert [path.name for path in paths] == ["wer-a.json", "wer-a-lm.json"]
    log = json.loads((out / "decoding" / "trials.json").read_text())
    assert len(log["trials"]) == 4 and log["trials"][0]["lm_weight"] == 2.0
    best = min(log["trials"], key=lambda trial: trial["errors"])
    found = json.loads(paths[1].read_text())
    assert found["lm"] is True and found["settings"]["lm_weight"] == best["lm_weight"]
    assert found["settings"]["word_score"] == best["word_score"]
    assert (found["settings"]["beam"], found["settings"]["lm order"], found["settings"]["lm units"]) == (
        20, 2, "word"
    )  # fmt: skip
    assert evaluate_wer(reader(WRITTEN), UNITS, recipe, out) == paths
    recipe.decoding.test_beam = 30
    with pytest.raises(UserError, match=r"wer-a-lm.json was made with other settings \(beam\)"):
        evaluate_wer(reader(WRITTEN), UNITS, recipe, out)
