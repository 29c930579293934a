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
    ],
)
def test_no_cell_is_markup_or_leaves_its_place(text, shown):
    assert markdown.escape(text) == shown
    assert markdown.table([text], [[text]]) == f"| {shown} |\n| --- |\n| {shown} |"
