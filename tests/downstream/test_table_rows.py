"""Which results make a row, and its name."""

import pytest

from distill.downstream.results import parse_result
from distill.downstream.table_rows import row_name
from distill.downstream.tables import make_tables
from tests.downstream.made_results import KS, cell, said, tables, values, write


@pytest.mark.parametrize(
    ("recipe", "label"),
    [
        ("s4", "S4"),
        ("s4_prime", "S4'"),
        ("t1_prime", "T1'"),
        ("mini", "mini"),
        ("s9", "s9"),
        (None, "runs/s4"),
    ],
)
def test_rows_are_called_as_in_the_paper(recipe, label):
    assert row_name(parse_result(values(recipe=recipe))) == label


def test_a_second_student_with_the_same_seed_gets_a_row_of_its_own():
    table = tables({"value": 90.0}, {"value": 80.0, "checkpoint_hash": "b" * 32, "condition": "dns"})[KS]
    labels = [row.label for row in table.rows if row.label.startswith("S4 ")]
    assert labels == ["S4 (student aaaaaaaa)", "S4 (student bbbbbbbb)"]
    assert "S4" not in [row.label for row in table.rows]
    assert cell(table, "S4 (student aaaaaaaa)", "clean").ours() == "90.00"
    assert cell(table, "S4 (student aaaaaaaa)", "dns").ours() == ""
    assert cell(table, "S4 (student bbbbbbbb)", "dns").paper == "77.47"
    (note,) = [note for note in table.notes if "students" in note]
    assert note.startswith("S4: 2 students have a row each, as several have results of seed 0; ")


def test_a_second_student_changes_only_the_tables_it_is_in():
    """The rows and notes of KS are not those of IC, where one student has results."""
    found = tables({}, {"checkpoint_hash": "b" * 32}, {"task": "ic", "value": 80.0, "n_utterances": 3793})
    other = found["ic", "accuracy", False]
    assert cell(other, "S4", "clean").ours() == "80.00"
    assert said(other) == ("Heads: 200,000 steps",)
    assert any("2 students" in note for note in found[KS].notes)


def test_what_the_note_about_students_advises_makes_one_row(tmp_path):
    """Two folders with a result of seed 0; the second student again, with a seed and folder of its own."""
    second = {"checkpoint_hash": "b" * 32, "value": 80.0}
    write(tmp_path / "s4-aaaa", {})
    write(tmp_path / "s4-bbbb", second)
    write(tmp_path / "again", second | {"seed": 1})
    assert "(student aaaaaaaa)" in make_tables([tmp_path])
    text = make_tables([tmp_path / "s4-aaaa", tmp_path / "again"], measured=True)
    assert "| S4 | DistilHuBERT (Tr2) setup2 | no | 23M | 85.00 (10.00, n=2) | 96.27 |" in text
    assert "student aaaaaaaa" not in text


def test_a_student_per_seed_is_one_row_and_says_so():
    table = tables({"value": 90.0}, {"value": 80.0, "checkpoint_hash": "b" * 32, "seed": 1})[KS]
    assert cell(table, "S4", "clean").ours() == "85.00 (10.00, n=2)"
    assert "S4: every seed is another student (2 in all)" in table.notes


def test_other_features_are_rows_of_their_own_without_the_papers_numbers():
    table = tables({"value": 90.0}, {"value": 95.0, "features": "weighted_sum"})[KS]
    labels = [row.label for row in table.rows]
    assert labels.index("S4 (weighted_sum)") == labels.index("S4") + 1
    assert cell(table, "S4", "clean").ours() == "90.00"
    assert cell(table, "S4 (weighted_sum)", "clean").ours() == "95.00"
    assert cell(table, "S4 (weighted_sum)", "clean").paper == ""
