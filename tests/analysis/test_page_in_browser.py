"""The report in a browser: no complaints, nothing from outside, legible on a phone."""

import re

import pytest

from tests.analysis.browser import PROGRAM, Browser


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


@pytest.mark.parametrize("width", [1280, 320])
def test_figures_of_analyses_are_as_wide_as_in_print_or_scroll(browser, page, width):
    """At least as wide as a column of a paper, 3.39 inches of 96 pixels, in a box within the window."""
    browser.open(page, width)
    figures = browser.evaluate(
        "[...document.querySelectorAll('.figures img')].map(i => [i.getBoundingClientRect().width,"
        " i.closest('.scroll').getBoundingClientRect().right])"
    )
    assert browser.evaluate(WIDTH) <= width
    assert len(figures) == 4
    assert all(shown >= 325 and right <= width for shown, right in figures)


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
