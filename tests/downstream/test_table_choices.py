"""What the numbers of a table follow is chosen or asked for, and said; intervals are of their outcomes."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest

from distill.cli import main
from distill.downstream.paper import size_of_test
from distill.downstream.results import parse_result, read_results
from distill.downstream.tables import build_tables, make_tables
from distill.errors import UserError
from tests.downstream.made_results import KS, cell, tables, values, write

# --------------------------------------------------------------------------------- protocol and variant


def build(*changes: dict, **choice):
    found = build_tables([parse_result(values(**change)) for change in changes], **choice)
    return {(table.task, table.metric, table.lm): table for table in found}


@pytest.mark.parametrize(
    ("name", "first", "second"),
    [("protocol", "paper", "s3prl"), ("variant", "authors", "paper")],
)
@pytest.mark.parametrize("other", [{"seed": 1}, {"condition": "fsd"}, {"recipe": "s1"}, {}])
def test_what_numbers_follow_must_be_chosen(name, first, second, other):
    """Not only in one cell: neither in a row nor beside each other in a table."""
    results = {name: first, "condition": "dns"}, {name: second, "condition": "dns", "value": 70.0} | other
    with pytest.raises(UserError) as error:
        build(*results)
    assert str(error.value) == (
        f"ks: there are results of {name} {first} and {second}, which are not averaged: choose with "
        f"--{name} {first} or --{name} {second}, or name the folders of one of them only"
    )
    table = build(*results, **{name: first})[KS]
    assert cell(table, "S4", "dns").ours() == "90.00"
    assert f"{name} {first}" in table.notes[0] and f"{name} {second}" not in table.notes[0]
    with pytest.raises(
        UserError, match=f"no result is of {name} fairseq; there are those of {first}, {second}"
    ):
        build(*results, **{name: "fairseq"})


def test_each_table_has_its_own_protocol():
    found = build({"protocol": "s3prl"}, {"task": "ic", "n_utterances": 3793})
    assert found[KS].notes[0] == "Heads: 200,000 steps; protocol s3prl"
    assert found["ic", "accuracy", False].notes[0] == "Heads: 200,000 steps; protocol paper"


@pytest.mark.parametrize(("protocol", "size"), [("s3prl", 32), ("paper", 4)])
def test_a_protocols_own_settings_need_no_note(protocol, size):
    """s3prl's ER adds up gradients to batches of 32."""
    about = {"task": "er", "fold": 1, "n_utterances": 1085, "protocol": protocol}
    found = build(about | {"settings": {"batch_size": size}})["er", "accuracy", False].notes
    assert not any("not the task's own settings" in note for note in found)
    found = build(about | {"settings": {"batch_size": 36 - size}})["er", "accuracy", False].notes
    assert f"S4: not the task's own settings: batch_size {36 - size}, not {size}" in found


def test_speech_that_is_not_distorted_has_no_variant():
    distorted = {"condition": "fsd", "variant": "authors"}
    recorded = {"task": "asr", "metric": "wer", "condition": "chime3", "n_utterances": 1320}
    found = build(
        {}, distorted, recorded, recorded | {"condition": "dns", "variant": "authors", "value": 9.0}
    )
    assert cell(found[KS], "S4", "clean").ours() == cell(found[KS], "S4", "fsd").ours() == "90.00"
    assert found[KS].notes[0].endswith("; protocol paper; distortions: variant authors")
    chosen = build({}, distorted, {"condition": "fsd", "value": 70.0}, variant="authors")[KS]
    assert (cell(chosen, "S4", "clean").mean, cell(chosen, "S4", "fsd").mean) == (90.0, 90.0)


@pytest.mark.parametrize("verb", ["table", "report"])
def test_the_command_line_asks(tmp_path, capsys, verb):
    write(tmp_path, {"protocol": "s3prl"}, {"seed": 1})
    words = [verb, str(tmp_path), *(["--out", str(tmp_path / "r.html")] if verb == "report" else [])]
    assert main(words) == 1
    assert "choose with --protocol paper or --protocol s3prl" in capsys.readouterr().err
    assert main([*words, "--protocol", "s3prl"]) == 0
    assert main([*words, "--protocol", "s3prl", "--variant", "paper"]) == 0


def test_all_that_must_be_chosen_is_said_at_once():
    results = [{"condition": "fsd"}, {"condition": "fsd", "protocol": "s3prl", "variant": "authors"}]
    with pytest.raises(UserError) as error:
        build({}, *results)
    assert str(error.value) == (
        "ks: there are results of protocol paper and s3prl, and of variant authors and paper, which are not "
        "averaged: choose with --protocol paper or --protocol s3prl, and --variant authors or --variant "
        "paper, or name the folders of one of them only"
    )
    alone = {"protocol": "s3prl", "task": "ic"}
    noisy = {"condition": "fsd", "task": "ic", "protocol": "s3prl"}
    with pytest.raises(UserError, match="^ks: .* protocol paper and s3prl; ic: .* variant authors and paper"):
        build({}, {"protocol": "s3prl"}, alone, noisy, noisy | {"variant": "authors"})


# ------------------------------------------------------------------------------- teachers, rows by name


@pytest.mark.parametrize(("recipe", "row"), [("t1_prime", "T1'"), (None, "T1")])
def test_a_teachers_weighted_sum_stands_beside_the_papers_number(recipe, row):
    """The paper's numbers of teachers are most probably SUPERB's."""
    teacher = {"recipe": recipe, "row": None if recipe else "t1"}
    last = tables(teacher)[KS]
    paper = cell(last, row, "clean").paper
    assert paper and cell(last, row, "clean").ours() == "90.00"
    assert any(
        "on the last layer; the paper's are most probably on the weighted sum" in n for n in last.notes
    )
    weighted = teacher | {"features": "weighted_sum", "value": 95.0}
    both = tables(teacher, weighted)[KS]
    assert cell(both, f"{row} (weighted_sum)", "clean").ours() == "95.00"
    assert cell(both, f"{row} (weighted_sum)", "clean").paper == paper
    assert (cell(both, row, "clean").ours(), cell(both, row, "clean").paper) == ("90.00", "")
    labels = [line.label for line in both.rows]
    assert labels.index(row) == labels.index(f"{row} (weighted_sum)") + 1
    said = f"{row} (weighted_sum): heads on the weighted sum of all layers, as the paper's most probably are"
    assert said in both.notes
    alone = tables(weighted)[KS]
    assert row not in [line.label for line in alone.rows]
    assert cell(alone, f"{row} (weighted_sum)", "clean").paper == paper
    assert [line.adapted for line in both.rows if line.label.startswith(row)] != ["", ""]


def test_a_students_weighted_sum_does_not():
    table = tables({"features": "weighted_sum"})[KS]
    assert cell(table, "S4 (weighted_sum)", "clean").paper == ""
    assert cell(table, "S4", "clean").paper == "96.27"


@pytest.mark.parametrize("row", ["S1", "s1", "S1'", "s1_prime"])
def test_a_published_checkpoint_in_a_row_by_name(row):
    table = tables({"recipe": None, "row": row, "model": "distilhubert.pt"})[KS]
    label = "S1'" if row.endswith(("'", "prime")) else "S1"
    assert cell(table, label, "clean").ours() == "90.00"
    assert cell(table, label, "clean").paper
    assert f"{label}: put into this row by its name (row=...): distilhubert.pt" in table.notes


# -------------------------------------------------------------------------------------- learning rates


def heads(*rates: tuple[float, float, float], **about) -> list[dict]:
    """Results of (lr, dev, value)."""
    return [about | {"settings": {"lr": lr}, "dev": dev, "value": value} for lr, dev, value in rates]


def test_the_learning_rate_is_chosen_on_dev_and_said():
    table = tables(*heads((1e-3, 93.0, 95.0), (1e-4, 94.0, 91.0), (1e-2, 80.0, 99.0)))[KS]
    assert cell(table, "S4", "clean").ours() == "91.00"
    assert "S4: lr 0.0001, chosen on dev (94.00; 0.001: 93.00, 0.01: 80.00)" in table.notes
    assert not any("measured more than once" in note for note in table.notes)


def test_of_error_rates_the_lowest():
    about = {"task": "asr", "metric": "wer", "n_utterances": 2620}
    table = tables(*heads((1e-3, 20.0, 21.0), (1e-4, 0.0, 22.0), **about))["asr", "wer", False]
    assert cell(table, "S4", "clean").ours() == "22.00"


def test_all_conditions_seeds_and_folds_of_a_row_have_one_rate():
    """The mean over heads decides; a condition that the chosen one lacks stays empty."""
    results = [
        *heads((1e-3, 90.0, 70.0), (1e-4, 80.0, 60.0), seed=0),
        *heads((1e-3, 70.0, 71.0), (1e-4, 81.0, 61.0), seed=1),
        *heads((1e-3, 90.0, 50.0), seed=0, condition="dns"),
        *heads((1e-4, 10.0, 55.0), seed=0, recipe="s1"),
    ]
    table = tables(*results)[KS]
    assert cell(table, "S4", "clean").ours() == "60.50 (1.00, n=2)"
    assert cell(table, "S4", "dns").ours() == ""
    assert cell(table, "S1", "clean").ours() == "55.00"


def test_rates_are_compared_on_the_heads_that_all_have():
    results = [
        *heads((1e-3, 90.0, 70.0), (1e-4, 80.0, 60.0), seed=0),
        *heads((1e-3, 10.0, 71.0), seed=1),
    ]
    table = tables(*results)[KS]
    assert cell(table, "S4", "clean").ours() == "70.50 (1.00, n=2)"
    note = "S4: lr 0.001, chosen on dev (90.00; 0.0001: 80.00), compared on the seeds and folds of all (1)"
    assert note in table.notes


def test_a_seed_without_the_chosen_rate_is_named():
    both, slow = heads((1e-3, 90.0, 70.0), (1e-4, 80.0, 60.0)), heads((1e-4, 99.0, 99.0), seed=1)
    table = tables(*both, *slow)[KS]
    assert cell(table, "S4", "clean").ours() == "70.00"
    (note,) = [note for note in table.notes if "chosen on dev" in note]
    assert note.endswith("of all (1); seed 1 has no head of it and is left out")


def test_without_scores_on_dev_no_rate_is_chosen():
    results = heads((1e-3, 90.0, 70.0), (1e-4, 80.0, 60.0))
    del results[0]["dev"]
    with pytest.raises(UserError) as error:
        tables(*results)
    assert str(error.value).startswith("S4: there are results of lr 0.0001, 0.001 without their score on dev")
    apart = tables(results[0], results[1] | {"seed": 1})[KS]  # of earlier versions
    assert "S4, clean: results of different lr are averaged" in apart.notes


# ------------------------------------------------------------------------------- rows beside each other


@pytest.mark.parametrize(
    ("setting", "what"),
    [("test set", "speech"), ("test audio", "speech"), ("noise", "noise"), ("noise audio", "noise")],
)
def test_rows_that_were_tested_on_different_things_are_named(setting, what):
    """A corpus that was prepared anew between two evaluations, say."""
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


# ------------------------------------------------------------------------------------------- intervals


def keep(folder: Path, change: dict, errors, counts=None) -> None:
    """A result with the outcomes of its utterances."""
    (folder / "results").mkdir(parents=True, exist_ok=True)
    counts = np.ones(len(errors)) if counts is None else counts
    number = len(list(folder.glob("results/*.json")))
    rate = 100 * np.sum(errors) / np.sum(counts)
    about = {"value": rate if change.get("metric") == "wer" else 100 - rate, "predictions": f"{number}.tsv"}
    (folder / "results" / f"{number}.json").write_text(json.dumps(values(**(about | change))))
    rows = [f"u{n}\t{e:g}\t{c:g}" for n, (e, c) in enumerate(zip(errors, counts, strict=True))]
    (folder / f"{number}.tsv").write_text("\n".join(["id\terrors\tcount", *rows]) + "\n")


def test_an_interval_stands_in_every_format(tmp_path):
    keep(tmp_path, {}, [1] * 300 + [0] * 2700)
    (table,) = [t for t in build_tables(read_results([tmp_path])) if t.task == "ks"]
    low, high = cell(table, "S4", "clean").interval
    half = 196 * (0.1 * 0.9 / 3000) ** 0.5
    assert (low, high) == pytest.approx((90 - half, 90 + half), abs=0.1)
    assert not any("confidence" in note for note in table.notes)
    text = f"90.00 [{low:.2f}, {high:.2f}]"
    assert f"| {text} | 96.27 |" in make_tables([tmp_path])
    assert f"& 90.00 {{[}}{low:.2f}, {high:.2f}{{]}} & 96.27 &" in make_tables([tmp_path], "latex")
    (line,) = csv.DictReader(io.StringIO(make_tables([tmp_path], "csv", measured=True)))
    assert (line["clean low"], line["clean high"]) == (f"{low:.4f}", f"{high:.4f}")


def test_an_interval_of_several_seeds_and_of_error_rates(tmp_path):
    wer = {"task": "asr", "metric": "wer"}
    for seed in range(2):
        keep(tmp_path, wer | {"seed": seed}, [0, 3, 1, 0] * 50, [5, 9, 20, 1] * 50)
    (table,) = [t for t in build_tables(read_results([tmp_path])) if t.task == "asr" and not t.lm]
    found = cell(table, "S4", "clean")
    assert found.mean == pytest.approx(100 * 4 / 35)
    assert found.interval[0] < found.mean < found.interval[1] < found.mean + 3


def test_folds_are_drawn_within(tmp_path):
    for fold in range(1, 6):
        size = size_of_test("er", "clean", fold)
        keep(tmp_path, {"task": "er", "fold": fold}, [1] * (size // fold) + [0] * (size - size // fold))
    (table,) = [t for t in build_tables(read_results([tmp_path])) if t.task == "er"]
    found = cell(table, "S4", "clean")
    assert found.interval[1] - found.interval[0] == pytest.approx(2 * 1.2, rel=0.2)
    assert found.interval[0] < found.mean < found.interval[1]


def test_missing_outcomes_are_said_once(tmp_path):
    keep(tmp_path, {}, [1, 0, 0])
    write(tmp_path, *({"condition": c, "seed": s, "value": 1.0} for c in ("dns", "fsd") for s in (7, 8)))
    (tmp_path / "0.tsv").write_text("id\terrors\tcount\n")
    notes = [n for t in build_tables(read_results([tmp_path])) for n in t.notes if "confidence" in n]
    assert notes == ["No confidence interval where the outcomes of utterances were not kept: 2 of 2 cells"]


@pytest.mark.parametrize("place", ["../outside.tsv", "/etc/hostname", "results", "no\0name", "gone.tsv"])
def test_outcomes_are_read_from_the_results_own_folder(tmp_path, place):
    run = tmp_path / "run"
    keep(run, {"predictions": place}, [1, 0])
    (tmp_path / "outside.tsv").write_text((run / "0.tsv").read_text())
    (result,) = read_results([run])
    assert result.predictions is None


def test_outcomes_of_another_score_give_no_interval(tmp_path):
    keep(tmp_path, {"value": 51.0}, [1, 0])
    keep(tmp_path, {"seed": 1, "condition": "dns"}, [1, 0, 1])
    keep(tmp_path, {"seed": 2, "condition": "dns"}, [1, 0])
    (table,) = [t for t in build_tables(read_results([tmp_path])) if t.task == "ks"]
    assert (
        "S4, clean: no confidence interval: the outcomes in 0.tsv do not give the score 51.00" in table.notes
    )
    assert "S4, dns: no confidence interval: seeds were tested on different utterances" in table.notes
    assert cell(table, "S4", "clean").interval is cell(table, "S4", "dns").interval is None
