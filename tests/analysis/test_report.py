"""The report: nothing from outside, nothing that a name could break, and what it lacks is said."""

import base64
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import soundfile

from distill.analysis.report import make_report, render
from distill.analysis.report_contents import Contents
from distill.downstream.results import parse_result
from distill.downstream.table_types import Cell, Row, Table
from distill.downstream.tables import build_tables
from distill.errors import DataError, UserError
from tests.analysis.made_runs import NASTY, result, write_analysis, write_run


class Checker(HTMLParser):
    """Tags that are closed in order, ids, addresses, text."""

    void = {"meta", "img", "br", "link", "input"}

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.open += [] if tag in self.void else [tag]
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in ("src", "href", "xlink:href", "action", "data"):
                self.addresses.append(value or "")
            assert not name.startswith("on")

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in self.void:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_the_page_holds_everything_and_asks_for_nothing(page):
    text = page.read_text(encoding="utf-8")
    checked = Checker(text)
    assert len(checked.ids) == len(set(checked.ids))
    assert all(address.startswith(("#", "data:")) for address in checked.addresses)
    assert {a[1:] for a in checked.addresses if a.startswith("#")} <= set(checked.ids)
    assert not re.search(r"@import|url\((?!#)", text)
    assert "script" not in checked.tags
    assert "default-src 'none'" in text


def test_names_are_shown_as_they_are(page):
    text = Checker(page.read_text(encoding="utf-8")).text
    assert text.count(NASTY) >= 3  # as a model, a description, in a resolved recipe
    assert NASTY.replace("/", "") in text
    assert "_teacher" in text


def test_every_part_is_there(page):
    text = Checker(page.read_text(encoding="utf-8")).text
    for words in (
        "Runs",
        "Results",
        "Robustness",
        "Training",
        "Heads",
        "t-SNE",
        "Analyses",
        "Sounds",
        "Recipes and versions",
    ):
        assert words in text
    assert "Table 1, KS: accuracy in %, higher is better" in text
    assert "keyword spotting: errors on dev" in text
    assert "0.0500 at 40" in text  # lowest validation loss, 2 / 40
    assert "torch 2.11.0" in text
    assert "150 rows, the first 100 of which are shown here; all are in rows.csv" in text
    assert "by_layer" in text and "speech 01234567" in text


def test_without_results_speech_and_pictures_their_parts_are_left_out(tmp_path):
    run = write_run(tmp_path / "run")
    text = Checker(make_report([run], tmp_path / "r.html").read_text(encoding="utf-8")).text
    assert "Training loss" in text
    assert not [words for words in ("Results", "Robustness", "t-SNE", "Sounds") if words in text]


def test_what_is_left_out_is_said_in_one_line_with_the_options_that_add_it(tmp_path, sources, caplog):
    run, out = write_run(tmp_path / "run"), tmp_path / "r.html"
    sounds, picture = "--speech SOURCE --noise CORPUS=SOURCE", "--tsne PICTURE, made by `distill tsne`"
    make_report([run], out)
    assert caplog.messages == [f"{out} is without sounds (add {sounds}); t-SNE (add {picture})"]
    caplog.clear()
    (run / "tsne.png").write_bytes(b"")  # of the folder itself
    make_report([run], out, speech=sources["speech"])
    assert caplog.messages == [f"{out} is without the sound of noise (add --noise CORPUS=SOURCE)"]
    caplog.clear()
    make_report([run], out, speech=sources["speech"], noises={"fsd": [sources["fsd"]]})
    assert caplog.messages == []


def test_bars_have_the_length_of_their_numbers():
    table = build_tables([parse_result(result(condition="dns", value=61.8))])[0]
    page = render(Contents(labels=[], tables=[table]))
    assert 'style="width:61.80%;' in page
    assert "left:calc(77.47% - 1px)" in page  # the paper's S4
    assert "61.8 <small>paper 77.47" in page


def test_a_confidence_interval_stands_beside_the_mean():
    cells = (Cell(93.2, 0.4, 3, "96.27", (92.3, 94.1)), Cell(80.0, 0.0, 1, "", (79.0, 81.0)))
    row = Row("S4", "DistilHuBERT", "no", "23M", cells)
    table = Table("KS", "ks", "accuracy", False, True, ("clean", "dns"), (row,), ())
    page = render(Contents(labels=[], tables=[table]))
    assert '<td class="number">93.20<small>(0.40, n=3) [92.30, 94.10]</small></td>' in page
    assert '<td class="number">80.00<small>[79.00, 81.00]</small></td>' in page


def test_a_folder_of_analyses_alone_is_enough(tmp_path, caplog):
    write_analysis(tmp_path / "out" / "a", kind="tsne")
    text = Checker(make_report([tmp_path / "out"], tmp_path / "r.html").read_text(encoding="utf-8")).text
    assert "Analyses" in text and "tsne: a" in text
    assert not [words for words in ("Runs", "Results", "t-SNE", "Training") if words in text]
    assert "add --tsne" not in caplog.text


def test_a_picture_of_a_record_is_shown_once(tmp_path, sources):
    """A run folder's own picture is shown as t-SNE; that of an analysis in it among the analyses."""
    run = write_run(tmp_path / "run")
    write_analysis(run, kind="tsne")
    (run / "by_layer.png").rename(run / "tsne.png")
    page = make_report([run], tmp_path / "r.html").read_text(encoding="utf-8")
    assert page.count(base64.b64encode((run / "tsne.png").read_bytes()).decode()) == 1
    (run / "analysis.json").write_text("{")
    page = make_report([run], tmp_path / "r.html").read_text(encoding="utf-8")
    assert page.count(base64.b64encode((run / "tsne.png").read_bytes()).decode()) == 1


def test_the_ratios_beside_a_picture_are_shown(tmp_path, caplog):
    run = write_run(tmp_path / "run")
    fields = {"low": 0.25, "high": 0.35, "within": 1.0, "between": 3.0}
    rows = [{"model": NASTY, "condition": name, "ratio": 0.3, **fields} for name in ("all", "fsd")]
    write_analysis(tmp_path / "a")
    picture = (tmp_path / "a" / "by_layer.png").rename(tmp_path / "x.png")
    for text, complaint in (
        (json.dumps({"kind": "tsne", "settings": {}, "rows": rows}), False),
        ("{", True),
        ("[" * 100_000, True),
        (json.dumps({"rows": [3]}), True),
        (json.dumps({"rows": [rows[0] | {"ratio": "<b>"}]}), True),
    ):
        (tmp_path / "x.json").write_text(text)
        caplog.clear()
        page = make_report([run], tmp_path / "r.html", tsne=picture).read_text(encoding="utf-8")
        shown = Checker(page).text
        assert ("0.30 [0.25, 0.35]" in shown) == (not complaint)
        assert any("x.json is left out" in message for message in caplog.messages) == complaint


def test_mistakes_are_named(tmp_path):
    run = write_run(tmp_path / "run")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="must end in .html"):
        make_report([run], tmp_path / "report.pdf")
    with pytest.raises(UserError, match="nowhere is not a folder"):
        make_report([tmp_path / "nowhere"], tmp_path / "r.html")
    with pytest.raises(UserError, match="neither a run"):
        make_report([tmp_path / "empty"], tmp_path / "r.html")
    with pytest.raises(UserError, match=r"expected a \.png or \.svg"):
        make_report([run], tmp_path / "r.html", tsne=tmp_path / "tsne.pdf")
    with pytest.raises(DataError, match="none does not exist"):
        make_report([run], tmp_path / "r.html", speech=str(tmp_path / "none"))
    assert not (tmp_path / "r.html").exists()


def test_the_pages_audio_can_be_decoded(page):
    text = page.read_text(encoding="utf-8")
    clips = re.findall(r'<audio [^>]*src="data:audio/flac;base64,([^"]+)"', text)
    assert len(clips) == 9  # all kinds but dns
    for clip in clips:
        samples, rate = soundfile.read(io.BytesIO(base64.b64decode(clip)))
        assert rate == 16_000
        assert 0.5 < len(samples) / rate <= 3.0
        assert 0.01 < np.abs(samples).max() < 1
