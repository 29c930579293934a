"""What a report shows, before it is a page."""

import pytest

from distill.analysis.report_contents import bar_chart, collect, condition_colour, run_facts
from distill.analysis.run_logs import read_runs
from distill.downstream.results import parse_result
from distill.downstream.tables import build_tables
from tests.analysis.made_runs import NASTY, result, write_head, write_results, write_run


def test_a_run_in_short(tmp_path):
    (log,) = read_runs([write_run(tmp_path / "run")])
    facts = run_facts(log)
    assert (facts.label, facts.what, facts.cdm, facts.layers) == ("run", NASTY, "setup2", "2")
    assert (facts.dat, facts.finished, facts.updates) == ("yes", "yes", "40")
    assert (facts.best, facts.best_clean) == ("0.0500 at 40", "0.0750")


def test_what_is_not_known_of_a_run_is_empty(tmp_path):
    (tmp_path / "run" / "csv").mkdir(parents=True)
    (tmp_path / "run" / "csv" / "metrics.csv").write_text("step,train/loss\n9,1\n")
    (log,) = read_runs([tmp_path / "run"])
    facts = run_facts(log)
    assert (facts.what, facts.cdm, facts.dat, facts.layers, facts.best) == ("", "", "", "", "")
    assert (facts.finished, facts.updates) == ("no", "10")


def test_bars_end_with_their_axis():
    accuracy = build_tables([parse_result(result(condition="dns", value=61.8))])[0]
    chart = bar_chart(accuracy)
    (bar,) = chart.rows["S4"]
    assert (chart.top, bar.width, bar.paper_at) == (100, pytest.approx(61.8), pytest.approx(77.47))
    (errors,) = (
        table
        for table in build_tables(
            [parse_result(result(task="asr", metric="wer", condition="dns", value=121.0))]
        )
        if any(cell.mean is not None for row in table.rows for cell in row.cells)
    )
    chart = bar_chart(errors)
    assert chart.top == 130  # error rates may exceed 100 %
    assert chart.rows["S4"][0].width == pytest.approx(100 * 121 / 130)


def test_conditions_that_the_paper_lacks_are_grey():
    assert len({condition_colour(condition) for condition in ("clean", "2-dist", "fsd", "dns")}) == 4
    assert condition_colour("fsd@-5") == condition_colour("fsd")
    assert condition_colour("mine") == condition_colour("yours") == "#8a8a8a"


def test_runs_of_a_kind_share_their_charts(tmp_path):
    runs = [write_run(tmp_path / name, kind=kind) for name, kind in (("a", "distil"), ("b", "distil"))]
    (group,) = collect(runs).training
    assert (group.title, list(group.styles), len(group.charts)) == ("", ["a", "b"], 4)
    runs.append(write_run(tmp_path / "t", kind="adapt"))
    groups = collect(runs).training
    assert [(group.title, list(group.styles)) for group in groups] == [
        ("Students", ["a", "b"]),
        ("Teachers", ["t"]),
    ]


def test_folders_of_evaluations_are_no_runs(tmp_path):
    write_results(tmp_path / "sweep" / "s4" / "ks")
    write_head(tmp_path / "sweep" / "s4" / "heads" / "ks-last-seed0", [50, 40])
    contents = collect([tmp_path / "sweep"])
    assert (contents.labels, list(contents.runs), list(contents.recipes)) == (["sweep"], [], [])
    assert contents.training == [] and len(contents.tables) == len(contents.bars) > 3
    assert contents.heads is not None and len(contents.heads.charts) == 1
    assert collect([write_run(tmp_path / "run")]).heads is None
