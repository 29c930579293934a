"""What the numbers of a table follow is chosen or asked for, and said; intervals are of their outcomes."""

import pytest

from distill.cli import main
from distill.downstream.results import parse_result
from distill.downstream.tables import build_tables
from distill.errors import UserError
from tests.downstream.made_results import KS, cell, tables, values, write


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
