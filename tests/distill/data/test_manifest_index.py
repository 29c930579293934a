"""The index of a manifest: made once, again when the manifest changes or the index is damaged."""

import json
import os
import shutil
import socket

import numpy as np
import pytest

from distill.data import manifest_index
from distill.data.manifest import ManifestCuts
from distill.data.manifest_index import LINE, _checksum
from distill.data.unusable import why_unusable
from distill.hashing import hash_files
from tests.distill.data.manifests import packed


def test_an_index_is_made_once_and_when_the_manifest_changes(manifest):
    ManifestCuts(manifest)
    about = manifest.parent / ".index" / manifest.name / "about.json"
    made = about.stat().st_mtime_ns
    ManifestCuts(manifest)
    assert about.stat().st_mtime_ns == made
    lines = manifest.read_text().splitlines()
    manifest.write_text("\n".join(lines[5:]) + "\n")
    assert len(ManifestCuts(manifest)) == 18
    assert [item.name for item in about.parents[1].iterdir() if item.is_dir()] == [manifest.name]


def test_an_index_that_another_machine_has_finished_in_the_meantime_stays(manifest, tmp_path, monkeypatch):
    """The lock does not reach it on every file system, and its processes have the files open."""
    ManifestCuts(manifest)
    folder = manifest.parent / ".index" / manifest.name
    write = manifest_index._write_lines

    def meanwhile(*arguments):
        shutil.copytree(tmp_path / "theirs", folder)
        return write(*arguments)

    shutil.move(folder, tmp_path / "theirs")
    monkeypatch.setattr(manifest_index, "_write_lines", meanwhile)
    made = (tmp_path / "theirs" / "about.json").stat().st_mtime_ns
    assert len(ManifestCuts(manifest)) == 23
    assert (folder / "about.json").stat().st_mtime_ns == made
    assert [item.name for item in folder.parent.iterdir() if item.is_dir()] == [manifest.name]


def test_a_folder_that_cannot_be_written(manifest, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert len(ManifestCuts(manifest)) == 23
    assert not (manifest.parent / ".index").exists()
    assert len(list((tmp_path / "cache").rglob("about.json"))) == 1


@pytest.mark.parametrize("prepare", [lambda path: path, packed])
@pytest.mark.parametrize(
    "file, content", [("about.json", b'{"cu'), ("about.json", b"[]"), ("lines", b"short")]
)
def test_a_damaged_index_is_made_again(manifest, file, content, prepare):
    path = prepare(manifest)
    whole = list(ManifestCuts(path))
    damaged = manifest.parent / ".index" / path.name / file
    for harm in (lambda: damaged.write_bytes(content), damaged.unlink):
        harm()
        assert list(ManifestCuts(path)) == whole


def test_a_damaged_copy_of_a_packed_manifest_is_made_again(manifest):
    path = packed(manifest)
    whole = list(ManifestCuts(path))
    copy = manifest.parent / ".index" / path.name / "cuts.jsonl"
    copy.write_bytes(copy.read_bytes()[:-100])
    assert list(ManifestCuts(path)) == whole
    shutil.rmtree(copy.parent)
    copy.parent.write_text("a file where the folder was")
    assert list(ManifestCuts(path)) == whole


def flipped(path, place):
    content = bytearray(path.read_bytes())
    content[place] ^= 0x10
    path.write_bytes(content)


@pytest.mark.parametrize("place", [0, 8, 13, 17, 22, -1])
def test_a_flipped_bit_in_an_index_is_said_and_the_index_made_again(manifest, place, caplog):
    whole = list(ManifestCuts(manifest))
    lines = manifest.parent / ".index" / manifest.name / "lines"
    good = lines.read_bytes()
    flipped(lines, place)
    assert list(ManifestCuts(manifest)) == whole and lines.read_bytes() == good
    assert "is damaged, and made again" in caplog.text


def test_a_flipped_number_in_what_an_index_says_of_itself(manifest, caplog):
    seconds = ManifestCuts(manifest).seconds
    about = manifest.parent / ".index" / manifest.name / "about.json"
    about.write_text(about.read_text().replace('"seconds": ', '"seconds": 1'))
    assert ManifestCuts(manifest).seconds == seconds and "is damaged" in caplog.text


def test_a_flipped_bit_in_the_copy_of_a_packed_manifest_is_one_utterance(manifest):
    path = packed(manifest)
    cuts = ManifestCuts(path)
    flipped(manifest.parent / ".index" / path.name / "cuts.jsonl", 30)
    assert "damaged on the disk" in why_unusable(cuts[0]) and not why_unusable(cuts[1])


def test_what_killed_processes_left_is_removed(manifest):
    indices = manifest.parent / ".index"
    here = f"{manifest.name}.{socket.gethostname()}.12345"
    abandoned, fresh = f"{manifest.name}.12345", f"{manifest.name}.elsewhere.12345"
    for name in (here, abandoned, fresh):
        (indices / name).mkdir(parents=True)
        (indices / name / "lines").write_bytes(b"x" * 999)
    for path in (indices / abandoned / "lines", indices / abandoned):
        os.utime(path, (1, 1))
    for _ in range(2):  # also where the index is there already
        assert len(ManifestCuts(manifest)) == 23
        assert {path.name for path in indices.iterdir() if path.is_dir()} == {manifest.name, fresh}
        (indices / here).mkdir()


def test_links_in_the_place_of_an_index_are_not_followed(manifest, tmp_path):
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "lines").write_text("mine")
    (tmp_path / "file").write_text("mine")
    indices = manifest.parent / ".index"
    indices.mkdir()
    name = manifest.name
    (indices / name).symlink_to(victim)
    (indices / f"{name}.lock").symlink_to(tmp_path / "file")
    (indices / f"{name}.{socket.gethostname()}.{os.getpid()}").symlink_to(victim)
    whole = list(ManifestCuts(manifest))
    assert len(whole) == 23 and not (indices / name).is_symlink()
    for file in ("about.json", "lines"):  # a link or a pipe in the place of a file
        (indices / name / file).unlink()
        (indices / name / file).symlink_to(victim / "lines")
        assert list(ManifestCuts(manifest)) == whole
        (indices / name / file).unlink()
        os.mkfifo(indices / name / file)
        assert list(ManifestCuts(manifest)) == whole
    assert (victim / "lines").read_text() == "mine" and (tmp_path / "file").read_text() == "mine"
    assert sorted(path.name for path in victim.iterdir()) == ["lines"]


def test_a_linked_folder_of_indices_is_not_used(manifest, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "victim").mkdir()
    (manifest.parent / ".index").symlink_to(tmp_path / "victim")
    assert len(ManifestCuts(manifest)) == 23 and not list((tmp_path / "victim").iterdir())


def test_an_index_of_a_stranger_does_not_make_us_allocate_gigabytes(manifest):
    """Whole by its own checksums, with a line of 4 GB."""
    whole = list(ManifestCuts(manifest))
    folder = manifest.parent / ".index" / manifest.name
    lines = np.fromfile(folder / "lines", dtype=LINE)
    lines["n_bytes"][3] = 2**32 - 1
    lines.tofile(folder / "lines")
    about = json.loads((folder / "about.json").read_text())
    about["lines"] = hash_files([folder / "lines"], digest_size=16)
    (folder / "about.json").write_text(json.dumps(about | {"checksum": _checksum(about)}))
    assert list(ManifestCuts(manifest)) == whole
