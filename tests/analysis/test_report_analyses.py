"""Analyses in a report: figures and rows of files that anybody may have written."""

import json
import math

import numpy as np
import pytest
from matplotlib.image import imsave

from distill.analysis.record import Record
from distill.analysis.report_analyses import (
    MOST_COLUMNS,
    MOST_ROWS,
    cell,
    first_rows,
    png_size,
    read_analyses,
    settings_in_short,
)
from tests.analysis.made_runs import NASTY


@pytest.fixture
def png(tmp_path) -> bytes:
    imsave(tmp_path / "made.png", np.zeros((20, 30, 3)))
    return (tmp_path / "made.png").read_bytes()


def make(folder, rows=({"model": "s1", "value": 0.5},), kind="probe", **settings):
    record = Record(folder, kind, settings, ["model"])
    record.rows = list(rows)
    record.write()
    return folder


def test_an_analysis_is_read_with_its_figures(tmp_path, png):
    for name in ("b", "a"):
        folder = make(tmp_path / "out" / name, seed=3)
        (folder / f"two-{name}.png").write_bytes(png)
        (folder / "one.png").write_bytes(png)
        (folder / "one.pdf").write_bytes(b"%PDF")
    found = read_analyses([tmp_path / "out", tmp_path / "out" / "a"])
    assert list(found) == [tmp_path / "out" / "a", tmp_path / "out" / "b"]
    first = found[tmp_path / "out" / "a"]
    assert (first.label, first.kind, first.settings) == ("a", "probe", "seed 3")
    assert [(figure.name, figure.width_px) for figure in first.figures] == [("one", 30), ("two-a", 30)]
    assert first.figures[0].content == png
    assert (first.rows.columns, first.rows.cells) == (["model", "value"], [["s1", "0.5"]])
    assert first.rows.said == "1 row"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "[" * 100_000,
        '{"kind": 1}',
        '{"kind": 1, "settings": 2, "rows": 3}',
        f'{{"kind": {"9" * 5000}, "settings": {{}}, "rows": []}}',
    ],
)
def test_damaged_records_are_left_out_with_a_warning(tmp_path, text, caplog):
    make(tmp_path / "good")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "analysis.json").write_text(text)
    (tmp_path / "folder" / "analysis.json").mkdir(parents=True)
    assert list(read_analyses([tmp_path])) == [tmp_path / "good"]
    assert sorted(message.split(" ")[0] for message in caplog.messages) == [
        str(tmp_path / "bad"),
        str(tmp_path / "folder"),
    ]


@pytest.mark.parametrize("wrong", [{"kind": ["a"]}, {"settings": 3}, {"rows": [1, None]}, {"rows": {}}])
def test_records_of_other_shapes_are_left_out_with_a_warning(tmp_path, caplog, wrong):
    values = {"kind": "a", "settings": {}, "rows": []} | wrong
    (tmp_path / "analysis.json").write_text(json.dumps(values))
    assert read_analyses([tmp_path]) == {}
    assert "analysis.json is damaged" in caplog.text


def test_odd_values_are_shown_as_texts(tmp_path):
    rows = [{"a": {"b": "\ud800"}}, {"\n": [1]}]
    values = {"kind": "\ud800<b>", "settings": {"x": None}, "rows": rows}
    (tmp_path / "analysis.json").write_text(json.dumps(values))
    (found,) = read_analyses([tmp_path]).values()
    assert found.settings == "x " and found.rows.said == "2 rows"
    assert found.rows.columns == ["a", " "] and found.rows.cells[1] == ["", "[1]"]
    assert json.dumps([found.kind, *found.rows.cells[0]], ensure_ascii=False).encode()


def test_figures_that_are_none_are_left_out_with_a_warning(tmp_path, png, caplog):
    folder = make(tmp_path / "a")
    damaged = bytearray(png)
    damaged[-20] ^= 1
    bad = {
        "text.png": (b"<svg onload='alert(1)'/>", "not a PNG"),
        "empty.png": (b"", "not a PNG"),
        "cut.png": (png[:-12], "not whole"),
        "head.png": (png[:8], "not whole"),
        "bits.png": (bytes(damaged), "damaged"),
    }
    for name, (content, _) in bad.items():
        (folder / name).write_bytes(content)
    (folder / "folder.png").mkdir()
    (folder / "ok.png").write_bytes(png)
    (folder / ".0123456789ab.ok.png").write_bytes(png)  # of a process that was killed: another copy
    (found,) = read_analyses([tmp_path]).values()
    assert [figure.name for figure in found.figures] == ["ok"]
    said = {message.split(" ")[0]: message for message in caplog.messages}
    assert len(said) == len(bad) + 1
    for name, (_, why) in bad.items():
        assert why in said[str(folder / name)]


def test_the_size_of_a_png_is_read(png):
    assert png_size(png) == (30, 20)
    with pytest.raises(ValueError, match="not a PNG"):
        png_size(b"GIF89a")


def test_figures_beyond_the_limit_are_left_out(tmp_path, png, caplog):
    for name in ("a", "b"):
        folder = make(tmp_path / name)
        for number in range(3):
            (folder / f"{number}.png").write_bytes(png)
    found = read_analyses([tmp_path], most_bytes=4 * len(png))
    assert [len(each.figures) for each in found.values()] == [3, 1]
    assert caplog.messages == [f"{tmp_path / 'b'}: 2 figures are left out, the page would be too large"]


def test_long_tables_are_cut_and_say_so():
    rows = first_rows([{f"c{index}": index for index in range(25)}] * 2345)
    assert len(rows.cells) == MOST_ROWS and len(rows.columns) == MOST_COLUMNS
    assert rows.said == (
        "2,345 rows, the first 100 of which are shown here; all are in rows.csv; "
        "5 columns more are in rows.csv"
    )
    assert first_rows([]).said == "0 rows"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        (0.123456, "0.1235"),
        (math.nan, "nan"),
        (123456, "123456"),
        (True, "true"),
        ([1, "a"], '[1, "a"]'),
        ("a\nb", "a b"),
        ("0123456789abcdef" * 2, "01234567"),
        (NASTY, NASTY[:79] + "…" if len(NASTY) > 80 else NASTY),
    ],
)
def test_cells_are_one_short_line(value, text):
    assert cell(value) == text
    assert cell("x" * 200) == "x" * 79 + "…"


def test_settings_are_short():
    settings = {
        "seed": 0,
        "speech": "0123456789abcdef" * 2,
        "noises": {"fsd": "f" * 32},
        "conditions": ["a", "b"],
    }
    expected = "seed 0 · speech 01234567 · noises fsd: ffffffff · conditions a, b"
    assert settings_in_short(settings) == expected
    assert len(settings_in_short({"a": ["long"] * 999})) == 300
