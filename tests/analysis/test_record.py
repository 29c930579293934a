"""Folders of analyses: continued, refused, read back."""

import csv
import json

import pytest

from distill.analysis.record import Record, find_records, read_record, write_csv
from distill.errors import UserError


def test_a_record_is_continued(tmp_path):
    record = Record(tmp_path / "a", "probe", {"seed": 0}, ["model", "layer"])
    record.add({"model": "s1", "layer": "1", "value": 0.5})
    again = Record(tmp_path / "a", "probe", {"seed": 0}, ["model", "layer"])
    assert {"model": "s1", "layer": "1"} in again and {"model": "s1", "layer": "2"} not in again
    again.add({"model": "s1", "layer": "1", "value": 0.25}, {"model": "s1", "layer": "2", "value": 0.125})
    assert read_record(tmp_path / "a")["rows"] == again.rows == again.find(model="s1")
    assert [row["value"] for row in again.rows] == [0.25, 0.125]
    table = list(csv.DictReader((tmp_path / "a" / "rows.csv").read_text().splitlines()))
    assert table[1] == {"model": "s1", "layer": "2", "value": "0.125"}


def test_another_analysis_is_refused(tmp_path):
    Record(tmp_path, "probe", {"seed": 0}, ["model"]).add({"model": "s1"})
    with pytest.raises(UserError, match="holds probe, not cca"):
        Record(tmp_path, "cca", {"seed": 0}, ["model"])
    with pytest.raises(UserError, match=r"other settings \(seed\)"):
        Record(tmp_path, "probe", {"seed": 1}, ["model"])


@pytest.mark.parametrize("text", ["{", "[]", "{}", json.dumps({"kind": "a", "settings": {}, "rows": 3})])
def test_a_damaged_record_is_refused(tmp_path, text):
    (tmp_path / "analysis.json").write_text(text)
    with pytest.raises(UserError, match="remove it"):
        Record(tmp_path, "probe", {}, ["model"])


def test_records_are_found_once(tmp_path):
    for name in ("a", "b/c"):
        Record(tmp_path / name, "probe", {}, ["model"]).add({"model": "m"})
    assert list(find_records([tmp_path, tmp_path / "b"])) == [tmp_path / "a", tmp_path / "b" / "c"]


def test_tables_have_the_columns_of_all_rows(tmp_path):
    write_csv(tmp_path / "t.csv", [{"a": 1}, {"a": 2, "b": "x,y"}])
    assert (tmp_path / "t.csv").read_text() == 'a,b\n1,\n2,"x,y"\n'


def test_a_row_without_a_column_is_the_files_fault(tmp_path):
    record = Record(tmp_path, "probe", {}, ["model"])
    record.add({"model": "s1", "value": 1})
    (row,) = Record(tmp_path, "probe", {}, ["model"]).rows
    assert row["value"] == 1 and row.get("identity") is None
    with pytest.raises(UserError, match=r"analysis\.json is damaged \(a row has no identity\): remove it"):
        row["identity"]
    with pytest.raises(UserError, match="a row has no layer"):
        Record(tmp_path, "probe", {}, ["model", "layer"])
    record.rows = [{"model": ["s1"]}]
    record.write()
    with pytest.raises(UserError, match="a row is named by a list"):
        Record(tmp_path, "probe", {}, ["model"])


def test_no_cell_of_a_table_is_a_formula(tmp_path):
    """Models are named after folders, and phones by aligners."""
    rows = [
        {"model": "=cmd|'/c calc'!A0", "-x": -3.5, "phone": "-"},
        {"model": "a\rb", "-x": None, "phone": "+"},
    ]
    write_csv(tmp_path / "rows.csv", rows)
    table = list(csv.reader((tmp_path / "rows.csv").read_text().splitlines()))
    assert table == [["model", "'-x", "phone"], ["'=cmd|'/c calc'!A0", "-3.5", "-"], ["a b", "", "'+"]]


def test_a_number_that_is_not_finite_is_not_written(tmp_path):
    record = Record(tmp_path, "probe", {}, ["model"])
    with pytest.raises(UserError, match="value of s1 is nan: are the model's numbers finite"):
        record.add({"model": "s1", "value": float("nan")})
