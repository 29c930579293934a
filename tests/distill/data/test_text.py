import gzip

import pytest

from distill.data.text import read_lines, read_table, read_text
from distill.errors import DataError


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_lines_end_at_a_line_feed_and_nowhere_else(tmp_path):
    odd = "one\u2028two", "\x0cthree\x85four", "five\rsix\x1cseven"
    path = write(tmp_path / "x.txt", f"\ufeff{odd[0]}\r\n\n  \t\n{odd[1]}\n{odd[2]}")
    assert read_lines(path) == [(1, odd[0]), (4, odd[1]), (5, odd[2])]


def test_gzip_is_unpacked_and_an_empty_file_has_no_lines(tmp_path):
    path = write(tmp_path / "x.txt.gz", gzip.compress(b"a\nb\n") + gzip.compress(b"c\n"))
    assert [line for _, line in read_lines(path)] == ["a", "b", "c"]
    assert read_lines(write(tmp_path / "empty", b"")) == []


@pytest.mark.parametrize(
    "content, message",
    [
        (
            "a\ncafé\n".encode("latin1"),
            r"x.txt is not UTF-8 \(line 2\); convert it: `iconv -f LATIN1 -t UTF-8 \S+/x.txt > new`",
        ),
        ("a\nb\n".encode("utf-16"), r"x.txt is not UTF-8 \(line 1\)"),
        ("a\nb\n".encode("utf-16-le"), r"x.txt is not UTF-8 \(line 1\)"),
        (gzip.compress(b"a\n"), r"x.txt is not UTF-8 \(line 1\)"),
    ],
)
def test_other_encodings_are_named_with_their_line(tmp_path, content, message):
    with pytest.raises(DataError, match=message):
        read_lines(write(tmp_path / "x.txt", content))


def test_what_is_no_file_or_no_gzip_is_one_line(tmp_path):
    with pytest.raises(DataError, match="nope does not exist"):
        read_text(tmp_path / "nope")
    with pytest.raises(DataError, match="is a folder, not a file"):
        read_text(tmp_path)
    for content in (b"a\n", gzip.compress(b"a" * 999)[:-9], b""):
        with pytest.raises(DataError, match="x.gz is not a complete gzip file"):
            read_text(write(tmp_path / "x.gz", content or b"\x1f\x8b"))


@pytest.mark.parametrize(
    "text",
    [
        "path\tlabel\na.wav\tup\nb.wav\tdown\n",
        "\ufeffpath \t label\r\n\r\na.wav\tup\t\r\nb.wav \tdown\r\n\r\n",
        '"path"\t"label"\n"a.wav"\t"up"\n"b.wav"\t"down"\n',
        'path,label\na.wav,"up"\nb.wav,down',
        "path;label\na.wav;up\n\nb.wav;down\n",
    ],
)
def test_tables_in_all_their_dialects(tmp_path, text):
    rows = read_table(write(tmp_path / "x.csv", text), ["path", "label"])
    assert [row for _, row in rows] == [
        {"path": "a.wav", "label": "up"},
        {"path": "b.wav", "label": "down"},
    ]


def test_quotes_in_text_between_tabs_stay(tmp_path):
    path = write(tmp_path / "x.tsv", 'path\ttext\na.wav\t"HELLO" HE SAID\nb.wav\t"OPEN\n')
    assert [row["text"] for _, row in read_table(path, ["path"])] == ['"HELLO" HE SAID', '"OPEN']


def test_rows_have_the_number_of_their_line(tmp_path):
    path = write(tmp_path / "x.csv", '\npath,text\n\na.wav,"two\nlines"\n\nb.wav,x\n')
    assert read_table(path, ["path"]) == [
        (4, {"path": "a.wav", "text": "two\nlines"}),
        (7, {"path": "b.wav", "text": "x"}),
    ]


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "no column 'path' in its header .empty file"),
        ("file\tlabel\n", r"no column 'path' in its header \(file, label\)"),
        ("path\tlabel\na.wav\tx\n\nb.wav\n", r"line 4 has 1 cells, its header has 2 \(path, label\)"),
        ("path\tlabel\na.wav\tx\ty\n", "line 2 has 3 cells"),
        ('path,label\na.wav,x\nb.wav,"y\n', "line 3 cannot be read"),
    ],
)
def test_tables_that_are_none_are_named_with_their_line(tmp_path, text, message):
    with pytest.raises(DataError, match=message):
        read_table(write(tmp_path / "x.tsv", text), ["path"])
