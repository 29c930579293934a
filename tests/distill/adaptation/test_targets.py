"""Targets on disk: those of every version are read, damaged ones are one clear line."""

import json
import shutil

import numpy as np
import pytest
import torch

from distill.adaptation.targets import Targets, pack_labels
from distill.errors import DataError
from tests.distill.adaptation.small_targets import make, same


@pytest.fixture(scope="module")
def made(cuts, tmp_path_factory):
    out = tmp_path_factory.mktemp("targets")
    return out, make(cuts, out)


def test_what_was_made_is_read_back(made):
    out, targets = made
    again = Targets.load(out)
    assert same(again, targets) and all(labels.dtype == np.int16 for labels in again.labels.values())
    assert (again.features, again.seed, again.n_clusters, again.frame_rate_hz) == ("mfcc", 3, 4, 50)


def test_targets_of_the_first_version_are_read(made, tmp_path):
    """All labels in one file, and frames only at 50 Hz, which it does not say."""
    _, targets = made
    np.save(tmp_path / "codebook.npy", targets.codebook.numpy())
    np.savez(tmp_path / "labels.npz", **pack_labels(targets.labels))  # pyright: ignore[reportArgumentType]
    values = {"format": 1, "features": "mfcc", "n_clusters": 4, "seed": 3}
    values |= {"utterances": len(targets.labels), "frames": targets.n_frames}
    (tmp_path / "targets.json").write_text(json.dumps(values))
    found = Targets.load(tmp_path)
    assert same(found, targets) and (found.hop, found.receptive_field) == (320, 400)


def test_counts_of_clusters():
    labels = {"a": np.array([0, 2, 2], np.int16), "b": np.zeros(0, np.int16), "c": np.array([2], np.int16)}
    targets = Targets(torch.zeros(4, 2), labels, "mfcc", 0)
    assert targets.counts().tolist() == [1, 0, 3, 0] and targets.n_frames == 4


def test_damaged_targets_are_one_clear_line(made, tmp_path):
    out, _ = made
    with pytest.raises(DataError, match="targets.json is missing.*distill adapt targets"):
        Targets.load(tmp_path / "nowhere")
    for name, content in (("labels-00001.npz", b"PK"), ("codebook.npy", b""), ("targets.json", b"{")):
        shutil.copytree(out, tmp_path / name)
        (tmp_path / name / name).write_bytes(content)
        with pytest.raises(DataError, match="damaged") as caught:
            Targets.load(tmp_path / name)
        assert "\n" not in str(caught.value)
    shutil.copytree(out, tmp_path / "mixed")
    np.save(tmp_path / "mixed" / "codebook.npy", np.zeros((2, 39), np.float32))
    with pytest.raises(DataError, match="do not belong together"):
        Targets.load(tmp_path / "mixed")


def test_pickled_arrays_are_refused(made, tmp_path):
    shutil.copytree(made[0], tmp_path / "out")
    np.save(tmp_path / "out/codebook.npy", np.array([{"a": 1}] * 4, dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match="damaged"):
        Targets.load(tmp_path / "out")


@pytest.mark.parametrize("name", ["codebook.npy", "labels-00000.npz", "targets.json"])
def test_no_flipped_bit_changes_targets(made, tmp_path, name):
    out = tmp_path / "out"
    shutil.copytree(made[0], out)
    good = (out / name).read_bytes()
    for place in range(0, len(good), max(1, len(good) // 100)):
        content = bytearray(good)
        content[place] ^= 0x04
        (out / name).write_bytes(content)
        try:
            found = Targets.load(out)
        except DataError as error:
            assert str(error).isprintable()
        else:  # a bit that says nothing of the targets, such as a date of the archive
            assert same(found, made[1]) or name == "targets.json"
