"""Tables of word error rates as text."""

import csv
import io

import pytest

from distill.cli import main
from distill.downstream.finetuning.tables import make_spiral_tables
from tests.downstream.finetuning.made_results import score, write


def test_formats(tmp_path, capsys):
    folder = write(tmp_path / "run", score(recipe="a|b_c"), score("x"))
    text = make_spiral_tables([folder])
    assert "| SPIRAL BASE | LS-960 |  | a\\|b_c | - | 5.5 | - | 11.1 | 5.00 | 5.4 | - | 11.2 |" in text
    assert "### Other runs" in text
    rows = list(csv.DictReader(io.StringIO(make_spiral_tables([folder], "csv"))))
    (ours,) = [r for r in rows if r["table"].startswith("Table 3") and r["ours"]]
    assert (ours["test_clean"], ours["test_clean seeds"], ours["test_clean paper"]) == ("5.0000", "1", "5.4")
    latex = make_spiral_tables([folder], "latex", measured=True)
    assert r"a\textbar{}b\_c" in latex and "wav2vec" not in latex
    assert latex.count(r"\begin{table}") == latex.count(r"\end{table}") == 5
    assert main(["table", str(folder), "--paper", "spiral", "--measured"]) == 0
    assert "wav2vec" not in capsys.readouterr().out
    with pytest.raises(ValueError, match="format must be one of markdown, csv, latex"):
        make_spiral_tables([folder], "html")
