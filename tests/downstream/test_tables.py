"""Every number of ours in its place beside the paper's; nothing averaged that should not be."""

import pytest

from distill.downstream.tables import build_tables
from tests.downstream.made_results import KS, SESSIONS, cell, said, tables


def test_without_results_the_papers_tables_stand_alone_in_its_order():
    found = {(t.task, t.lm): t for t in build_tables([])}
    assert list(found) == [("ks", False), ("ic", False), ("er", False), ("asr", False), ("asr", True)]
    assert found["ks", False].conditions == ("clean", "2-dist", "fsd", "dns")
    assert found["asr", True].conditions == ("clean", "test-other", "2-dist", "fsd", "dns", "chime3")
    labels = [row.label for row in found["asr", True].rows]
    assert labels[:4] == ["T1", "T1'", "S1", "S1'"]
    assert labels[-2:] == ["S8", "S8'"]
    assert len(labels) == 18
    assert all(c.ours() == "" and c.paper for t in found.values() for row in t.rows for c in row.cells)


def test_mean_and_spread_over_seeds():
    table = tables({"value": 90.0}, {"value": 93.5, "seed": 1}, {"value": 91.0, "seed": 2})[KS]
    found = cell(table, "S4", "clean")
    assert found.mean == pytest.approx(91.5)
    assert found.spread == pytest.approx(3.5)
    assert found.ours() == "91.50 (3.50, n=3)"
    assert found.paper == "96.27"
    assert cell(table, "S4", "dns").ours() == ""
    assert said(table) == ("Heads: 200,000 steps",)


def test_er_is_averaged_over_folds_before_seeds():
    folds = [
        {"task": "er", "fold": fold, "seed": seed, "value": 60.0 + 2 * fold + 10 * seed}
        | {"n_utterances": SESSIONS[fold - 1], "head_steps": 30_000}
        for fold in range(1, 6)
        for seed in (0, 1)
    ]
    table = tables(*folds)["er", "accuracy", False]
    found = cell(table, "S4", "clean")
    assert (found.mean, found.spread, found.n_seeds) == (pytest.approx(71.0), pytest.approx(10.0), 2)
    assert said(table) == ("Heads: 30,000 steps",)
    partial = tables(*folds[:4])["er", "accuracy", False]
    assert "S4, clean: seed 1 has fold 1, 2 of 5 only" in partial.notes


def test_folds_count_rather_than_somebodys_mean_over_them():
    table = tables(
        {"task": "er", "value": 10.0}, *({"task": "er", "fold": fold, "value": 60.0} for fold in range(1, 6))
    )["er", "accuracy", False]
    assert cell(table, "S4", "clean").ours() == "60.00"


def test_the_latest_of_two_measurements_counts_and_is_noted():
    new = {"value": 91.0, "finished": "2026-02-01T00:00:00"}
    table = tables(new, {"value": 90.0})[KS]
    assert cell(table, "S4", "clean").ours() == "91.00"
    assert "S4, clean: seed 0 was measured more than once, the latest counts" in table.notes


def test_asr_with_and_without_language_model_are_kept_apart():
    found = tables(
        {"task": "asr", "metric": "wer", "value": 14.0, "condition": "chime3"},
        {"task": "asr", "metric": "wer", "value": 9.0, "condition": "chime3", "lm": True},
    )
    assert cell(found["asr", "wer", False], "S4", "chime3").ours() == "14.00"
    assert cell(found["asr", "wer", True], "S4", "chime3").ours() == "9.00"
    assert cell(found["asr", "wer", True], "S4", "chime3").paper == "30.80"


def test_what_the_paper_does_not_have_follows():
    found = tables(
        {"task": "pr", "metric": "per", "value": 20.0, "recipe": "mini"},
        {"condition": "reverb", "value": 70.0, "recipe": "zeta"},
        {"value": 71.0, "recipe": "alpha", "model": "a|b"},
    )
    assert list(found)[-1] == ("pr", "per", False)
    assert [row.label for row in found["pr", "per", False].rows] == ["mini"]
    assert found[KS].conditions == ("clean", "2-dist", "fsd", "dns", "reverb")
    assert [row.label for row in found[KS].rows][-3:] == ["S8'", "alpha", "zeta"]
    assert cell(found[KS], "zeta", "reverb").ours() == "70.00"
    assert [row.label for row in found["ic", "accuracy", False].rows][-1] == "S8'"
