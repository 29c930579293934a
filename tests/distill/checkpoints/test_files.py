"""Files of checkpoints: complete or not at all, readable by everybody, mistakes in one line."""

import pytest
import torch
from safetensors.torch import save_file

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


def test_the_same_tensors_are_the_same_file(tmp_path):
    """The library writes its metadata in random order."""
    for number in range(20):
        files.write_safetensors(tmp_path / f"{number}.safetensors", {"a": torch.ones(2)})
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1
    assert torch.equal(files.read_safetensors(tmp_path / "0.safetensors")["a"], torch.ones(2))


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


def described(path, value=1.0, step=1):
    weights = {
        "a": torch.full((3, 2), value),
        "b": torch.tensor(True),
        "c": torch.ones(0, dtype=torch.bfloat16),
    }
    description = {"provenance": {"step": step}}
    files.write_described(path, weights, description)
    return files.read_json(path.with_suffix(".json"))


def test_every_flipped_bit_of_weights_is_noticed(tmp_path):
    path = tmp_path / "x.safetensors"
    description = described(path)
    whole = path.read_bytes()
    assert torch.equal(files.read_described(path, description)["a"], torch.ones(3, 2))
    start = 8 + int.from_bytes(whole[:8], "little")
    for byte in range(start, len(whole)):
        changed = bytearray(whole)
        changed[byte] ^= 1
        path.write_bytes(changed)
        with pytest.raises(
            CheckpointError, match=r"x\.safetensors is damaged \(it does not match its checksum"
        ):
            files.read_safetensors(path)


def test_weights_and_description_of_two_writes_are_not_one_model(tmp_path):
    path, other = tmp_path / "x.safetensors", tmp_path / "y.safetensors"
    description = described(path)
    described(other, value=2.0, step=2)
    path.write_bytes(other.read_bytes())
    with pytest.raises(CheckpointError, match=r"x\.safetensors is not what x\.json describes"):
        files.read_described(path, description)
    for earlier in (None, {}, {"blake2b": None}, 3):  # of versions that noted no checksum
        assert files.read_described(path, {"weights": earlier})["a"][0, 0] == 2.0


def test_weights_of_other_programs_have_no_checksum(tmp_path):
    save_file({"a": torch.ones(2)}, tmp_path / "x.safetensors")
    assert torch.equal(files.read_safetensors(tmp_path / "x.safetensors")["a"], torch.ones(2))


def test_errors_of_torch_that_are_none_of_the_disk_are_not_hidden(tmp_path):
    with pytest.raises(AttributeError):
        files.write_torch(tmp_path / "x.pt", {"a": lambda: None})
    assert not list(tmp_path.iterdir())
