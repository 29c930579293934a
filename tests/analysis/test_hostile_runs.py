"""Run folders of strangers: each odd file is left out with a line, or shown as text; the rest is shown."""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from distill.analysis.report import make_report
from distill.analysis.run_logs import MOST_RECIPE_BYTES, read_runs
from distill.downstream.tables import make_tables
from distill.errors import UserError
from tests.analysis.made_runs import write_analysis, write_run
from tests.downstream.made_results import write

BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{name}: &{name} [{','.join([f'*{before}'] * 9)}]\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
RECIPES = {
    "anchors": BOMB + "description: *i\nkind: *i\nstudent: {layers: *i}\n",
    "merged anchors": "a: &a {x: 1}\n"
    + "".join(
        f"{name}: &{name}\n  <<: [{','.join([f'*{before}'] * 9)}]\n"
        for before, name in zip("abcdefgh", "bcdefghi", strict=True)
    ),
    "cycle": "a: &a [*a]\ndescription: *a\n",
    "merged cycle": "a: &a\n  <<: *a\n",
    "dates and bytes": "description: 2020-99-99\nkind: 2020-01-01 10:00:00\ncdm: !!binary aGVsbG8=\n"
    "student: {layers: !!set {a, b}}\ndat: 2020-01-01\n",
    "a command": "description: !!python/object/apply:os.system ['touch executed']\n",
    "not a number": "description: .nan\nkind: .inf\nstudent: {layers: .nan}\n",
    "hexadecimal": "student: {layers: 0x" + "f" * 100_000 + "}\n",
    "sexagesimal": "a: 1:" + "0:" * 1000 + "1.5\n",
    "halves of characters": 'description: "\\ud800"\nkind: "\\ud800"\n',
    "escapes": 'description: "\\e[2J\\0"\nname: "\\e"\n',
    "deep": "a: " + "[" * 50_000,
    "deep mappings": "\n".join(" " * depth + "a:" for depth in range(600)),
    "odd keys": "? [a]\n: b\n? {a: b}\n: c\n",
    "several": "a: 1\n---\nb: 2",
    "a list": "- a",
    "not UTF-8": b"\xff\xfe\x00a",
    "long": "description: " + "x" * 100_000,
    "too large": "#" * (MOST_RECIPE_BYTES + 1),
    "markup": 'description: "</pre><script>alert(1)</script>{{ 7*7 }}"\n',
}
VERSIONS = {
    "deep": "[" * 100_000,
    "digits": '{"torch": ' + "9" * 10_000 + "}",
    "halves of characters": '{"\\ud800": "\\ud800\\u001b[2J"}',
    "a list": "[]",
    "lists": '{"torch": [[[1]]], "b": {"c": null}}',
    "many": json.dumps({f"package {number}": "1" for number in range(5000)}),
}
LOGS = {
    "infinite": "step,val/loss\n1,nan\n2,inf\n3,1e400\n",
    "huge": "step,val/loss\n1e300,1\n5,1e308\n6,-1e308\n",
    "tiny": "step,val/loss\n1,1e-320\n2,5e-324\n",
    "long cell": "step,val/loss\n1," + "9" * 200_000 + "\n",
    "quoted": 'step,val/loss\n1,"' + "x" * 200_000 + "\n",
    "many columns": "step," + ",".join(f"m{number}" for number in range(100_000)) + "\n1\n2\n",
    "zeros": b"step,val/loss\n\x00\x00\n1,2\x00\n",
    "not UTF-8": b"\xff\x00step",
    "nothing": "",
}
RATIOS = {
    "texts": {"ratio": "x", "low": 0, "high": 0, "within": 0, "between": 0},
    "infinite": {"ratio": float("inf"), "low": None, "high": None, "within": 0, "between": 0},
    "NaN": {"ratio": float("nan"), "low": None, "high": None, "within": 0, "between": 0},
    "huge": {"ratio": 10**400, "low": 5, "high": 4, "within": 0, "between": 0},
    "tiny": {"ratio": 1e-320, "low": 0, "high": 1, "within": 0, "between": 0},
    "lists": {"ratio": [], "low": {}, "high": 1, "within": 0, "between": 0},
    "nothing": {},
}
RECORDS = {
    "deep": '{"kind": "x", "settings": {"a": ' + "[" * 900 + "]" * 900 + '}, "rows": []}',
    "a row that is none": '{"kind": "x", "settings": {}, "rows": [5]}',
    "a kind that is none": '{"kind": [], "settings": {}, "rows": []}',
    "settings that are none": '{"kind": "x", "settings": [], "rows": []}',
    "odd values": '{"kind": "x", "settings": {"a": [1e999]}, "rows": [{"a": {"b": NaN}, "\\ud800": 1e999}]}',
    "wide": json.dumps({"kind": "x", "settings": {}, "rows": [{f"c{n}": n for n in range(5000)}] * 3}),
}
PLACE = {"model": 1, "condition": "a"}
CASES = {
    f"{file}: {name}": (file, content)
    for file, contents in {
        "recipe.yaml": RECIPES,
        "versions.json": VERSIONS,
        "csv/metrics.csv": LOGS,
        "probe/analysis.json": RECORDS,
        "tsne.json": {
            k: json.dumps({"rows": [{"model": 1, "condition": "a"} | v]}) for k, v in RATIOS.items()
        },
        "tsne.png": {"no picture": b"abc", "markup": b"<script>alert(1)</script>"},
        "heads/ks-last-seed0/csv/metrics.csv": LOGS,
    }.items()
    for name, content in contents.items()
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> dict[str, bytes]:
    """The files of a run with evaluations and an analysis."""
    folder = write_run(tmp_path_factory.mktemp("run"))
    write(folder, {})
    write_analysis(folder / "probe")
    picture = next((folder / "probe").glob("by_layer*.png"))
    return {
        "tsne.png": picture.read_bytes(),
        **{
            str(path.relative_to(folder)): path.read_bytes()
            for path in folder.rglob("*")
            if path.is_file() and path.suffix in (".yaml", ".json", ".csv")
        },
    }


def _write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


@pytest.mark.parametrize(("file", "content"), CASES.values(), ids=CASES)
def test_a_report_of_it(tmp_path, whole, caplog, monkeypatch, file, content):
    monkeypatch.chdir(tmp_path)
    content = content if isinstance(content, bytes) else content.encode()
    run = _write(tmp_path / "run", whole | {file: content})
    with caplog.at_level(logging.WARNING):
        page = make_report([run], tmp_path / "report.html").read_text(encoding="utf-8")
    assert "90.0" in page and "<script" not in page and len(page) < 2_000_000
    assert not (tmp_path / "executed").exists()
    for record in caplog.records:
        assert record.getMessage().isprintable()


@pytest.mark.parametrize("name", ["csv/metrics.csv", "recipe.yaml", "versions.json", "probe/analysis.json"])
def test_pipes_and_loops_are_left_out(tmp_path, whole, caplog, name):
    run = _write(tmp_path / "run", whole)
    (run / name).unlink()
    os.mkfifo(run / name)
    (run / "loop").symlink_to(run)
    with caplog.at_level(logging.WARNING):
        make_report([run], tmp_path / "report.html")
    assert f"{name} is a pipe or a device" in caplog.text


def test_folders_within_folders_have_an_end(tmp_path, whole, caplog):
    """A thousand, which Python's own searches do not survive."""
    run = _write(tmp_path / "run", whole)
    here = os.getcwd()
    try:
        os.chdir(run)
        for _ in range(1000):
            os.mkdir("a")
            os.chdir("a")
    finally:
        os.chdir(here)
    make_report([run], tmp_path / "report.html")
    assert "90.00" in make_tables([run])
    assert f"{run} is nested more than 40 levels deep" in caplog.text
    subprocess.run(["rm", "-rf", str(run)], check=False)  # what Python is not able to remove


LIMITED = """
import resource, sys
from pathlib import Path
from distill.analysis.report import render
from distill.analysis.report_contents import collect
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (2 << 30),) * 2)
for run in map(Path, sys.argv[1:]):
    before = int(sum(resource.getrusage(resource.RUSAGE_SELF)[:2]))
    resource.setrlimit(resource.RLIMIT_CPU, (before + 10, resource.getrlimit(resource.RLIMIT_CPU)[1]))
    print(len(render(collect([run]))))
"""


@pytest.mark.slow
def test_bombs_stay_within_two_gigabytes_and_ten_seconds(tmp_path, whole):
    """The largest files that are read at all, filled with what takes most; and larger ones."""
    line = "1,1\n"
    record, many = {"kind": "x", "rows": []}, dict.fromkeys(map(str, range(2_000_000)))
    bombs: dict[str, tuple[str, bytes]] = {
        "keys": ("recipe.yaml", b"a:\n" * (MOST_RECIPE_BYTES // 3)),
        "brackets": ("recipe.yaml", b"a: [" + b"[]," * (MOST_RECIPE_BYTES // 3 - 10) + b"[]]"),
        "lines": ("csv/metrics.csv", ("step,val/loss\n" + line * ((8 << 20) // len(line) - 10)).encode()),
        "columns": ("csv/metrics.csv", b"step" + b",m" * (1 << 21) + b"\n" + b"1\n" * (1 << 21)),
        "settings": ("probe/analysis.json", json.dumps(record | {"settings": many}).encode()),
        "rows": (
            "probe/analysis.json",
            b'{"kind": "", "settings": {}, "rows": [' + b"{}," * (10 << 20) + b"{}]}",
        ),
    }
    runs = [_write(tmp_path / name, whole | dict([bomb])) for name, bomb in bombs.items()]
    sparse = _write(tmp_path / "sparse", whole)
    for name in ("recipe.yaml", "versions.json", "csv/metrics.csv", "probe/by_layer.png", "tsne.json"):
        with (sparse / name).open("wb") as file:
            file.truncate(4 << 30)
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, *map(str, [*runs, sparse])],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.split()) == len(runs) + 1


def test_what_a_recipe_states_is_text(tmp_path):
    run = write_run(tmp_path / "run")
    (run / "recipe.yaml").write_text("kind: null\nlayers: 1e3\nstudent: {layers: 02}\ndat: [1]\nname: ~\n")
    (log,) = read_runs([run])
    assert (log.kind, log.stated("name"), log.stated("layers")) == ("distil", "", "1e3")
    assert (log.stated("layers", "student"), log.stated("enabled", "dat"), log.stated("student")) == (
        "02",
        "",
        "",
    )


def test_a_picture_that_is_too_large_is_one_line(tmp_path):
    run = write_run(tmp_path / "run")
    with (run / "tsne.png").open("wb") as file:
        file.truncate(1 << 30)
    with pytest.raises(UserError, match=r"tsne\.png has more than 19,531 KiB"):
        make_report([run], tmp_path / "report.html")
