"""What a result file holds, of this version and of earlier ones."""

import json
import logging
import math

import pytest

from distill.downstream.results import parse_result, read_results
from distill.downstream.tables import make_tables
from distill.errors import UserError
from tests.downstream.made_results import values, write

EARLIER = {
    "task": "ks",
    "condition": "clean",
    "metric": "accuracy",
    "value": 90.0,
    "seed": 0,
    "fold": None,
    "lm": False,
    "features": "last",
    "model": "runs/s4",
    "checkpoint_hash": "a" * 32,
    "recipe": "s4",
    "head_steps": 200_000,
    "n_utterances": 3081,
    "versions": {"torch": "2.11.0"},
    "finished": "2026-01-01T00:00:00",
}


def test_results_of_earlier_versions_have_the_papers_protocol():
    result = parse_result(EARLIER)
    assert (result.protocol, result.variant) == ("paper", "paper")
    assert (result.dev, result.row, result.predictions) == (None, None, None)
    assert result.silent == result.settings == {}


def test_what_later_versions_add_is_read():
    more = {"protocol": "s3prl", "variant": "authors", "dev": 91, "row": "S1", "silent": {"noise": 2}}
    result = parse_result(EARLIER | more | {"predictions": "predictions/ks.tsv"})
    assert {name: getattr(result, name) for name in more} == more
    assert result.predictions == "predictions/ks.tsv"


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"protocol": None}, "protocol is None"),
        ({"dev": "91"}, "dev is '91'"),
        ({"dev": float("nan")}, "dev is nan"),
        ({"silent": 2}, "silent is 2"),
    ],
)
def test_what_they_add_is_checked(wrong, text):
    with pytest.raises(ValueError, match=text):
        parse_result(EARLIER | wrong)


def test_results_are_found_below_runs_and_sweeps_once(tmp_path):
    write(tmp_path / "sweep" / "s4-1a2b" / "ks-last-seed0", {})
    assert len(read_results([tmp_path / "sweep", tmp_path / "sweep" / "s4-1a2b"])) == 1
    assert len(read_results([tmp_path / "sweep/s4-1a2b/ks-last-seed0/results"])) == 1


def test_a_result_that_was_being_written_is_not_another_one(tmp_path, caplog):
    """Of a process that was killed before the file had its name, or that is at it."""
    folder = tmp_path / "s4-1a2b" / "ks-last-seed0"
    write(folder, {})
    (written,) = (folder / "results").iterdir()
    for text in (written.read_text(), "{"):
        written.with_name(f".0123456789ab.{written.name}").write_text(text)
        for place in (tmp_path, folder / "results"):
            assert len(read_results([place])) == 1
    assert not caplog.messages


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ('{"task": "ks"', "Expecting"),
        ("[1, 2]", "holds a list, expected a JSON object"),
        ('{"loss": 1}', "no 'task'"),
        (json.dumps(values(value="high")), "value is 'high'"),
        (json.dumps(values(value=math.nan)), "value is nan"),
        (json.dumps(values(value=True)), "value is True"),
        (json.dumps(values(lm=1)), "lm is 1"),
        (json.dumps(values(seed=None)), "seed is None"),
        (json.dumps(values(metric="bleu")), "metric is 'bleu'"),
        ("\udcff", "codec"),
    ],
)
def test_damaged_and_foreign_files_are_named_and_left_out(tmp_path, caplog, content, reason):
    write(tmp_path, {})
    bad = tmp_path / "results" / "bad.json"
    bad.write_bytes(content.encode("utf-8", "surrogateescape"))
    with caplog.at_level(logging.WARNING):
        assert len(read_results([tmp_path])) == 1
    assert str(bad) in caplog.text
    assert reason in caplog.text


def test_a_missing_folder_and_one_without_results(tmp_path):
    with pytest.raises(UserError, match="nowhere is not a folder"):
        make_tables([tmp_path / "nowhere"])
    with pytest.raises(UserError, match="no results in"):
        make_tables([tmp_path])
    with pytest.raises(ValueError, match="markdown, csv, latex"):
        make_tables([], "html")
