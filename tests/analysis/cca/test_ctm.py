"""CTM files: fields, comments, what is not one."""

import gzip

import pytest

from distill.analysis.cca.ctm import MOST_INTERVALS, read_ctm
from distill.analysis.cca.segments import Interval
from distill.errors import DataError

TEXT = """\ufeff;; a comment
a 1 0.25 0.5 yes
a  A\t1 .25 no 0.97

;; b
b 1 0 1e-1 <eps> NA
c 1 0 1 other
"""


@pytest.mark.parametrize("name", ["x.ctm", "x.ctm.gz"])
def test_fields_and_comments(tmp_path, name):
    content = TEXT.replace("\n", "\r\n").encode()
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    assert read_ctm(tmp_path / name, "ab".__contains__) == {
        "a": [Interval("yes", 0.25, 0.75), Interval("no", 1.0, 1.25)],
        "b": [Interval("<eps>", 0.0, 0.1)],
    }


@pytest.mark.parametrize(
    "content, message",
    [
        (b"a 1 0 1 yes\nb 1 0 1\n", "x.ctm, line 2: 'b 1 0 1' is not of the form NAME CHANNEL START"),
        (b"a 1 0 1 yes or no", "line 1: .* is not of the form"),
        (b"a 1 zero 1 yes", "line 1"),
        (b"a 1 nan 1 yes", "line 1"),
        (b"a 1 1_0 1 yes", "line 1"),
        (b"a 1 0 1 yes\n\na 1 1 1 n\xf6", "x.ctm, line 3: not UTF-8"),
        ("a 1 0 1 yes\n".encode("utf-16"), "line 1: not a line of a CTM"),
        (b"a" * 200_000, "line 1: not a line of a CTM"),
    ],
)
def test_other_files_are_refused(tmp_path, content, message):
    (tmp_path / "x.ctm").write_bytes(content)
    with pytest.raises(DataError, match=message) as error:
        read_ctm(tmp_path / "x.ctm", lambda name: True)
    assert "\n" not in str(error.value) and len(str(error.value)) < 300


def test_damaged_gzip_and_folders(tmp_path):
    (tmp_path / "x.ctm.gz").write_bytes(gzip.compress(TEXT.encode())[:-10])
    with pytest.raises(DataError, match="not a complete gzip file"):
        read_ctm(tmp_path / "x.ctm.gz", lambda name: True)
    with pytest.raises(DataError, match="is a folder"):
        read_ctm(tmp_path, lambda name: True)


def test_an_utterance_has_no_end(tmp_path):
    (tmp_path / "x.ctm").write_text("a 1 0 1 yes\n" * (MOST_INTERVALS + 1))
    with pytest.raises(DataError, match=r"line 200001: more than 200,000 intervals of a"):
        read_ctm(tmp_path / "x.ctm", lambda name: True)
    assert read_ctm(tmp_path / "x.ctm", lambda name: name == "b") == {}


def test_a_small_file_of_endless_comments(tmp_path, monkeypatch):
    monkeypatch.setattr("distill.data.bounded._UNPACKED_FREELY", 1 << 20)  # bytes
    (tmp_path / "x.ctm.gz").write_bytes(gzip.compress((b";; " + b"x" * 60_000 + b"\n") * 200))
    with pytest.raises(DataError, match="unpacks to more than 200 times its size"):
        read_ctm(tmp_path / "x.ctm.gz", lambda name: True)
