"""Files that are whole or not there."""

import contextlib
import errno
import gc
import math
import os
import resource
from contextlib import contextmanager
from uuid import UUID

import pytest
import torch

from distill.atomic import atomic, read_json, remove_leftovers, write_json, write_text
from distill.checkpoints import files
from distill.errors import CheckpointError, DamagedFile
from distill.training.saving import CarefulCheckpointIO


def names(folder):
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_a_file_appears_when_it_is_whole(tmp_path):
    path = tmp_path / "new" / "scores.json"
    with atomic(path) as temporary:
        temporary.write_text("{}")
        assert temporary.parent == path.parent and not path.exists()
    assert path.read_text() == "{}" and names(tmp_path) == ["scores.json"]


def test_a_block_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "scores.json"
    write_text(path, "old")
    with pytest.raises(ZeroDivisionError), atomic(path) as temporary:
        temporary.write_text("ne")
        raise ZeroDivisionError
    assert path.read_text() == "old" and names(tmp_path) == ["scores.json"]


def test_two_writers_do_not_meet_in_one_temporary_file(tmp_path):
    path = tmp_path / "index"
    with atomic(path) as one, atomic(path) as other:
        one.write_text("one")
        other.write_text("other")
    assert path.read_text() == "one" and names(tmp_path) == ["index"]


def test_what_a_killed_process_left_is_written_over(tmp_path):
    path = tmp_path / "last.ckpt"
    with atomic(path, sole=True) as temporary:
        left = temporary
        temporary.write_text("x")
    left.write_text("of a process that was killed")
    with atomic(path, sole=True) as temporary:
        assert temporary == left
        temporary.write_text("y")
    assert path.read_text() == "y" and names(tmp_path) == ["last.ckpt"]


def test_json_out_and_in(tmp_path):
    path = tmp_path / "scores.json"
    write_json(path, {"error": [1, None]})
    assert path.read_text() == '{\n  "error": [\n    1,\n    null\n  ]\n}\n'
    assert read_json(path) == {"error": [1, None]}
    write_json(path, {"a": 1}, indent=None)
    assert path.read_text() == '{"a": 1}\n'


@pytest.mark.parametrize("contents", [b"", b'{"a":', b"\xff", b"[" * 100_000, b"[]", b"null"])
def test_json_that_is_damaged_or_no_object(tmp_path, contents):
    path = tmp_path / "scores.json"
    path.write_bytes(contents)
    with pytest.raises(ValueError, match=str(path)):
        read_json(path)


def full(*_):
    raise OSError(errno.ENOSPC, "No space left on device")  # as write(2): without a name


@pytest.mark.parametrize("contents", ['{"a": [[], []]}', "[", "[]"])
def test_reading_json_leaves_garbage_collection_on(tmp_path, contents):
    (tmp_path / "a.json").write_text(contents)
    with contextlib.suppress(DamagedFile):
        read_json(tmp_path / "a.json")
    assert gc.isenabled()


def test_an_error_names_the_file_and_others_keep_their_own_name(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="gone"), atomic(tmp_path / "copy") as temporary:
        temporary.write_bytes((tmp_path / "gone").read_bytes())
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=f"No space left on device: '{tmp_path}/a.txt'"):
        write_text(tmp_path / "a.txt", "text")
    assert not names(tmp_path)


@pytest.mark.parametrize("way", ["weights", "text", "checkpoints"])
def test_all_ways_of_writing_flush_to_the_disk_before_they_rename(tmp_path, monkeypatch, way):
    path, flushed = tmp_path / "file", []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda number: (flushed.append(path.exists()), fsync(number)))
    if way == "weights":
        files.write_json(path, {})
    elif way == "text":
        write_text(path, "{}")
    else:
        CarefulCheckpointIO().save_checkpoint({}, path)
    assert flushed[0] is False and path.exists()


def test_weights_that_cannot_be_written(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError, match=f"cannot write {tmp_path}/a.json: No space left on device; "):
        files.write_json(tmp_path / "a.json", {})


@pytest.mark.parametrize("sole", [True, False])
def test_a_link_under_the_temporary_name_is_not_followed(tmp_path, monkeypatch, sole):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    monkeypatch.setattr("uuid.uuid4", lambda: UUID(int=0))
    for name in (".partial.last.ckpt", f".{'0' * 12}.last.ckpt", "last.ckpt"):
        (tmp_path / name).symlink_to(victim)
    with atomic(tmp_path / "last.ckpt", sole=sole) as temporary:
        temporary.write_text("new")
    assert victim.read_text() == "precious"
    assert (tmp_path / "last.ckpt").read_text() == "new" and not (tmp_path / "last.ckpt").is_symlink()


def test_what_killed_processes_left_is_removed(tmp_path):
    ours = [".partial.best.ckpt", ".0123456789ab.student.safetensors"]
    others = [".lock", ".partial", ".about.lock", ".0123456789AB.x", "0123456789ab.x", "last.ckpt"]
    for name in (*ours, *others):
        (tmp_path / name).touch()
    (tmp_path / ".partial.folder").mkdir()
    remove_leftovers(tmp_path)
    remove_leftovers(tmp_path / "nowhere")
    assert names(tmp_path) == sorted(others) and (tmp_path / ".partial.folder").is_dir()


@pytest.mark.parametrize("value", [math.nan, math.inf, [{"a": -math.inf}]])
def test_json_has_no_nan(tmp_path, value):
    path = tmp_path / "scores.json"
    with pytest.raises(ValueError, match=f"{path} cannot hold NaN or infinity"):
        write_json(path, {"value": value})
    assert not names(tmp_path)


WAYS = {
    "text": (lambda path: write_text(path, "new" * 1000), OSError),
    "weights": (lambda path: files.write_safetensors(path, {"a": torch.ones(700)}), CheckpointError),
    "torch file": (lambda path: files.write_torch(path, {"a": torch.ones(700)}), CheckpointError),
    "release": (lambda path: files.write_described(path, {"a": torch.ones(700)}, {"a": 1}), CheckpointError),
}


@contextmanager
def files_of_at_most(n_bytes):
    """Files may not grow beyond that, as if the disk were full there."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("way", WAYS)
def test_a_disk_that_is_full_after_any_number_of_bytes_leaves_the_old_file(tmp_path, way):
    path = tmp_path / "file.x"
    write, error = WAYS[way]
    write(path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    size = path.stat().st_size
    for limit in {0, 1, 63, 64, 100, size // 2, *range(size - 200, size, 23), size - 1}:
        with files_of_at_most(limit), pytest.raises(error, match=str(path.with_suffix(""))) as problem:
            write(path)
        assert "\n" not in str(problem.value)
        assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before
