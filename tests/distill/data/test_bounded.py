"""Small files that hold gigabytes: each is refused in one line, within 2 GB of memory and 10 CPU-seconds."""

import gzip
import subprocess
import sys

import pytest

CUT = (
    '{"id": "u%d", "start": 0, "duration": 0.25, "channel": 0, "supervisions": [], "recording": {"id": "r", '
    '"sources": [{"type": "file", "channels": [0], "source": "/nowhere/a.wav"}], "sampling_rate": 16000, '
    '"num_samples": 4000, "duration": 0.25, "channel_ids": [0]}, "type": "MonoCut"}\n'
)
MB = 2**20


def packed(*pieces):
    """A gzip file of several members: a piece and how often it comes."""
    return b"".join(gzip.compress(piece.encode()) * times for piece, times in pieces)


BOMBS = {
    "a line without end.jsonl.gz": (
        lambda: packed(('{"id": "', 1), ("a" * 8 * MB, 1000)),
        "line 1 has more than 16",
    ),
    "blank lines.jsonl": (lambda: b"\n" * 10_000_000, "are blank"),
    "a billion blank lines.jsonl.gz": (lambda: packed(("\n" * 8 * MB, 120)), "are blank"),
    "blank lines after a cut.jsonl.gz": (lambda: packed((CUT % 0, 1), ("\n" * 8 * MB, 120)), "are blank"),
    "a cut and other lines.jsonl.gz": (
        lambda: packed((CUT % 0, 1), ("x\n" * 4 * MB, 100)),
        "most of its lines are",
    ),
    "lines of other JSON.jsonl.gz": (
        lambda: packed(("[" + "[]," * 4 * MB + "[]]\n", 9)),
        "a JSON list, not a cut",
    ),
    "the same cuts again.jsonl.gz": (lambda: packed((CUT % 0 * 20_000, 100)), "200 times"),
    "deep.jsonl": (lambda: b"[" * 15 * MB, "not valid JSON"),
    "a long number.jsonl": (lambda: (CUT % 0).replace("0.25", "9" * 5 * MB, 1).encode(), "not valid JSON"),
    "blank rows.tsv": (lambda: b"path\n" + b"\n" * 10_000_000, "are blank"),
    "a row without end.tsv": (lambda: b"path\n" + b"a" * 17 * MB, "line 2 has more than 16 MB"),
    "columns without end.tsv": (lambda: b"path" + b"\tx" * 5 * MB, "its header, cannot be read"),
    "files that are not there.tsv": (
        lambda: b"path\n" + b"a.wav\n" * 3_000_000,
        "none of the first 1000 files",
    ),
}
READ = """
import sys, resource
from distill.data.sources import index_cuts
from distill.errors import DataError
before = resource.getrusage(resource.RUSAGE_SELF)
for path in sys.argv[1:]:
    try:
        index_cuts(path)
        print("read")
    except DataError as error:
        print(error)
    used = resource.getrusage(resource.RUSAGE_SELF)
    seconds = used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime
    print(seconds, used.ru_maxrss - before.ru_maxrss)
    before = used
"""


SLOW = ("a cut and other lines", "lines of other JSON", "the same cuts again", "files that are not there")


def refused(folder, names):
    """By bomb: message, CPU-seconds and kilobytes."""
    for name in names:
        if name in BOMBS:
            (folder / name).write_bytes(BOMBS[name][0]())
        else:
            with open(folder / name, "wb") as file:
                file.truncate(8 * 1024 * MB)
    command = [sys.executable, "-c", READ, *(folder / name for name in names)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert len(lines) == 2 * len(names), done.stdout
    assert not list(folder.glob(".index/*/"))
    for name, line, used in zip(names, lines[::2], lines[1::2], strict=True):
        cpu_s, kilobytes = map(float, used.split())
        assert name in line and BOMBS.get(name, (0, "line 1 has more than 16 MB"))[1] in line
        assert cpu_s < 10 and kilobytes < 2_000_000, (name, used)


def test_a_bomb_is_refused_in_one_line(tmp_path):
    refused(tmp_path, [name for name in [*BOMBS, "zeros.jsonl"] if not name.startswith(SLOW)])


@pytest.mark.slow
def test_so_is_one_that_takes_some_seconds(tmp_path):
    refused(tmp_path, [name for name in BOMBS if name.startswith(SLOW)])
