"""Every number of ours in its place beside the paper's; nothing averaged that should not be."""

import csv
import io
import json
import logging
import math
import re
from pathlib import Path

import pytest

from distill.data_prep.iemocap import IEMOCAP
from distill.downstream.labels import ClassLabels, TokenLabels
from distill.downstream.paper import TEST_UTTERANCES, paper_numbers, size_of_test
from distill.downstream.results import parse_result, read_results
from distill.downstream.table_notes import _OWN_WIDTH
from distill.downstream.table_rows import row_name
from distill.downstream.table_types import only_measured
from distill.downstream.tables import build_tables, make_tables
from distill.downstream.tasks import TASKS
from distill.errors import UserError
from tests.downstream.made_results import KS, SESSIONS, cell, said, tables, values, write

# ------------------------------------------------------------------------------------------ the paper's


@pytest.mark.parametrize(
    ("task", "lm", "row", "condition", "printed"),  # read off the printed tables
    [
        ("ks", False, "T1", "clean", "96.30"),
        ("ic", False, "S1", "dns", "48.30"),
        ("er", False, "S8'", "2-dist", "62.88"),
        ("asr", False, "S4'", "clean", "13.7"),
        ("asr", False, "S6", "test-other", "37.37"),
        ("asr", True, "S7", "chime3", "43.44"),
        ("asr", True, "S5'", "2-dist", "12.70"),
    ],
)
def test_the_papers_numbers(task, lm, row, condition, printed):
    assert paper_numbers(task, lm=lm)[row][condition] == printed


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


# ------------------------------------------------------------------------------------------------ cells


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


def test_the_latest_of_two_measurements_counts_and_is_noted():
    new = {"value": 91.0, "finished": "2026-02-01T00:00:00"}
    table = tables(new, {"value": 90.0})[KS]
    assert cell(table, "S4", "clean").ours() == "91.00"
    assert "S4, clean: seed 0 was measured more than once, the latest counts" in table.notes


def test_different_heads_and_test_sets_are_noted():
    table = tables({}, {"seed": 1, "head_steps": 100, "n_utterances": 30})[KS]
    assert said(table) == (
        "Heads: 100, 200,000 steps, the paper's 200,000",
        "S4: not the paper's test set: 30 utterances, not 3,081, in clean for one",
        "S4, clean: heads of 100 to 200,000 steps are averaged",
        "S4, clean: seeds were tested on different numbers of utterances",
    )


@pytest.mark.parametrize(
    ("about", "note"),
    [
        (
            {"task": "er", "fold": 2, "n_utterances": 1085},
            "the paper's test set: 1,085 utterances, not 1,023",
        ),
        (
            {"task": "pr", "metric": "per", "n_utterances": 2600},
            "the corpus's test set: 2,600 utterances, not 2,620",
        ),
        (
            {"task": "slurp_action", "n_utterances": 6539},
            "the corpus's test set: 6,539 utterances, not 13,078",
        ),
        ({"task": "slurp_scenario", "n_utterances": 9}, "the corpus's test set: 9 utterances, not 13,078"),
        ({"task": "asr", "metric": "wer", "n_utterances": 2620, "condition": "test-other"}, "not 2,939"),
    ],
)
def test_every_task_knows_the_size_of_its_test_set(about, note):
    key = about["task"], about.get("metric", "accuracy"), False
    assert any(note in line for line in tables(about)[key].notes)
    condition, fold = about.get("condition", "clean"), about.get("fold")
    right = about | {"n_utterances": size_of_test(about["task"], condition, fold)}
    assert not any("test set" in line for line in tables(right)[key].notes)


def test_every_task_has_a_known_test_set():
    assert TEST_UTTERANCES.keys() == TASKS.keys()
    assert sum(TEST_UTTERANCES["er"].values()) == 5531
    assert [size_of_test("er", "fsd", fold) for fold in range(1, 6)] == [
        split.files for split in IEMOCAP.splits
    ]


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


# --------------------------------------------------------------------------------------------- reading


def test_results_are_found_below_runs_and_sweeps_once(tmp_path):
    write(tmp_path / "sweep" / "s4-1a2b" / "ks-last-seed0", {})
    assert len(read_results([tmp_path / "sweep", tmp_path / "sweep" / "s4-1a2b"])) == 1
    assert len(read_results([tmp_path / "sweep/s4-1a2b/ks-last-seed0/results"])) == 1


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ('{"task": "ks"', "Expecting"),
        ("[1, 2]", "holds a list, expected a JSON object"),
        ('{"loss": 1}', "no 'task'"),
        (json.dumps(values(value="high")), "value is 'high'"),
        (json.dumps(values(value=math.nan)), "value is nan"),
        (json.dumps(values(value=True)), "value is True"),
        (json.dumps(values(lm=1)), "lm is 1"),
        (json.dumps(values(seed=None)), "seed is None"),
        (json.dumps(values(metric="bleu")), "metric is 'bleu'"),
        ("\udcff", "codec"),
    ],
)
def test_damaged_and_foreign_files_are_named_and_left_out(tmp_path, caplog, content, reason):
    write(tmp_path, {})
    bad = tmp_path / "results" / "bad.json"
    bad.write_bytes(content.encode("utf-8", "surrogateescape"))
    with caplog.at_level(logging.WARNING):
        assert len(read_results([tmp_path])) == 1
    assert str(bad) in caplog.text
    assert reason in caplog.text


def test_a_missing_folder_and_one_without_results(tmp_path):
    with pytest.raises(UserError, match="nowhere is not a folder"):
        make_tables([tmp_path / "nowhere"])
    with pytest.raises(UserError, match="no results in"):
        make_tables([tmp_path])
    with pytest.raises(ValueError, match="markdown, csv, latex"):
        make_tables([], "html")


# --------------------------------------------------------------------------------------------- writing


@pytest.fixture
def folder(tmp_path) -> Path:
    return write(
        tmp_path,
        {"value": 93.0},
        {"value": 93.5, "seed": 1},
        {"recipe": "a|b_c & 50%", "value": 12.3456, "condition": "dns"},
        {"task": "pr", "metric": "per", "value": 20.0},
    )


def test_markdown_has_ours_beside_the_papers(folder):
    text = make_tables([folder])
    row = next(line for line in text.splitlines() if line.startswith("| S4 |"))
    assert row.startswith(
        "| S4 | DistilHuBERT (Tr2) setup2 | no | 23M | 93.25 (0.50, n=2) | 96.27 |  | 92.99 |"
    )
    assert "### Table 2, ASR with language model: word error rate in %, lower is better" in text
    block: list[str] = []
    for line in [*text.splitlines(), ""]:  # every line of a table has as many cells as its head
        if line.startswith("|"):
            block.append(line)
        elif block:
            assert len({len(re.findall(r"(?<!\\)\|", row)) for row in block}) == 1
            block = []
    assert r"a\|b_c & 50%" in text


def test_only_what_is_measured(folder):
    text = make_tables([folder], measured=True)
    assert "| S4 | DistilHuBERT (Tr2) setup2 | no | 23M | 93.25 (0.50, n=2) | 96.27 |" in text
    assert "| S3 |" not in text and "| T1 |" not in text
    tables = build_tables(read_results([folder]))
    kept = only_measured(tables)
    assert kept and all(any(c.mean is not None for c in row.cells) for table in kept for row in table.rows)
    measured = sum(cell.mean is not None for table in tables for row in table.rows for cell in row.cells)
    assert measured == sum(cell.mean is not None for t in kept for row in t.rows for cell in row.cells)


def test_csv_is_one_table(folder):
    lines = list(csv.DictReader(io.StringIO(make_tables([folder], "csv"))))
    assert len(lines) == 18 * 5 + 1 + 1  # the paper's, one recipe more in ks, and pr
    s4 = next(line for line in lines if (line["task"], line["row"]) == ("ks", "S4"))
    assert (s4["clean"], s4["clean spread"], s4["clean seeds"]) == ("93.2500", "0.5000", "2")
    assert (s4["clean paper"], s4["dns"], s4["dns paper"]) == ("96.27", "", "77.47")
    assert (s4["chime3 paper"], s4["parameters"]) == ("", "23M")


FORMULAS = [
    "=1+1",
    "+cmd|'/c calc'!A0",
    "-2+3",
    "@SUM(A1)",
    "\t=1",
    "\r=1",
    "\uff1d1+1",
    '="a"',
    "-",
    "-1.5",
    "+3",
    "a=1",
]


@pytest.mark.parametrize("name", FORMULAS)
def test_no_cell_of_csv_is_a_formula(tmp_path, name):
    write(tmp_path, {"recipe": name, "condition": name}, {"recipe": None, "model": name, "seed": 1})
    rows = list(csv.reader(io.StringIO(make_tables([tmp_path], "csv", measured=True))))
    cells = [cell for row in rows for cell in row]
    if name in ("-", "-1.5", "+3", "a=1"):
        assert name in cells
    else:
        shown = "".join(c if c.isprintable() else " " for c in name)
        assert ("'" + shown if name.isprintable() else shown) in cells
        assert not any(cell.startswith(tuple("=+@\t\r\uff1d")) or cell == name for cell in cells)
    assert {len(row) for row in rows} == {len(rows[0])}


def test_latex_has_even_rows_and_escapes(folder):
    text = make_tables([folder], "latex")
    assert text.count(r"\begin{tabular}") == text.count(r"\end{table}") == 6
    assert r"a\textbar{}b\_c \& 50\%" in text
    assert r"S4 & DistilHuBERT (Tr2) setup2 & no & 23M & 93.25 (0.50, n=2) & 96.27 &  & 92.99" in text
    for part in re.findall(r"\\begin\{tabular\}\{(.*?)\}\n(.*?)\\end\{tabular\}", text, re.DOTALL):
        columns, body = part
        for line in body.splitlines():
            if line.endswith(r"\\"):
                wide = sum(int(n) - 1 for n in re.findall(r"multicolumn\{(\d)\}", line))
                assert len(re.findall(r"(?<!\\)&", line)) + wide + 1 == len(columns)


HOSTILE = '\\input{x}\n\\write18{id}\r%~^<>|"`$#_{}[1cm]*--\u2028\x0c'
PRINTED = (
    r"\textbackslash{}input\{x\} \textbackslash{}write18\{id\} \%\textasciitilde{}\textasciicircum{}"
    r"\textless{}\textgreater{}\textbar{}\textquotedblright{}\`{}\$\#\_\{\}{[}1cm{]}{*}-{}-"
)


@pytest.mark.parametrize("field", ["recipe", "model", "condition", "features", "task"])
def test_no_name_becomes_a_command_of_latex(tmp_path, field):
    """Names are strangers': what they hold is printed, on one line, also in the notes below a table."""
    hostile = {"recipe": None} if field == "model" else {}
    write(tmp_path, hostile | {field: HOSTILE, "n_utterances": 5}, {"seed": 1, field: HOSTILE} | hostile)
    text = make_tables([tmp_path], "latex")
    assert PRINTED in text
    assert not re.search(r"^\s*\\(input|write18)|[^%]*[\r\u2028\x0c]", text)
    for line in text.splitlines():
        bare = re.sub(r"(?<!\\)%.*", "", line)  # a comment is no command
        assert not re.search(r"\\(input|write18)", bare)
    assert not re.search(r"\\\\\n(\[|\*)", text)


def test_a_row_cannot_be_the_argument_of_the_line_above(tmp_path):
    write(tmp_path, {"recipe": "[99cm]x"}, {"recipe": "*y"})
    text = make_tables([tmp_path], "latex", measured=True)
    assert "\n{[}99cm{]}x &" in text and "\n{*}y &" in text


def test_no_name_leaves_its_cell_in_markdown(tmp_path):
    write(tmp_path, {"recipe": "a\\|b\n| c <img src=x> |", "task": "pr", "metric": "per"})
    row = next(line for line in make_tables([tmp_path], measured=True).splitlines() if "img" in line)
    assert row.startswith(r"| a\\\|b \| c \<img src=x> \| | runs/s4 |")
