"""Notes below a table: what is not as in the paper, or differs between rows."""

import pytest

from distill.config import load
from distill.config.method import method_of
from distill.downstream.labels import ClassLabels, TokenLabels
from distill.downstream.table_notes import _OWN_WIDTH
from tests.downstream.made_results import KS, SESSIONS, said, tables


def test_different_heads_and_test_sets_are_noted():
    table = tables({}, {"seed": 1, "head_steps": 100, "n_utterances": 30})[KS]
    assert said(table) == (
        "Heads: 100, 200,000 steps, the paper's 200,000",
        "S4: not the paper's test set: 30 utterances, not 3,081, in clean for one",
        "S4, clean: heads of 100 to 200,000 steps are averaged",
        "S4, clean: seeds were tested on different numbers of utterances",
    )


OWN = {
    "batch_size": 32,
    "lr": 1e-3,
    "every_n_steps": 5_000,
    "width": None,
    "crop_s": 1.0,
    "sources": {},
    "label": None,
    "noises": {},
    "lexicon": None,
}


def test_the_tasks_own_settings_need_no_note():
    table = tables({"settings": OWN}, {"seed": 1, "settings": OWN | {"width": 256}}, {"seed": 2})[KS]
    assert said(table) == ("Heads: 200,000 steps",)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"batch_size": 4, "lr": 1e-4}, "batch_size 4, not 32; lr 0.0001, not 0.001"),
        ({"width": 16, "crop_s": None}, "width 16, not 256; crop_s 0, not 1"),
        ({"crop_s": 2.0}, "crop_s 2, not 1"),
        (
            {"sources": {"test": "my.tsv"}, "noises": {"wham": ["a"], "musan": ["b", "c"]}},
            "other sources for test; other noises for musan, wham",
        ),
        ({"label": "word"}, "label word"),
    ],
)
def test_settings_that_are_not_the_tasks_own_are_noted(changes, text):
    table = tables({"settings": OWN | changes}, {"condition": "dns", "settings": OWN | changes})[KS]
    assert said(table) == ("Heads: 200,000 steps", f"S4: not the task's own settings: {text}")


def test_seeds_of_different_settings_are_noted_where_they_are_averaged():
    other = OWN | {"batch_size": 4, "every_n_steps": 10}
    table = tables(
        {"settings": OWN}, {"seed": 1, "settings": other}, {"condition": "dns", "settings": other}
    )[KS]
    assert said(table) == (
        "Heads: 200,000 steps",
        "S4: not the task's own settings: batch_size 4, not 32; every_n_steps 10, not 5000",
        "S4, clean: results of different batch_size, every_n_steps are averaged",
    )


def test_models_that_were_not_trained_alike_are_noted():
    shipped = method_of(load("s4"))
    assert not any("settings" in note for note in said(tables({"recipe_settings": shipped})[KS]))
    changed = {"recipe_settings": ["cdm=setup1", *shipped[1:]], "checkpoint_hash": "b" * 32, "seed": 1}
    notes = said(tables({"recipe_settings": shipped}, changed)[KS])
    assert "S4: not s4 as it ships: cdm: setup2 -> setup1" in notes
    averaged = "S4, clean: models of recipes with different settings are averaged: cdm=setup1; cdm=setup2"
    assert averaged in notes
    assert averaged not in said(tables({}, changed)[KS])  # an earlier version did not say
    for row in ({"row": "S2"}, {"recipe": "mine"}):
        assert not any("as it ships" in note for note in said(tables(changed | row)[KS]))
    less = load("s4", ['data.train=["${data.root}/librispeech/train-clean-100.jsonl.gz"]'])
    (note,) = [note for note in said(tables({"recipe_settings": method_of(less)})[KS]) if "ships" in note]
    assert note.endswith("data.train: without librispeech/train-clean-360, librispeech/train-other-500")
    hostile = {"recipe_settings": [f"{number}" * 200 for number in range(100)]}
    (note,) = [note for note in said(tables(hostile)[KS]) if "as it ships" in note]
    assert note.endswith("; and 96 more") and len(note) < 1000


def test_silence_that_left_speech_as_it_was_is_noted():
    silent = {"condition": "fsd", "silent": {"noise": 3}}
    table = tables(silent, silent | {"seed": 1, "silent": {"noise": 1, "speech": 1}})["ks", "accuracy", False]
    said = (
        "S4, fsd: of 6,162 utterances 1 with silent speech, 4 with silent noise stayed without noise or room"
    )
    assert said in table.notes
    assert not any("silent" in note for note in tables({"condition": "fsd"})["ks", "accuracy", False].notes)


def test_the_same_note_about_several_rows_is_said_once():
    rows = [
        {"recipe": recipe, "seed": seed, "condition": condition, "settings": OWN | {"lr": lr}}
        for recipe in ("s1", "s4")
        for condition in ("clean", "dns")
        for seed, lr in ((0, 1e-3), (1, 1e-2))
    ]
    assert said(tables(*rows)[KS]) == (
        "Heads: 200,000 steps",
        "S1, S4: not the task's own settings: lr 0.01, not 0.001",
        "S1, clean, dns; S4, clean, dns: results of different lr are averaged",
    )


def test_folds_have_test_sets_of_their_own_and_seeds_do_not():
    folds = [
        {"task": "er", "fold": fold, "seed": seed, "head_steps": 30_000, "n_utterances": SESSIONS[fold - 1]}
        | {"settings": {"test set": f"{fold}{seed if fold == 5 else ''}"}}
        for fold in range(1, 6)
        for seed in (0, 1)
    ]
    notes = said(tables(*folds)["er", "accuracy", False])
    assert notes == ("Heads: 30,000 steps", "S4, clean: results of different test set are averaged")
    assert len(said(tables(*folds[:-1:2])["er", "accuracy", False])) == 1


def test_the_width_of_a_head_that_none_stands_for():
    assert ClassLabels((("a",),), "label").head(24, None).projector.out_features == _OWN_WIDTH["classes"]
    for kind in ("characters", "phones"):
        assert TokenLabels(("a",), kind).head(24, None).projector.out_features == _OWN_WIDTH[kind]


@pytest.mark.parametrize(
    ("setting", "what"),
    [("test set", "speech"), ("test audio", "speech"), ("noise", "noise"), ("noise audio", "noise")],
)
def test_rows_that_were_tested_on_different_things_are_named(setting, what):
    """A corpus that was prepared again between two evaluations, say."""
    one, other = ({"condition": "fsd", "settings": {setting: {"fsd": value}}} for value in "ab")
    clean = {"settings": {setting: {}}}
    s1 = [{"recipe": "s1"} | row for row in (clean, one)]
    table = tables(*s1, clean, other)[KS]
    assert f"S4, fsd: tested on other {what} than S1: not comparable" in table.notes
    assert not any("comparable" in note for note in tables(*s1, clean, one)[KS].notes)
    assert not any("comparable" in note for note in tables(*s1, {"condition": "fsd"})[KS].notes)
    folds = [
        {"task": "er", "recipe": recipe, "fold": fold, "settings": {setting: fold}}
        for recipe in ("s1", "s4")
        for fold in (1, 2)
    ]
    assert not any("comparable" in note for note in tables(*folds)["er", "accuracy", False].notes)


def test_a_model_in_two_rows_is_named():
    """Put there by name in some of its results only."""
    model = {"recipe": None, "model": "published", "checkpoint_hash": "b" * 32}
    found = tables(model | {"row": "S1"}, model | {"condition": "fsd"}, {})[KS].notes
    assert "S1: the same model is in row published, too" in found
    assert "published: the same model is in row S1, too" in found
    assert not any("S4" in note and "the same model" in note for note in found)
    weighted = model | {"row": "T1", "features": "weighted_sum"}
    assert not any("same model" in note for note in tables(weighted, model | {"row": "T1"})[KS].notes)


def test_noise_that_was_heard_in_training_is_no_new_noise():
    conditions = ("clean", "2-dist", "fsd", "dns", "ns", "dns@0", "gone")
    mct = [
        {"condition": name, "recipe": "m", "heard": ["musan", "dns"], "settings": {}} for name in conditions
    ]
    notes = said(tables(*mct, {"condition": "dns", "recipe": "s4"})[KS])
    assert "m, dns, ns, dns@0: trained with dns noise, itself or a teacher of it: not new noise here" in notes
    assert not any("trained with" in note for note in said(tables({"condition": "dns", "heard": []})[KS]))
