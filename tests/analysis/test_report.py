"""The report: true numbers, nothing from outside, nothing that a name could break, legible on a phone."""

import base64
import io
import json
import logging
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from distill.analysis.curves import thin
from distill.analysis.head_curves import mean_curve, read_heads
from distill.analysis.listening import KINDS, samples_of_distortions
from distill.analysis.report import bars, make_report, results_table
from distill.analysis.run_logs import read_curves, read_runs, unique_labels
from distill.data.noise import NoiseReader
from distill.data.sources import open_cuts
from distill.downstream.distorted_sets import DistortedSet
from distill.downstream.results import parse_result
from distill.downstream.table_types import Cell, Row, Table
from distill.downstream.tables import build_tables
from distill.errors import DataError, UserError
from tests.analysis.browser import PROGRAM, Browser

NASTY = "s4 <script>alert(1)</script> $x_1$ & \"q\" 'p' ${title} ñ"


def result(**changes) -> dict:
    return {
        "task": "ks",
        "condition": "clean",
        "metric": "accuracy",
        "value": 90.0,
        "seed": 0,
        "fold": None,
        "lm": False,
        "features": "last",
        "model": NASTY,
        "checkpoint_hash": "a",
        "recipe": "s4",
        "head_steps": 100,
        "n_utterances": 10,
        "versions": {},
        "finished": "2026-01-01",
    } | changes


def write_results(folder: Path) -> None:
    """Every task of the paper, one of ours with a nasty name, an error rate beyond 100 %."""
    (folder / "results").mkdir(parents=True)
    changes = [
        {"task": task, "condition": condition, "value": value, "seed": seed}
        for task in ("ks", "ic", "er")
        for condition, value in (("clean", 90.0), ("2-dist", 80.0), ("fsd", 70.0), ("dns", 60.0))
        for seed in (0, 1)
    ]
    changes += [
        {"task": "asr", "metric": "wer", "condition": c, "value": v}
        for c, v in (("clean", 12.0), ("test-other", 30.0), ("dns", 130.0), ("chime3", 50.0))
    ]
    changes += [{"recipe": None}, {"recipe": "a_very_long_recipe_name_" * 3}, {"condition": NASTY[:20]}]
    for index, change in enumerate(changes):
        (folder / "results" / f"{index}.json").write_text(json.dumps(result(**change)))


def write_run(folder: Path, *, kind: str = "distil", n_steps: int = 40) -> Path:
    (folder / "csv").mkdir(parents=True)
    recipe = f"kind: {kind}\ndescription: {json.dumps(NASTY)}\ncdm: setup2\nstudent: {{layers: 2}}\n"
    (folder / "recipe.yaml").write_text(recipe + "dat: {enabled: true}\n")
    (folder / "versions.json").write_text('{"torch": "2.11.0"}')
    (folder / "finished.json").write_text('{"steps": 40, "seconds": 3.0}')
    lines = ["lr,step,train/loss,val/loss,val/loss_clean"]
    for step in range(9, n_steps, 10):
        lines += [f"0.1,{step},{1 / (step + 1)},,", f",{step},,{2 / (step + 1)},{3 / (step + 1)}"]
    (folder / "csv" / "metrics.csv").write_text("\n".join(lines) + "\n")
    return folder


# ------------------------------------------------------------------------------------------------- curves


def test_a_resumed_runs_curves_are_whole_and_its_lost_part_is_left_out(tmp_path):
    """Part 10 comes after part 2; updates that were done again are those of the later part."""
    (tmp_path / "csv").mkdir()
    parts = {
        "metrics-1.csv": "step,train/loss\n9,1\n19,2\n29,99\n39,98\n",
        "metrics-2.csv": "step,train/loss,val/loss\n29,3,\n29,,7\n39,97,\n",
        "metrics-10.csv": "step,train/loss\n34,4\n",
        "metrics.csv": "step,train/loss\n44,5\n54,nan\n64,oops\n74,\n,6\n84,7,8,9\n9",
    }
    for name, text in parts.items():
        (tmp_path / "csv" / name).write_text(text)
    curves = read_curves(tmp_path)
    assert curves.keys() == {"train/loss", "val/loss"}
    steps, values = curves["train/loss"]
    # The last line was cut off in the middle of 94: it has no value.
    assert steps.tolist() == [10, 20, 30, 35, 45, 85]
    assert values.tolist() == [1, 2, 3, 4, 5, 7]
    assert [part.tolist() for part in curves["val/loss"]] == [[30], [7]]


def test_long_curves_are_averaged_not_sampled():
    values = np.random.default_rng(0).normal(size=4000)
    steps, thinned = thin((np.arange(4000), values))
    assert len(steps) == len(thinned) == 400
    np.testing.assert_allclose(thinned, values.reshape(400, 10).mean(1))
    assert (steps[0], steps[-1]) == (9, 3999)


def write_head(folder: Path, errors: list[float], *, every: int = 10) -> None:
    (folder / "csv").mkdir(parents=True)
    lines = [f"{every * number - 1},{error}" for number, error in enumerate(errors, start=1)]
    (folder / "csv" / "metrics.csv").write_text("\n".join(["step,val/error", *lines]) + "\n")


def test_heads_of_a_model_are_one_curve_whatever_fold_and_seed(tmp_path):
    heads = tmp_path / "all/s4-1234/heads"
    write_head(heads / "er-fold1-last-seed0", [50, 40, 30])
    write_head(heads / "er-fold2-last-seed0", [40, 20])  # has not come as far
    write_head(heads / "er-fold1-layer-2-seed0", [10, 5])
    write_head(heads / "er-fold1-last-seed0-s3prl-lr0.01", [7, 6])
    write_head(heads / "ks-last-seed1", [9], every=7)
    write_head(tmp_path / "all/s1-5678/heads/ks-last-seed0", [8], every=7)
    (heads / "notes").mkdir()
    found = read_heads([tmp_path / "all", heads.parent])
    assert found.keys() == {"er", "ks"} and found["ks"]["val/error"].keys() == {"s1-5678", "s4-1234"}
    steps, values = found["er"]["val/error"]["s4-1234"]
    assert (steps.tolist(), values.tolist()) == ([10, 20], [45, 30])
    assert found["er"]["val/error"]["s4-1234, layer-2"][1].tolist() == [10, 5]
    assert found["er"]["val/error"]["s4-1234, s3prl-lr0.01"][1].tolist() == [7, 6]
    assert read_heads([tmp_path / "all/s4-1234"])["ks"]["val/error"].keys() == {"s4-1234"}


def test_a_confidence_interval_stands_beside_the_mean():
    cells = (Cell(93.2, 0.4, 3, "96.27", (92.3, 94.1)), Cell(80.0, 0.0, 1, "", (79.0, 81.0)))
    row = Row("S4", "DistilHuBERT", "no", "23M", cells)
    table = Table("KS", "ks", "accuracy", False, True, ("clean", "dns"), (row,), ())
    html = results_table(table, table.rows)
    assert '<td class="number">93.20<small>(0.40, n=3) [92.30, 94.10]</small></td>' in html
    assert '<td class="number">80.00<small>[79.00, 81.00]</small></td>' in html


def test_curves_without_a_common_update_are_not_averaged():
    first = (np.array([1, 2]), np.array([3.0, 4.0]))
    assert mean_curve([first, (np.array([5]), np.array([6.0]))]) is first


def test_labels_tell_folders_apart(tmp_path):
    folders = [tmp_path / "a" / "s4", tmp_path / "b" / "s4", tmp_path / "b" / "s1"]
    assert unique_labels(folders) == ["a/s4", "b/s4", "b/s1"]
    assert unique_labels(folders[1:]) == ["s4", "s1"]


def test_a_damaged_run_is_warned_about(tmp_path, caplog):
    run = write_run(tmp_path / "run")
    (run / "versions.json").write_text("{")
    (run / "recipe.yaml").write_text("a: [")
    with caplog.at_level(logging.WARNING):
        (log,) = read_runs([run, run / "csv" / ".."])  # the same twice
    assert (log.versions, log.recipe, log.recipe_text) == ({}, {}, "a: [")
    assert "versions.json cannot be read" in caplog.text
    assert "recipe.yaml cannot be read" in caplog.text
    assert log.best("val/loss") == (2 / 40, 40)


# --------------------------------------------------------------------------------------------------- page


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> dict[str, str]:
    """Speech of 1, 3.4 and 9 s, and noises."""
    root = tmp_path_factory.mktemp("sources")
    generator = np.random.default_rng(0)
    lengths = {"speech": (16_000, 54_400, 144_000), "fsd": (20_000,), "musan": (20_000,), "wham": (20_000,)}
    for name, sizes in lengths.items():
        (root / name).mkdir()
        for n_samples in sizes:
            samples = 0.1 * generator.standard_normal(n_samples)
            soundfile.write(root / name / f"{n_samples}.wav", samples, 16_000, subtype="PCM_16")
    return {name: str(root / name) for name in lengths}


@pytest.fixture(scope="module")
def page(tmp_path_factory, sources) -> Path:
    """A report of everything, with names that try to break it."""
    from matplotlib.image import imsave

    root = tmp_path_factory.mktemp("report")
    runs = [
        write_run(root / NASTY.replace("/", "")),
        write_run(root / ("s1" * 40), n_steps=30_000),
        write_run(root / "_teacher", kind="adapt"),
        root / "sweep",
    ]
    imsave(runs[0] / "tsne.png", np.random.default_rng(0).random((200, 600, 3)))
    write_results(root / "sweep" / "s4" / "ks")
    write_head(root / "sweep" / NASTY.replace("/", "") / "heads" / "ks-last-seed0", [50, 40])
    noises = {name: [sources[name]] for name in ("fsd", "musan", "wham")}
    return make_report(runs, root / "new" / "report.html", speech=sources["speech"], noises=noises)


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
        "Sounds",
        "Recipes and versions",
    ):
        assert words in text
    assert "Table 1, KS: accuracy in %, higher is better" in text
    assert "keyword spotting: errors on dev" in text
    assert "0.0500 at 40" in text  # lowest validation loss, 2 / 40
    assert "torch 2.11.0" in text


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
    drawn = bars(table)
    assert 'style="width:61.80%;' in drawn
    assert "left:calc(77.47% - 1px)" in drawn  # the paper's S4
    assert "61.8 <small>paper 77.47" in drawn
    wer = parse_result(result(task="asr", metric="wer", condition="dns", value=130.0))
    drawn = bars(build_tables([wer])[3])
    assert 'style="width:100.00%;' in drawn
    assert "<span>130 %</span>" in drawn


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


# -------------------------------------------------------------------------------------------------- sounds


def test_sounds_are_those_of_the_test_sets(sources):
    name, samples = samples_of_distortions(sources["speech"], {"fsd": [sources["fsd"]]})
    assert name == "54400"  # nearest to three seconds
    found = {sample.title: sample for sample in samples}
    assert list(found) == [
        KINDS[kind] for kind in ("clean", "gaussian", "reverb", "pitch", "band_reject", "fsd")
    ]
    cut = open_cuts(sources["speech"]).filter(lambda cut: cut.id == name)  # pyright: ignore
    cut = cut.truncate(max_duration=3.0, offset_type="start", preserve_id=True)
    dataset = DistortedSet(cut, "fsd", NoiseReader({"fsd": sources["fsd"]}))
    _, expected, _, plan = next(dataset.batches())
    heard, rate = soundfile.read(io.BytesIO(found[KINDS["fsd"]].flac), dtype="float32")
    assert rate == 16_000
    torch.testing.assert_close(torch.from_numpy(heard), expected[0], atol=2**-15, rtol=0)
    assert found[KINDS["fsd"]].caption == f"fsd at {plan[0].snr_db:.1f} dB SNR"
    clean, _ = soundfile.read(io.BytesIO(found["Clean"].flac), dtype="float32")
    original, _ = soundfile.read(Path(sources["speech"]) / "54400.wav", dtype="float32")
    np.testing.assert_allclose(clean, original[:48_000], atol=2**-15)
    ratio = 10 * np.log10((clean**2).mean() / ((heard - clean) ** 2).mean())
    assert ratio == pytest.approx(plan[0].snr_db, abs=0.1)


def test_two_distortions_are_heard_as_two(sources):
    noises = {name: [sources[name]] for name in ("musan", "wham")}
    _, samples = samples_of_distortions(sources["speech"], noises)
    (two,) = [sample for sample in samples if sample.title == KINDS["2-dist"]]
    assert ", then " in two.caption
    assert two.caption.startswith(("musan", "wham", "gaussian"))


def test_the_pages_audio_can_be_decoded(page):
    text = page.read_text(encoding="utf-8")
    clips = re.findall(r'<audio [^>]*src="data:audio/flac;base64,([^"]+)"', text)
    assert len(clips) == 9  # all kinds but dns
    for clip in clips:
        samples, rate = soundfile.read(io.BytesIO(base64.b64decode(clip)))
        assert rate == 16_000
        assert 0.5 < len(samples) / rate <= 3.0
        assert 0.01 < np.abs(samples).max() < 1


# ------------------------------------------------------------------------------------------------- browser


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if PROGRAM is None:
        pytest.skip("no Chromium here")
    with Browser(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


WIDTH = "Math.max(document.documentElement.scrollWidth, document.body.scrollWidth)"
# Rendered height of every chart's letters: what nobody could read on a phone.
SMALLEST = """Math.min(...[...document.querySelectorAll('svg.chart text')]
    .map(t => t.getBoundingClientRect().height))"""
DURATIONS = """Promise.all([...document.querySelectorAll('audio')].map(a => new Promise((yes, no) => {
    a.onloadedmetadata = () => yes(a.duration); a.onerror = () => no(a.error.message); a.load(); })))"""


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("dark", [False, True])
def test_it_shows_without_complaint_and_within_the_window(browser, page, width, dark):
    browser.open(page, width, dark=dark)
    assert browser.evaluate("innerWidth") == width
    assert browser.evaluate(WIDTH) <= width
    assert browser.evaluate(SMALLEST) > 9
    assert browser.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
    durations = browser.evaluate(DURATIONS)
    assert len(durations) == 9
    assert all(0 < seconds <= 3 for seconds in durations)
    ground = browser.evaluate("getComputedStyle(document.body).backgroundColor")
    ink = browser.evaluate("getComputedStyle(document.querySelector('svg.chart text')).fill")
    light = [sum(map(int, re.findall(r"\d+", colour)[:3])) > 384 for colour in (ground, ink)]
    assert light == [not dark, dark]
    assert browser.complaints == []
    assert {url.split(":")[0] for url in browser.requested} == {"file", "data"}
    assert [url for url in browser.requested if url.startswith("file")] == [page.resolve().as_uri()]


def test_wide_tables_scroll_in_their_own_box(browser, page):
    browser.open(page, 390)
    boxes = browser.evaluate(
        "[...document.querySelectorAll('.scroll')].map(b => [b.scrollWidth, b.clientWidth])"
    )
    assert any(inside > outside > 0 for inside, outside in boxes)
    assert all(outside <= 390 for _, outside in boxes)


def test_long_names_do_not_push_the_numbers_out_of_sight(browser, page):
    """Names in tables are cut off rather than broken into a column of letters."""
    browser.open(page, 390)
    heads = browser.evaluate(
        "[...document.querySelectorAll('.brief tbody th')].map(h => h.getBoundingClientRect())"
        ".map(r => [r.width, r.height])"
    )
    assert all(20 < width < 200 and height < 60 for width, height in heads)


def test_the_browser_would_notice(browser, tmp_path):
    bad = tmp_path / "bad.html"
    bad.write_text(
        "<meta name=viewport content='width=device-width'><div style='width:2000px'>x</div>"
        "<script>console.error('ouch'); nothing()</script><img src='http://127.0.0.1:9/x.png'>"
    )
    browser.open(bad, 390)
    assert browser.evaluate("document.documentElement.scrollWidth") > 2000
    assert any("ouch" in complaint for complaint in browser.complaints)
    assert any("nothing is not defined" in complaint for complaint in browser.complaints)
    assert "http://127.0.0.1:9/x.png" in browser.requested
