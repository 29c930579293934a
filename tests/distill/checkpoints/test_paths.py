"""Which texts are absolute paths."""

import pytest

from distill.checkpoints.paths import without_absolute_paths


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/home/a b/c.pt", "c.pt"),
        ("~me/x/y", "y"),
        ("file:///home/me/x", "x"),
        ("/data/words.tsv?split=dev&text=a", "words.tsv?split=dev&text=a"),
        ("--out=/home/me/x, then (/home/me/y)", "--out=x, then (y)"),
        ("cat:/home/me/x.tar", "cat:x.tar"),
        *(
            (text, text)
            for text in ("runs/t1_prime", "a/b and 1/2/3", "https://x.org/a/b", "s3://bucket/a/b")
        ),
        *((text, text) for text in ("50 frames / s", "", "${root}/a/b", "[(512,10,5)] + [(512,3,2)] * 4")),
    ],
)
def test_what_counts_as_an_absolute_path(text, expected):
    assert without_absolute_paths(text) == expected
    assert without_absolute_paths({text: [text, (1, None)]}) == {expected: [expected, [1, None]]}
