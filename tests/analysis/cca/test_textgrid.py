"""TextGrids as Praat and aligners write them, and files that are something else."""

import pytest

from distill.analysis.cca.segments import Interval
from distill.analysis.cca.textgrid import MOST_BYTES, Tier, read_textgrid
from distill.errors import DataError

LONG = """File type = "ooTextFile"
Object class = "TextGrid"

xmin = 0
xmax = 2.3
tiers? <exists>
size = 3
item []:
    item [1]:
        class = "IntervalTier"
        name = "words"
        xmin = 0
        xmax = 2.3
        intervals: size = 2
        intervals [1]:
            xmin = 0
            xmax = 1.5e-1
            text = "don""t ! stop <p>"
        intervals [2]:
            xmin = 0.15
            xmax = 2.3
            text = ""
    item [2]:
        class = "TextTier"  ! a remark with a "quote" in it
        name = "clicks"
        xmin = 0
        xmax = 2.3
        points: size = 1
        points [1]:
            number = 0.5
            mark = "1"
    item [3]:
        class = "IntervalTier"
        name = "é phones"
        xmin = 0
        xmax = 2.3
        intervals: size = 0
"""
SHORT = """File type = "ooTextFile"
Object class = "TextGrid"

0
2.3
<exists>
3
"IntervalTier"
"words"
0
2.3
2
0
1.5e-1
"don""t ! stop <p>"
0.15
2.3
""
"TextTier"
"clicks"
0
2.3
1
0.5
"1"
"IntervalTier" "é phones" 0 2.3 0
"""
TIERS = [
    Tier("words", [Interval('don"t ! stop <p>', 0.0, 0.15), Interval("", 0.15, 2.3)]),
    Tier("clicks", None),
    Tier("é phones", []),
]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("form", [LONG, SHORT, SHORT.replace('"ooTextFile"', '"ooTextFile short"')])
def test_both_forms_in_every_encoding(tmp_path, form, ends, encoding):
    text = form.replace("\n", ends)
    mark = "\ufeff" if encoding in ("utf-16-le", "utf-16-be") else ""
    (tmp_path / "a.TextGrid").write_bytes((mark + text).encode(encoding))
    assert read_textgrid(tmp_path / "a.TextGrid") == TIERS


def test_no_tiers(tmp_path):
    text = 'File type = "ooTextFile"\nObject class = "TextGrid"\n\n0\n2.3\n<absent>\n'
    (tmp_path / "a.TextGrid").write_text(text)
    assert read_textgrid(tmp_path / "a.TextGrid") == []


@pytest.mark.parametrize(
    "content, message",
    [
        (
            b"ooBinaryFile\x08TextGrid\x00\x00",
            "a.TextGrid is a binary TextGrid; save it as a text file in Praat",
        ),
        (LONG.encode("latin-1"), r"not UTF-8 \(line 34\)"),
        (SHORT.replace("é", "e").encode("utf-16-le"), r"not UTF-8 \(line 1\)"),
        (b"\xff\xfe" + b"a" * 3, r"not UTF-16"),
        (LONG[:300].encode(), "a.TextGrid is cut off: it ends before"),
        (b"", "is cut off"),
        (LONG.replace("size = 2\n", "size = 3\n").encode(), "line 24: .TextTier. where a time"),
        (LONG.replace("size = 2\n", "size = 1\n").encode(), "line 20: 0.15 where the class of a tier"),
        (
            LONG.replace("size = 2\n", "size = 99999999999999\n").encode(),
            "line 14: 99999999999999 where a number of intervals",
        ),
        (LONG.replace("size = 2\n", "size = 2.5\n").encode(), "line 14: 2.5 where a number of intervals"),
        (LONG.replace("xmin = 0.15", "xmin = 1e999").encode(), "line 20: a time that is not finite"),
        (LONG.replace("xmin = 0.15", "xmin = x").encode(), "line 22: .* where a time"),
        (
            LONG.replace('"TextGrid"', '"PitchTier"').encode(),
            "is not a TextGrid .it says ooTextFile, PitchTier",
        ),
        (LONG.replace('"TextTier"', '"Graph"').encode(), "line 24: a tier of the unknown class Graph"),
        (LONG.replace('text = ""', 'text = "').encode(), "line 24: "),
    ],
)
def test_other_files_are_refused(tmp_path, content, message):
    (tmp_path / "a.TextGrid").write_bytes(content)
    with pytest.raises(DataError, match=message) as error:
        read_textgrid(tmp_path / "a.TextGrid")
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


def test_a_huge_file_is_refused_unread(tmp_path):
    with (tmp_path / "a.TextGrid").open("wb") as file:
        file.truncate(MOST_BYTES + 1)
    with pytest.raises(DataError, match="too many"):
        read_textgrid(tmp_path / "a.TextGrid")


@pytest.mark.parametrize("text", ['"a"" "" ', "<", '"x" ', "1.", "1" * 50, "x!\n"])
def test_hostile_repetitions_are_read_in_linear_time(tmp_path, text):
    (tmp_path / "a.TextGrid").write_text(text * (1_000_000 // len(text)))
    with pytest.raises(DataError):  # a search that tries every pair of places would take hours
        read_textgrid(tmp_path / "a.TextGrid")
