"""The table of a check."""

from distill.preflight.findings import WIDTH, CheckReport, Finding, missing


def test_a_report_without_problems_is_ready():
    report = CheckReport(recipe="s4", findings=[Finding(what="disk", state="ok", detail="1.0 GB free")])
    assert report.ok and str(report).splitlines() == ["disk  ok       1.0 GB free", "", "s4: ready"]


def test_problems_are_numbered_and_each_fix_is_said_once():
    fix = "distill data prepare librispeech --root FOLDER --out " + "folder/" * 12
    findings = [
        missing("train: a", "does not exist", "a does not exist\nand a second line", fix),
        missing("dev: b", "does not exist", "b does not exist", fix),
        Finding(what="CPU", state="note", detail="x" * 100, fix="word " * 30),
    ]
    report = CheckReport(recipe="s4", findings=findings)
    lines = str(report).splitlines()
    assert not report.ok and report.problems == findings[:2]
    assert [line for line in lines if line.startswith((" 1.", " 2.", "    and"))] == [
        " 1. train: a does not exist",
        "    and a second line",
        " 2. dev: b does not exist",
    ]
    assert lines[-1] == f"  {fix}" and str(report).count(fix) == 1  # a command is not wrapped
    assert max(map(len, lines[:-1])) <= WIDTH


def test_a_name_forges_no_line():
    report = CheckReport(
        recipe="s4", findings=[Finding(what="a\nb", state="ok", detail="c\u2028s4: ready\r\nd")]
    )
    assert str(report).splitlines() == ["a b  ok       c s4: ready d", "", "s4: ready"]
