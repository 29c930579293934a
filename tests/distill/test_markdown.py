"""Tables that no cell can break."""

import pytest

from distill import markdown


def test_a_table_has_a_rule_below_its_header():
    assert markdown.table(["model", "clean"], [["s1", "90.0"], ["s4", ""]]) == (
        "| model | clean |\n| --- | --- |\n| s1 | 90.0 |\n| s4 |  |"
    )


def test_numbers_are_aligned_to_the_right():
    rule = markdown.table(["", "model", "clean"], [], numbers_from=2).splitlines()[1]
    assert rule == "| --- | --- | ---: |"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a|b", r"a\|b"),
        ("a\nb\r\u2028c", "a b  c"),
        ("<img src=x>", r"\<img src=x>"),
        ("C:\\runs", r"C:\\runs"),
        ("s4 & 50% _x_", "s4 & 50% _x_"),
        ("[click](javascript:x)", r"[click]\(javascript:x)"),
        ("![x](http://x)", r"!\[x]\(http://x)"),
        ("[x]: http://x", r"[x]\: http://x"),
        ("[a][b] `c` **d** ~~e~~", r"[a]\[b] \`c\` \*\*d\*\* \~~e\~~"),
        ("93.25 (0.50, n=2) [92.30, 94.07]", "93.25 (0.50, n=2) [92.30, 94.07]"),
    ],
)
def test_no_cell_is_markup_or_leaves_its_place(text, shown):
    assert markdown.escape(text) == shown
    assert markdown.table([text], [[text]]) == f"| {shown} |\n| --- |\n| {shown} |"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("# a", r"\# a"),
        ("  - a", r"\- a"),
        ("---", r"\---"),
        ("\n\n===", r"\==="),
        ("12. a", r"12\. a"),
        ("3) a", r"3\) a"),
        ("> a", r"\> a"),
        ("~~~", r"\~\~~"),
        ("3.5 dB", r"3\.5 dB"),
        ("a\n# b", "a # b"),
        ("s4_prime", "s4_prime"),
    ],
)
def test_a_paragraph_is_one(text, shown):
    assert markdown.paragraph(text) == shown


def test_long_texts_are_cut():
    assert markdown.shortened("a\nb", 3) == "a b"
    assert markdown.shortened("abcd", 3) == "ab…"
