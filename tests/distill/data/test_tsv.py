"""Lists of audio in the forms in which people hand them in."""

import numpy as np
import pytest
import soundfile

from distill.data.sources import open_cuts
from distill.errors import DataError

ROWS = [("a.wav", "up"), ("b.wav", "down"), ("c.wav", "up")]


@pytest.fixture
def folder(tmp_path):
    for name, _ in ROWS:
        soundfile.write(tmp_path / name, np.zeros(800), 16_000)
    return tmp_path


def listed(folder, content, query=""):
    path = folder / "list.tsv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return [(cut.id, cut.custom) for cut in open_cuts(f"{path}{query}")]


PLAIN = "path\tlabel\n" + "".join(f"{name}\t{label}\n" for name, label in ROWS)


@pytest.mark.parametrize(
    "content",
    [
        PLAIN + "\n\n",
        "\ufeff" + PLAIN,
        PLAIN.replace("\n", "\r\n"),
        PLAIN.replace("path\tlabel", "path \t label"),
        '"' + PLAIN.replace("\t", '"\t"').rstrip("\n").replace("\n", '"\n"') + '"\n',
        "label\tpath\n" + "".join(f"{label}\t{name}\n" for name, label in ROWS),
        PLAIN.replace("\t", ","),
    ],
)
def test_blank_lines_line_ends_headers_and_quotes(folder, content):
    assert listed(folder, content) == [(name[0], {"label": label}) for name, label in ROWS]
    assert [name for name, _ in listed(folder, content, "?label=up")] == ["a", "c"]


def test_a_transcript_is_not_cut_at_odd_characters(folder):
    texts = ["TURN IT UP\u2028PLEASE", "PAGE ONE\x0cPAGE TWO", "NEXT\x85LINE"]
    rows = "".join(f"{name}\t{text}\n" for (name, _), text in zip(ROWS, texts, strict=True))
    assert [custom["text"] for _, custom in listed(folder, f"path\ttext\n{rows}")] == texts


def test_a_manifest_of_fairseq_is_read(folder):
    (folder / "deep").mkdir()
    for home in (folder, ".", "../" + folder.name):
        assert listed(folder, f"{home}\na.wav\t800\nb.wav\t800\n") == [("a", {}), ("b", {})]


@pytest.mark.parametrize(
    "content, message",
    [
        (PLAIN.encode("utf-16"), r"list.tsv is not UTF-8 \(line 1\)"),
        ("path\tlabel\na.wav\tcafé\n".encode("latin1"), r"list.tsv is not UTF-8 \(line 2\)"),
        ("path\tlabel\na.wav\tup\n\nb.wav\n", "list.tsv: line 4 has 1 cells, its header has 2"),
        ("path\tlabel\na.wav\tup\n\tdown\n", "list.tsv: line 3 has no path"),
        ("path\n../..\n", "list.tsv: line 2 has no path"),
        ("no/such/folder\na.wav\t800\n", "no file that it names exists, such as .*/no/such/folder/a.wav"),
        ("a.wav\t800\nb.wav\t800\n", "no column 'path'"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(folder, content, message):
    with pytest.raises(DataError, match=message) as error:
        listed(folder, content)
    assert "\n" not in str(error.value)
