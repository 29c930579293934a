"""The index of a manifest: made once, again when the manifest changes or the index is damaged."""

import os
import shutil

import pytest

from distill.data.manifest import ManifestCuts
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
