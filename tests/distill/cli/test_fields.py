"""Options of the command line from a dataclass's fields."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from distill.adaptation.targets_options import TargetsOptions
from distill.cli.fields import add_fields, from_namespace
from distill.cli.parser import build_parser


@dataclass(kw_only=True)
class Options:
    source: str = field(metadata={"help": "where from", "positional": True})
    words: Sequence[str] = field(default=(), metadata={"positional": True, "metavar": "key=value"})
    out: Path
    way: Literal["up", "down"] | None = None
    n_steps: int | None = None
    share: float = 0.5
    loud: bool = False


@pytest.fixture
def parser():
    made = argparse.ArgumentParser(exit_on_error=False)
    add_fields(made, Options)
    return made


def test_words_become_the_fields(parser):
    line = [
        "here",
        "a=1",
        "b=2",
        "--out",
        "there",
        "--way",
        "up",
        "--n-steps",
        "3",
        "--share",
        "0.25",
        "--loud",
    ]
    assert from_namespace(Options, parser.parse_args(line)) == Options(
        source="here", words=["a=1", "b=2"], out=Path("there"), way="up", n_steps=3, share=0.25, loud=True
    )


def test_what_is_left_out_has_its_default(parser):
    found = from_namespace(Options, parser.parse_args(["here", "--out", "there"]))
    assert (found.way, found.n_steps, found.share, found.loud, list(found.words)) == (
        None,
        None,
        0.5,
        False,
        [],
    )


def test_wrong_words_are_refused(parser):
    for wrong in (["here", "--out", "x", "--way", "left"], ["here", "--out", "x", "--n-steps", "many"]):
        with pytest.raises(argparse.ArgumentError):
            parser.parse_args(wrong)
    assert "key=value" in parser.format_help() and "where from" in parser.format_help()


def test_the_options_of_adapt_targets_are_those_of_its_dataclass():
    line = ["adapt targets", "mini_teacher", "seed=1", "--out", "x", "--export-fairseq", "y", "--layer", "3"]
    found = from_namespace(TargetsOptions, build_parser().parse_args(line))
    assert found == TargetsOptions(
        source="mini_teacher", overrides=["seed=1"], out=Path("x"), export_fairseq=Path("y"), layer=3
    )
