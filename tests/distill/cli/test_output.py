"""What the command prints: no name may control the terminal, forge a line or break an encoding."""

import argparse
import io
import logging
import sys

import pytest

from distill.checkpoints.inspection import CheckpointInfo
from distill.cli import main, one_line
from distill.cli.output import PlainFormatter, PlainStream, plain, plain_line, plain_streams
from distill.errors import DataError, UserError

HOSTILE = "s4\x1b[2J\x1b]0;title\x07\r\x08\x9b31m\u202egnp.exe\u2028\ud800\nx"


def test_plain_text_keeps_lines_and_letters():
    assert plain("naïve\tкот\n| 1 |\n") == "naïve\tкот\n| 1 |\n"
    assert plain(HOSTILE) == "s4?[2J?]0;title????31m?gnp.exe??\nx"
    assert plain_line(HOSTILE) == "s4?[2J?]0;title????31m?gnp.exe???x"


def test_streams_are_plain_and_have_the_letters_of_their_encoding():
    ascii_only = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    stream = PlainStream(ascii_only)
    print("é\x1b[2J", file=stream)
    stream.writelines(["a\r", "b"])
    stream.flush()
    assert ascii_only.buffer.getvalue() == b"\\xe9?[2J\na?b"  # pyright: ignore[reportAttributeAccessIssue]
    assert not stream.isatty()


def test_bars_of_progress_may_move_and_names_in_them_may_not():
    found = io.StringIO()
    stream = PlainStream(found, bars=True)  # pyright: ignore[reportArgumentType]
    stream.write("\r  50%| s4\x1b[2J\r")
    stream.write("\n\x1b[A")
    assert found.getvalue() == "\r  50%| s4?[2J?\n\x1b[A"


@pytest.mark.parametrize("where", ["stdout", "stderr"])
def test_all_that_a_command_prints_is_plain(monkeypatch, capsys, where):
    def run(_: argparse.Namespace) -> None:
        print(HOSTILE, file=getattr(sys, where))

    monkeypatch.setattr("distill.cli.parse", lambda *_: argparse.Namespace(run=run))
    before = sys.stdout, sys.stderr
    assert main([]) == 0
    assert (sys.stdout, sys.stderr) == before
    assert getattr(capsys.readouterr(), where[3:] if where == "stdout" else "err") == plain(HOSTILE) + "\n"


def test_a_message_of_an_error_is_one_line_and_whole(monkeypatch, capsys):
    """A name with an end of a line in it hides nothing of what is said, and forges no line."""

    def run(_: argparse.Namespace) -> None:
        raise UserError(f"a{HOSTILE}\ndistill: all is well: b")

    monkeypatch.setattr("distill.cli.parse", lambda *_: argparse.Namespace(run=run))
    assert main([]) == 1
    assert capsys.readouterr().err == f"distill: a{plain_line(HOSTILE)}?distill: all is well: b\n"
    assert one_line(DataError("")) == "DataError"
    torchs = "Caught DataError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n"
    assert one_line(DataError(f"{torchs}  x\ndistill.errors.DataError: a: b\nc\n")) == r"a: b\nc"


def test_usage_is_plain(capsys):
    with pytest.raises(SystemExit):
        main(["table", "--format", "\x1b[2J"])
    assert "\x1b" not in capsys.readouterr().err


def test_warnings_are_one_line_and_tracebacks_keep_theirs():
    formatter = PlainFormatter("%(levelname)s %(message)s")
    record = logging.LogRecord("x", logging.WARNING, "", 0, "%s is left out", (HOSTILE,), None)
    assert formatter.format(record) == f"WARNING {plain_line(HOSTILE)} is left out"
    try:
        raise ValueError("a")
    except ValueError:
        record.exc_info = sys.exc_info()
    assert formatter.format(record).count("\n") > 2


def test_facts_of_a_checkpoint_stay_on_their_lines():
    info = CheckpointInfo(
        path="x",
        format="native",
        kind="teacher",
        family="hubert",
        layers=1,
        dim=4,
        hop=320,
        parameters_encoder=1,
        parameters_total=1,
        targets=None,
        normalize_input=False,
        provenance={"recipe": f"{HOSTILE}\nformat  fairseq", "versions": {HOSTILE: "x" * 10_000}, "a": {}},
    )
    lines = info.lines()
    assert all(line.isprintable() and len(line) < 1200 for line in lines)
    assert sum(line.startswith("format") for line in lines) == 1


def test_streams_come_back_after_an_error():
    before = sys.stdout
    with pytest.raises(KeyError), plain_streams():
        assert sys.stdout is not before
        raise KeyError
    assert sys.stdout is before
