"""Whose values a number follows: the paper's or s3prl's, in training and in the names of what is written."""

import json
from pathlib import Path

import pytest
import torch

from distill.distortions import CONDITIONS
from distill.downstream.cache import FeatureCache
from distill.downstream.evaluate import evaluate
from distill.downstream.extraction import fill_all
from distill.downstream.features import Selection
from distill.downstream.head_testing import measure
from distill.downstream.results import parse_result
from distill.downstream.speech import TaskSpeech
from distill.errors import UserError
from distill.hubert import HubertEncoder

QUICK = {"conditions": ["clean"], "steps": 1, "every_n_steps": 1}


def read(path: Path) -> dict:
    return json.loads(path.read_text())


def test_cached_features_have_the_level_and_say_so(quick, tmp_path):
    cuts = TaskSpeech(quick("ks")).split("dev")[:3]
    torch.manual_seed(0)
    encoder = HubertEncoder.from_preset("mini", layers=1).eval()
    selection = Selection("last", 1)
    options = {"features": "last", "checkpoint_hash": "a", "dtype": "float32"}

    def cache(folder: str, **more) -> FeatureCache:
        return FeatureCache(tmp_path / folder, cuts, encoder, selection, **options, **more)

    for folder, gain_db in (("loud", 0.0), ("low", -3.0)):
        made = cache(folder, gain_db=gain_db)
        fill_all([made], encoder, selection, devices=[torch.device("cpu")], workers=1)
    loud, low = (cache(name, gain_db=db).read(cuts[0].id) for name, db in (("loud", 0.0), ("low", -3.0)))
    assert loud is not None and low is not None and not torch.equal(loud, low)
    with pytest.raises(UserError, match=r"other settings \(level\)"):
        cache("low")
    about = tmp_path / "loud" / "about.json"  # of an earlier version: no level was ever changed
    about.write_text(json.dumps({k: v for k, v in read(about).items() if k != "gain_db"}))
    assert not cache("loud").missing


def test_both_protocols_live_side_by_side_and_say_which_they_are(quick, student, tmp_path):
    """Cached features too: those of one are not the other's."""
    options = {**QUICK, "cache": "float32", "steps": 2}
    (paper,) = evaluate(student, quick("ks", **options), tmp_path)
    (s3prl,) = evaluate(student, quick("ks", protocol="s3prl", **options), tmp_path)
    assert [parse_result(read(path)).protocol for path in (paper, s3prl)] == ["paper", "s3prl"]
    assert read(s3prl)["settings"]["protocol"] == "s3prl"
    assert {path.name for path in (tmp_path / "heads").iterdir()} == {"ks-last-seed0", "ks-last-seed0-s3prl"}
    assert read(tmp_path / "heads/ks-last-seed0-s3prl/head.json")["protocol"] == "s3prl"
    caches = sorted(path.name for path in (tmp_path / "cache").iterdir())
    assert (
        "speech_commands-train-last-float32" in caches and "speech_commands-train-last-float32-3dB" in caches
    )


@pytest.mark.parametrize("task", ["ic", "pr"])
def test_results_keep_the_dev_score_of_the_head_that_was_chosen(quick, student, tmp_path, task):
    options = {"conditions": ["clean"], "steps": 4, "every_n_steps": 2}
    (path,) = evaluate(student, quick(task, **options), tmp_path)
    logged = tmp_path / "heads" / f"{task}-last-seed0"
    state = torch.load(logged / "checkpoints" / "best.ckpt", weights_only=True)
    scores = next(v for k, v in state["callbacks"].items() if k.startswith("ModelCheckpoint"))
    error = float(scores["best_model_score"])
    assert read(path)["dev"] == pytest.approx(100 - error if task == "ic" else error)


def test_the_variant_is_noted_where_speech_is_distorted(quick, student, tmp_path):
    """Clean and recorded speech has no variants, and is not tested again."""
    options = {"conditions": ["clean", "dns"], "steps": 1, "every_n_steps": 1}
    paper = evaluate(student, quick("ic", **options), tmp_path)
    authors = evaluate(student, quick("ic", variant="authors", **options), tmp_path)
    assert [path.name for path in authors] == ["ic-last-seed0-clean.json", "ic-last-seed0-dns-authors.json"]
    assert authors[0] == paper[0] and paper[1].name == "ic-last-seed0-dns.json"
    assert [parse_result(read(path)).variant for path in authors] == ["paper", "authors"]
    assert len(list((tmp_path / "heads").iterdir())) == 1  # heads hear clean speech


def test_test_speech_is_distorted_as_its_variant_says(quick, student, tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(
        "distill.downstream.evaluate.measure",
        lambda module, cuts, targets, distorter, *rest, **options: (
            made.append(distorter.config) or measure(module, cuts, targets, distorter, *rest, **options)
        ),
    )
    options = {"conditions": ["2-dist", "dns"], "steps": 1, "every_n_steps": 1}
    evaluate(student, quick("ic", variant="authors", **options), tmp_path)
    assert made == [CONDITIONS[name].of_variant("authors") for name in ("2-dist", "dns")]


def test_a_model_is_put_into_a_row_also_when_its_results_are_there(quick, student, tmp_path, caplog):
    (path,) = evaluate(student, quick("ic", **QUICK), tmp_path)
    assert read(path)["row"] is None
    before = read(path)
    evaluate(student, quick("ic", row="S1", **QUICK), tmp_path)
    assert read(path) == before | {"row": "S1"}
    assert "ic-last-seed0-clean: now in row S1, not its recipe's" in caplog.text
    evaluate(student, quick("ic", **QUICK), tmp_path)
    assert read(path)["row"] == "S1"
    (second,) = evaluate(student, quick("ic", row="s4_prime", seed=1, **QUICK), tmp_path)
    assert read(second)["row"] == "S4'"
