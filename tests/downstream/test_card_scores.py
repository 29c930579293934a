"""What a model card says of evaluations: one model's, with what they were measured on."""

import pytest

from distill.checkpoints import export, load_student
from distill.downstream.card_scores import make_card_scores, read_card_scores
from distill.downstream.features import load_upstream
from distill.downstream.results import parse_result
from distill.errors import UserError
from tests.downstream.made_results import SESSIONS, values, write


def scores(*changes: dict):
    return make_card_scores(parse_result(values(**change)) for change in changes)


def test_means_over_seeds_and_folds():
    folds = [
        {"task": "er", "fold": fold, "n_utterances": n, "value": 60.0 + fold}
        for fold, n in enumerate(SESSIONS, 1)
    ]
    er, ks = scores({"value": 90.0}, {"value": 91.0, "seed": 1}, *folds)
    assert (ks.value, ks.dataset_type, ks.task_type) == (
        90.5,
        "google/speech_commands",
        "audio-classification",
    )
    assert (ks.settings["seeds"], ks.column) == ([0, 1], "ks accuracy %")
    assert (er.value, er.dataset, er.settings["folds"]) == (63.0, "IEMOCAP", [1, 2, 3, 4, 5])


def test_what_was_measured_otherwise_is_a_score_of_its_own():
    found = scores(
        {"condition": "fsd", "value": 80.0},
        {"value": 90.0},
        {"value": 92.0, "features": "weighted_sum"},
        {"condition": "fsd", "value": 81.0, "variant": "authors"},
        {"task": "asr", "metric": "wer", "value": 12.0, "n_utterances": 2939, "condition": "test-other"},
    )
    assert [(score.column, score.condition, score.value) for score in found] == [
        ("asr wer %", "test-other", 12.0),
        ("ks accuracy %", "clean", 90.0),
        ("ks accuracy %, distortions authors", "fsd", 81.0),
        ("ks accuracy %", "fsd", 80.0),
        ("ks accuracy %, weighted_sum", "clean", 92.0),
    ]
    assert found[0].task_type == "automatic-speech-recognition" and "distortions" not in found[1].settings


def test_results_that_cannot_be_averaged_are_refused():
    with pytest.raises(
        UserError, match="ks, clean: heads of 100 to 200,000 steps are averaged: a model card"
    ):
        scores({"value": 90.0}, {"value": 30.0, "seed": 1, "head_steps": 100})
    noise = [{"value": 90.0, "condition": "fsd", "seed": n, "settings": {"noise": str(n)}} for n in (0, 1)]
    with pytest.raises(UserError, match="ks, fsd: results of different noise are averaged"):
        scores(*noise)


def test_of_a_seed_that_was_measured_twice_the_latest_counts_aloud(caplog):
    (score,) = scores({"value": 90.0}, {"value": 30.0, "head_steps": 100, "finished": "2999-01-01T00:00:00"})
    assert (score.value, score.settings["head_steps"]) == (30.0, 100)
    assert "seed 0 was measured more than once, the latest counts" in caplog.text


def test_a_test_set_of_ones_own_is_not_called_by_the_published_ones_name():
    (score,) = scores({"n_utterances": 24})
    assert score.dataset == "a test set of 24 utterances, not the published one"
    assert score.dataset_type == "other"


def test_only_results_of_the_model_count(tmp_path, student):
    folder = tmp_path / "evaluations"
    write(folder, {"value": 50.0})
    with pytest.raises(UserError, match="no result is of .*tiny"):
        read_card_scores([folder], student)
    encoder_hash = load_upstream(student).checkpoint_hash
    write(folder, {"value": 50.0}, {"value": 70.0, "checkpoint_hash": encoder_hash})
    exported = export(load_student(student), "s3prl", tmp_path / "distiller.ckpt")
    for checkpoint in (student, exported):
        (score,) = read_card_scores([folder], checkpoint)
        assert score.value == 70.0
