"""Files of checkpoints: complete or not at all, readable by everybody, mistakes in one line."""

import pytest
import torch

from distill.checkpoints import files
from distill.errors import CheckpointError


def test_everybody_may_read_what_is_written(tmp_path):
    """safetensors makes files that only their owner can read."""
    files.write_safetensors(tmp_path / "x.safetensors", {"a": torch.ones(2)})
    files.write_torch(tmp_path / "x.pt", {"a": torch.ones(2)})
    files.write_json(tmp_path / "x.json", {"a": 1})
    assert sorted(path.stat().st_mode & 0o777 for path in tmp_path.iterdir()) == [0o644] * 3
    assert torch.equal(files.read_safetensors(tmp_path / "x.safetensors")["a"], torch.ones(2))
    assert files.read_json(tmp_path / "x.json") == {"a": 1}


def test_nothing_is_left_of_what_could_not_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match=r"cannot write .*file/x\.json: .*choose another place"):
        files.write_json(tmp_path / "file" / "x.json", {})
    for value in (float("nan"), object()):
        with pytest.raises(ValueError):
            files.write_json(tmp_path / "x.json", {"a": value})
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(("text", "message"), [("{", "not a readable JSON"), ("[]", "holds a list")])
def test_json_that_is_damaged_or_something_else(tmp_path, text, message):
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(CheckpointError, match=rf"x\.json.*{message}"):
        files.read_json(path)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/a", "..\\a", "a\0", "\x1b[2J", "x" * 300])
def test_names_that_are_not_plain(name):
    assert files.is_plain_name("model-00001-of-00002.safetensors")
    assert not files.is_plain_name(name)
