"""One benchmark by name, all in turn, or what there are."""

import subprocess
from types import SimpleNamespace

import pytest

from bench.__main__ import ON_ONE_THREAD, WITH_OPTIONS, main


def test_without_a_name_it_says_what_there_are(capsys):
    assert main([]) == 0
    out = capsys.readouterr().out
    assert all(f"\n  {name} " in out for name in (*WITH_OPTIONS, *ON_ONE_THREAD))


def test_unknown_names_are_refused(capsys):
    assert main(["stp"]) == 2
    assert "'stp'" in capsys.readouterr().err


def test_no_rounds_are_refused(capsys):
    for words in (["several", "--rounds", "0"], ["step", "--rounds", "0"], ["resume", "--kills", "-1"]):
        with pytest.raises(SystemExit) as ended:
            main(words)
        assert ended.value.code == 2
        assert "must be a whole number above 0" in capsys.readouterr().err


def test_a_failed_one_does_not_stop_the_others(monkeypatch, capsys):
    given = []

    def run(words):
        given.append(words[3:])
        return SimpleNamespace(returncode=int(words[3] == "data"))

    monkeypatch.setattr(subprocess, "run", run)
    assert main(["all", "--rounds", "2"]) == 1
    assert [words[0] for words in given] == [*WITH_OPTIONS, *ON_ONE_THREAD]
    assert ["step", "--rounds", "2"] in given and ["resume"] in given and ["cca", "--rounds", "2"] in given
    assert capsys.readouterr().err.strip() == "bench: failed: data"
