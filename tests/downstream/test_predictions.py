"""Predictions on disk: our table and the files of s3prl's experts."""

import csv
import json
from pathlib import Path

import pytest

from distill.downstream.bootstrap import error_rate, read_outcomes
from distill.downstream.evaluate import evaluate
from distill.downstream.labels import Outcome
from distill.downstream.predictions import escaped, write_predictions, write_submission
from distill.downstream.results import read_results

ODD = "a\tb\nc\r\\n\0d\u2028e"


def read(path: Path) -> dict:
    return json.loads(path.read_text())


def rows_of(path: Path) -> list[dict[str, str]]:
    head, *lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    return [dict(zip(head.split("\t"), line.split("\t"), strict=True)) for line in lines]


@pytest.mark.parametrize("task", ["ks", "ic", "er", "asr", "pr"])
def test_the_table_makes_the_score(quick, student, tmp_path, task):
    options = {"conditions": ["clean", "2-dist"], "steps": 1, "every_n_steps": 1}
    options |= {"folds": [2]} if task == "er" else {}
    for path in evaluate(student, quick(task, **options), tmp_path):
        result = read(path)
        assert result["predictions"] == f"predictions/{path.stem}.tsv"
        rows = rows_of(tmp_path / result["predictions"])
        assert len(rows) == result["n_utterances"] == len({row["id"] for row in rows})
        assert [row["id"] for row in rows] == sorted(row["id"] for row in rows)
        error = error_rate(read_outcomes(tmp_path / result["predictions"]))
        value = 100 - error if result["metric"] == "accuracy" else error
        assert value == pytest.approx(result["value"])
        for row in rows:
            if result["metric"] == "accuracy":
                assert (row["errors"], row["count"]) == (str(int(row["truth"] != row["prediction"])), "1")
            else:
                assert int(row["count"]) == len(row["truth"].split())
    found = read_results([tmp_path])
    assert all(result.predictions and Path(result.predictions).is_file() for result in found)


@pytest.mark.parametrize(
    ("task", "hypotheses", "truths"),
    [
        ("ks", "test_predict.txt", "test_truth.txt"),
        ("ic", "test_predict.csv", "test_truth.csv"),
        ("er", "test_fold2_predict.txt", "test_fold2_truth.txt"),
        ("asr", "test-clean-noLM-hyp.ark", "test-clean-noLM-ref.ark"),
        ("pr", "test-hyp.ark", "test-ref.ark"),
        ("slurp_action", None, None),
    ],
)
def test_the_files_of_s3prl(quick, student, tmp_path, task, hypotheses, truths):
    options = {"conditions": ["clean"], "steps": 1, "every_n_steps": 1}
    options |= {"folds": [2]} if task == "er" else {}
    (path,) = evaluate(student, quick(task, **options), tmp_path)
    folder = tmp_path / "submit" / path.stem
    assert {file.name for file in folder.glob("*")} == {hypotheses, truths} - {None}
    if hypotheses is None:
        return
    rows = {row["id"]: row for row in rows_of(tmp_path / "predictions" / f"{path.stem}.tsv")}
    for name, column in ((hypotheses, "prediction"), (truths, "truth")):
        lines = (folder / name).read_text(encoding="utf-8").removesuffix("\n").split("\n")
        if task == "ic":
            assert {cells[0]: "|".join(cells[1:]) for cells in csv.reader(lines)} == {
                key: row[column] for key, row in rows.items()
            }
            continue
        said = dict(line.split(" ", 1) for line in lines)
        names = {f"{key.replace('/', '-')}.wav" if task == "ks" else key: key for key in rows}
        assert said == {theirs: rows[key][column] for theirs, key in names.items()}


def test_asrs_files_are_named_after_the_test_set_and_the_decoder(tmp_path):
    for condition, lm, name in (
        ("test-other", False, "test-other-noLM-hyp.ark"),
        ("2-dist", True, "test-clean-LM-hyp.ark"),
    ):
        written = write_submission(
            tmp_path / condition, "asr", condition, None, {"u": Outcome(1, 1, "YES", "")}, lm=lm
        )
        assert [file.name for file in written] == [name, name.replace("hyp", "ref")]
        assert [file.read_text() for file in written] == ["u \n", "u YES\n"]


def test_no_text_breaks_a_line_or_makes_a_cell(tmp_path):
    outcome = Outcome(1.0, 2.0, "", ODD)
    place = write_predictions(tmp_path, "x", {ODD: outcome, '"b': outcome})
    rows = rows_of(tmp_path / place)
    assert [row["id"] for row in rows] == ['"b', r"a\tb\nc\r\\n\0d" + "\u2028e"]
    assert rows[0] == {"id": '"b', "truth": "", "prediction": escaped(ODD), "errors": "1", "count": "2"}
    assert set(read_outcomes(tmp_path / place)) == {'"b', escaped(ODD)}
    for task in ("ks", "er", "asr", "pr"):
        (hyp, _) = write_submission(tmp_path / task, task, "clean", 1, {ODD: outcome}, lm=False)
        assert hyp.read_text(encoding="utf-8").count("\n") == 1
