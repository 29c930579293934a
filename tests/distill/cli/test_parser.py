"""Every verb has help with an example; words that are no verb; words after options."""

import pytest

from distill.cli.parser import build_parser, parse
from distill.cli.verbs import VERBS


def verbs(parser=None, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """All verbs that do something, by the parser itself."""
    parser = parser or build_parser()
    choices = [a.choices for a in parser._actions if hasattr(a, "choices") and isinstance(a.choices, dict)]
    if not choices:
        return [path]
    return [verb for name, inner in choices[0].items() for verb in verbs(inner, (*path, name))]


@pytest.mark.parametrize("verb", verbs(), ids=" ".join)
def test_help_has_an_example(distill, verb):
    code, out, _ = distill(*verb, "--help")
    assert code == 0
    assert f"example:\n  distill {' '.join(verb)}" in out
    assert VERBS[" ".join(verb)].example in out


def test_the_parser_has_the_verbs_of_the_table():
    assert {" ".join(verb) for verb in verbs()} == set(VERBS)


def test_words_that_follow_an_option_belong_to_the_last_list_of_words():
    parser = build_parser()
    assert parse(parser, ["train", "s4", "a=1", "--out", "x", "b=2"]).overrides == ["a=1", "b=2"]
    sweep = parse(parser, ["sweep", "runs/s1", "--task", "ks", "runs/s4", "lm=x"])
    assert sweep.students == ["runs/s1", "runs/s4", "lm=x"]
    with pytest.raises(SystemExit):
        parse(parser, ["table", "evaluations", "--measured", "others"])


@pytest.mark.parametrize("words", [[], ["data"]])
def test_a_verb_is_missing(distill, words):
    _, out, _ = distill(*words)
    assert "verbs:" in out


def test_nothing_at_all_is_a_usage_error(distill):
    assert distill()[0] == 2
    code, out, _ = distill("--version")
    assert code == 0 and out.startswith("distill ")
