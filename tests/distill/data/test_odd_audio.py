"""Odd audio, tables and manifests through the doors by which they come in.

Whatever is odd is read, converted, or left out and listed with a reason of one line: nothing hangs, ends in a
traceback or is lost without a word. `odd_audio` says which.
"""

import signal

import pytest
from lhotse import CutSet

from distill.cli import main
from distill.data.dataset import SpeechDataset
from distill.data.loading import train_loader
from distill.data.sources import index_cuts
from distill.data_prep import CORPORA
from distill.errors import DataError
from distill.preflight.survey import survey
from tests.distill.data.odd_audio import FILES, LINES, ROWS, write_manifest

KEPT = ("read", "converted")
WHEN_READ = ("not finite", "a frame needs", "more than is read at once")
"""Reasons that show only when the samples are read, in part of the files."""


@pytest.fixture(autouse=True)
def impatient():
    """Whatever waits for a pipe fails."""
    signal.alarm(60)
    yield
    signal.alarm(0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("odd") / "audio"
    root.mkdir()
    for kind in FILES:
        kind.make(root)
    (root / "up").symlink_to(root)
    (root / "folder.wav").mkdir()
    return root


def outcomes(source):
    """Ids that are read in an epoch of training, and the reasons of the others; each must come once."""
    cuts = index_cuts(str(source))
    used, skipped = [], {}
    for batch in train_loader(SpeechDataset(cuts), batch_size=len(cuts), buckets=1, workers=0):
        used += batch.ids
        for name, why in batch.skipped:
            assert name not in skipped and why.isprintable() and "[extra info]" not in why, (name, why)
            skipped[name] = why
    assert sorted([*used, *skipped]) == sorted(cut.id for cut in cuts)
    return set(used), skipped


def name_of(kind):
    return kind.name.rpartition(".")[0]


def test_there_are_more_than_forty_kinds_of_each():
    assert len(FILES) > 60 and len(LINES) > 60
    assert len({kind.name for kind in FILES}) == len(FILES)


def test_files_in_training(folder):
    used, skipped = outcomes(folder)
    assert len(used) + len(skipped) == len(FILES)
    for kind in FILES:
        if kind.outcome in KEPT:
            assert name_of(kind) in used, skipped.get(name_of(kind))
        else:
            assert kind.outcome in skipped[name_of(kind)]


def test_files_in_a_check(folder):
    found = survey(str(folder), sample=None, seed=0)
    assert not found.error and found.utterances == len(FILES)
    for kind in FILES:
        listed = [line for line in found.bad if f"/{kind.name}: " in line]
        if kind.outcome in KEPT:
            assert not listed
        elif not any(reason in kind.outcome for reason in WHEN_READ) and listed:
            assert kind.outcome in listed[0]
    assert all(line.count("\n") == 0 for line in found.bad) and len(found.bad) >= 30


def test_files_in_a_preparation(folder, tmp_path):
    CORPORA["folder"](folder, tmp_path / "out", split="all")
    lines = (tmp_path / "out" / "skipped.tsv").read_text().splitlines()
    listed = dict(line.split("\t") for line in lines[1:])
    used, skipped = outcomes(tmp_path / "out" / "all.jsonl.gz")
    assert len(listed) + len(used) + len(skipped) == len(FILES)
    for kind in FILES:
        if kind.outcome in KEPT:
            assert name_of(kind) in used
        else:
            assert kind.outcome in (listed.get(kind.name) or skipped[name_of(kind)])
    manifest = CutSet.from_file(tmp_path / "out" / "all.jsonl.gz")
    rates = {cut.id: cut.sampling_rate for cut in manifest}
    assert set(rates.values()) == {16_000}


def test_the_commands_say_the_same_in_one_line(folder, tmp_path, capfd):
    assert main(["data", "prepare", "folder", "--root", str(folder), "--out", str(tmp_path / "out")]) == 0
    said = capfd.readouterr()
    assert "skipped (listed in skipped.tsv)" in said.out and "Traceback" not in said.err
    words = ["data.train=[" + str(folder) + "]", "cdm=none"]
    assert main(["data", "check", "s4", *words, "--out", str(tmp_path / "run")]) == 1
    said = capfd.readouterr()
    assert f"bad files in {folder}" in said.out and "Traceback" not in said.err


def test_rows_of_a_table(folder):
    table = folder / "rows.tsv"
    table.write_text("path\n" + "".join(f"{path}\n" for path, _ in ROWS.values()))
    cuts = list(index_cuts(str(table)))
    used, skipped = outcomes(table)
    table.unlink()
    assert len(cuts) == len(ROWS)
    for cut, (kind, (_, outcome)) in zip(cuts, ROWS.items(), strict=True):
        if outcome in KEPT:
            assert cut.id in used, kind
        else:
            assert outcome in skipped[cut.id], kind


@pytest.mark.parametrize(
    "text, message",
    [
        ("path\nplain.wav\nplain.flac\n", "are both called plain; names must differ"),
        ("path\nplain.wav\nplain.wav\n", "are both called plain; names must differ"),
        ("path\n\t\n/\n", "line 3 has no path"),
        ("path\nplain.wav\n..\n", "line 3 has no path"),
        ("path\tlabel\nplain.wav\n", "line 2 has 1 cells"),
        ("path\nplain.wav\0\n", "is not UTF-8 .line 2"),
        ("", "no column 'path' in its header .empty file"),
        ("path\n", "has no audio"),
        (".\nplain.wav\t4000\nplain.wav\n", "line 3 is not a path, a tab and a number of samples"),
        ("path\tpath\nplain.wav\tx.wav\n", "no file that it names exists"),
    ],
)
def test_tables_that_are_refused(folder, text, message):
    table = folder / "refused.tsv"
    table.write_text(text)
    with pytest.raises(DataError, match=message) as error:
        index_cuts(str(table))
    table.unlink()
    assert str(error.value).isprintable()


def test_two_files_of_one_name_in_a_folder(tmp_path):
    FILES[0].make(tmp_path)
    (tmp_path / "plain.flac").write_bytes(b"x")
    with pytest.raises(DataError, match="are both called plain; names must differ"):
        index_cuts(str(tmp_path))


def test_lines_of_a_manifest(folder, tmp_path):
    write_manifest(folder, tmp_path / "lines.jsonl")
    cuts = index_cuts(str(tmp_path / "lines.jsonl"))
    assert len(cuts) == len(LINES)
    dataset = SpeechDataset(cuts)
    for number, (kind, (_, outcome)) in enumerate(LINES.items()):
        batch = dataset[0, 0, [number]]
        why = batch.skipped[0][1] if batch.skipped else "read"
        assert outcome in why and why.isprintable() and "[extra info]" not in why, kind
    assert not (folder / "ran").exists()


def test_lines_of_a_manifest_in_a_check(folder, tmp_path):
    write_manifest(folder, tmp_path / "lines.jsonl")
    found = survey(str(tmp_path / "lines.jsonl"), sample=None, seed=0)
    bad = sum(outcome not in KEPT for _, outcome in LINES.values())
    assert not found.error and found.utterances == len(LINES) and len(found.bad) >= bad - 8
    assert all("\n" not in line for line in found.bad)
