"""Tables as Markdown, CSV and LaTeX, whatever names are in them."""

import csv
import io
import re
from pathlib import Path

import pytest

from distill.downstream.results import read_results
from distill.downstream.table_types import only_measured
from distill.downstream.tables import build_tables, make_tables
from tests.downstream.made_results import write


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
