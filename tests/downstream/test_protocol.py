"""Whose values a number follows: the paper's or s3prl's, in training and in the names of what is written."""

import json
from pathlib import Path

import pytest
import torch
from torch.utils.data import random_split

from distill.distortions import CONDITIONS
from distill.downstream.cache import FeatureCache
from distill.downstream.evaluate import evaluate
from distill.downstream.extraction import fill_all
from distill.downstream.features import Selection
from distill.downstream.head_testing import measure
from distill.downstream.head_training import HeadTraining
from distill.downstream.labels import ClassLabels
from distill.downstream.options import EvaluationConfig
from distill.downstream.results import parse_result
from distill.downstream.speech import TaskSpeech
from distill.downstream.sweep import plan_sweep
from distill.downstream.tasks import PROTOCOLS, TASKS, task_of
from distill.errors import UsageError, UserError
from distill.hubert import HubertEncoder
from distill.options import OptimConfig

QUICK = {"conditions": ["clean"], "steps": 1, "every_n_steps": 1}


def read(path: Path) -> dict:
    return json.loads(path.read_text())


@pytest.mark.parametrize(
    ("task", "protocol", "values"),
    [
        ("er", "paper", {"batch_size": 4, "every_n_steps": 500, "dev_seed": None, "gain_db": 0.0}),
        ("er", "s3prl", {"batch_size": 32, "every_n_steps": 1000, "dev_seed": 0, "gain_db": 0.0}),
        ("asr", "paper", {"batch_size": 32}),
        ("asr", "s3prl", {"batch_size": 16}),
        ("ks", "paper", {"gain_db": 0.0, "batch_size": 32}),
        ("ks", "s3prl", {"gain_db": -3.0, "batch_size": 32}),
    ],
)
def test_the_values_of_each_protocol(task, protocol, values):
    found = EvaluationConfig(task=task, protocol=protocol).defaults
    assert {name: getattr(found, name) for name in values} == values


def test_protocols_name_tasks_and_options_that_exist():
    for protocol, changes in PROTOCOLS.items():
        for task in changes:
            assert task_of(task, protocol) != TASKS[task]
    assert task_of("ks", "of a later version") == TASKS["ks"]


def test_what_is_said_explicitly_wins_over_the_protocol():
    config = EvaluationConfig(task="er", protocol="s3prl", batch_size=8, every_n_steps=50)
    assert config.head_settings["batch_size"] == 8
    assert config.recipe().validation.every_n_steps == 50


def test_an_unknown_protocol_is_refused():
    with pytest.raises(UsageError, match="protocol must be paper or s3prl, not 'superb'"):
        EvaluationConfig(task="ks", protocol="superb")


def test_the_protocol_is_part_of_names_unless_it_is_the_papers():
    paper, s3prl = (EvaluationConfig(task="er", protocol=name) for name in ("paper", "s3prl"))
    assert paper.head_name(2) == "er-fold2-last-seed0"
    assert s3prl.head_name(2) == "er-fold2-last-seed0-s3prl"
    assert s3prl.result_name("2-dist", 2, lm=False) == "er-fold2-last-seed0-s3prl-2-dist.json"


@pytest.mark.parametrize("seed", [0, 5])
def test_the_dev_split_of_s3prl_is_torchs_with_seed_0(quick, seed):
    """`torch.manual_seed(0); random_split(turns, [int(0.8 N), N - int(0.8 N)])`, whatever the run's seed."""
    speech = TaskSpeech(quick("er", protocol="s3prl", seed=seed))
    turns = [
        cut.id
        for session in ("session1", "session3", "session4", "session5")
        for cut in speech.split(session)
    ]
    n_train = int((1 - 0.2) * len(turns))
    torch.manual_seed(0)
    expected = [
        {turns[n] for n in part.indices} for part in random_split(turns, [n_train, len(turns) - n_train])
    ]
    assert [{cut.id for cut in part} for part in speech.training(2)] == expected


def test_the_dev_split_of_the_paper_depends_on_the_seed(quick):
    devs = [{cut.id for cut in TaskSpeech(quick("er", seed=seed)).training(2)[1]} for seed in (0, 1, 0)]
    assert devs[0] == devs[2] != devs[1]


def test_keywords_are_heard_3_db_lower(monkeypatch):
    """As sox `gain -3`: 10 ** (-3 / 20)."""
    torch.manual_seed(0)
    encoder = HubertEncoder.from_preset("mini", layers=1)
    labels = ClassLabels((("a", "b"),), "label")
    heard = []
    monkeypatch.setattr(
        encoder,
        "forward",
        lambda waves, lengths: heard.append(waves) or HubertEncoder.forward(encoder, waves, lengths),
    )
    waves = torch.randn(2, 1600)
    for gain_db in (0.0, -3.0):
        module = HeadTraining(
            encoder, Selection("last", 1), labels.head(24, 8), labels, OptimConfig(), gain_db=gain_db
        )
        module.encode(waves, torch.tensor([1600, 1600]))
    assert torch.equal(heard[0], waves)
    torch.testing.assert_close(heard[1], waves * 0.70794578)


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


def test_a_sweep_does_what_has_no_result_of_its_protocol(quick, student, task_data, tmp_path):
    words = ["steps=1", "every_n_steps=1", "workers=0", "width=16", "trainer.accelerator=cpu"]
    planned = {"data": str(task_data), "out": tmp_path}
    (job,) = plan_sweep([str(student)], ["ic"], ["clean"], words=words, **planned)
    evaluate(student, job.config, job.out)
    assert not plan_sweep([str(student)], ["ic"], ["clean"], words=words, **planned)
    (job,) = plan_sweep([str(student)], ["ic"], ["clean"], words=[*words, "protocol=s3prl"], **planned)
    assert job.config.conditions == ["clean"] and job.head == "ic-last-seed0-s3prl"
    assert "protocol=s3prl" in job.command()


@pytest.mark.parametrize("task", ["ic", "pr"])
def test_results_keep_the_dev_score_of_the_head_that_was_chosen(quick, student, tmp_path, task):
    options = {"conditions": ["clean"], "steps": 4, "every_n_steps": 2}
    (path,) = evaluate(student, quick(task, **options), tmp_path)
    logged = tmp_path / "heads" / f"{task}-last-seed0"
    state = torch.load(logged / "checkpoints" / "best.ckpt", weights_only=True)
    scores = next(v for k, v in state["callbacks"].items() if k.startswith("ModelCheckpoint"))
    error = float(scores["best_model_score"])
    assert read(path)["dev"] == pytest.approx(100 - error if task == "ic" else error)


# ------------------------------------------------------------------------------------------ variants, rows


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


def test_a_sweep_does_what_has_no_result_of_its_variant(quick, student, task_data, tmp_path):
    words = ["steps=1", "every_n_steps=1", "workers=0", "width=16", "trainer.accelerator=cpu"]
    planned = {"data": str(task_data), "out": tmp_path}
    (job,) = plan_sweep([str(student)], ["ic"], ["clean", "fsd"], words=words, **planned)
    evaluate(student, job.config, job.out)
    (job,) = plan_sweep(
        [str(student)], ["ic"], ["clean", "fsd"], words=[*words, "variant=authors"], **planned
    )
    assert job.config.conditions == ["fsd"]


@pytest.mark.parametrize(("given", "row"), [("S1", "S1"), ("s1", "S1"), ("S4'", "S4'"), ("s4_prime", "S4'")])
def test_rows_by_name(given, row):
    assert EvaluationConfig(task="ks", row=given).row == row


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"row": "S9"}, "row 'S9': the paper's tables have T1, T1', S1"),
        ({"variant": "s3prl"}, "variant must be paper or authors, not 's3prl'"),
    ],
)
def test_rows_and_variants_that_do_not_exist(options, message):
    with pytest.raises(UsageError, match=message):
        EvaluationConfig(task="ks", **options)


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


def test_a_sweep_of_several_models_has_no_row(student, task_data, tmp_path):
    planned = {"data": str(task_data), "out": tmp_path}
    with pytest.raises(UsageError, match="row=... puts one model into a row"):
        plan_sweep([str(student), "org/other"], ["ic"], ["clean"], words=["ic:row=S1"], **planned)
