"""Every verb has help with an example; what is no verb at all."""

import pytest

from distill.cli.parser import EXAMPLES


def verbs(parser=None, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """All verbs that do something, by the parser itself."""
    from distill.cli.parser import build_parser

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
    assert EXAMPLES[" ".join(verb)] in out


def test_there_are_the_verbs_of_the_examples():
    assert {" ".join(verb) for verb in verbs()} == set(EXAMPLES)


@pytest.mark.parametrize("words", [[], ["data"]])
def test_a_verb_is_missing(distill, words):
    _, out, _ = distill(*words)
    assert "verbs:" in out


def test_nothing_at_all_is_a_usage_error(distill):
    assert distill()[0] == 2
    code, out, _ = distill("--version")
    assert code == 0 and out.startswith("distill ")
