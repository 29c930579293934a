import io
import os
import pickle
from typing import Any

import joblib
import numpy as np
import pytest
import torch
from joblib.numpy_pickle import NumpyArrayWrapper
from sklearn.cluster import KMeans, MiniBatchKMeans
from sklearn.linear_model import LogisticRegression

from distill.checkpoints.codebooks import clustered_layer, load_codebook
from distill.errors import CheckpointError


def features(dtype: Any = np.float32):
    return np.random.default_rng(0).standard_normal((300, 6)).astype(dtype)


def fairseqs(dtype=np.float32, **changes):
    """The k-means as fairseq's learn_kmeans.py sets it up."""
    options = {
        "init": "k-means++",
        "max_iter": 100,
        "batch_size": 100,
        "verbose": 0,
        "compute_labels": False,
        "tol": 0.0,
        "max_no_improvement": 100,
        "n_init": 2,
        "reassignment_ratio": 0.0,
    }
    return MiniBatchKMeans(n_clusters=5, **{**options, **changes}).fit(features(dtype))


def check(path, model):
    found = load_codebook(path)
    assert found.dtype == torch.float32
    assert np.array_equal(found.numpy(), model.cluster_centers_.astype(np.float32))
    assert np.array_equal(joblib.load(path).cluster_centers_, model.cluster_centers_)  # the test's premise


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_files_of_joblib(tmp_path, dtype, protocol):
    model = fairseqs(dtype)
    joblib.dump(model, tmp_path / "km.bin", protocol=protocol)
    check(tmp_path / "km.bin", model)


def test_other_states_of_a_kmeans(tmp_path):
    labelled = fairseqs(
        compute_labels=True, random_state=np.random.RandomState(3)
    )  # more arrays, a generator
    joblib.dump(labelled, tmp_path / "km.bin")
    check(tmp_path / "km.bin", labelled)
    full = KMeans(4).fit(features())
    full.cluster_centers_ = np.asfortranarray(full.cluster_centers_)
    joblib.dump(full, tmp_path / "full.bin")
    check(tmp_path / "full.bin", full)
    full.cluster_centers_ = full.cluster_centers_.astype(">f8")
    joblib.dump(full, tmp_path / "big_endian.bin")
    check(tmp_path / "big_endian.bin", full)


def test_files_of_joblib_before_1_2_have_no_padding(tmp_path, monkeypatch):
    model = fairseqs()

    def old_state(self):
        return {k: v for k, v in self.__dict__.items() if k != "numpy_array_alignment_bytes"}

    with monkeypatch.context() as patch:
        patch.setattr(NumpyArrayWrapper, "safe_get_numpy_array_alignment_bytes", lambda self: None)
        patch.setattr(NumpyArrayWrapper, "__getstate__", old_state, raising=False)
        joblib.dump(model, tmp_path / "km.bin")
    assert b"alignment" not in (tmp_path / "km.bin").read_bytes()
    check(tmp_path / "km.bin", model)


def test_npy_and_a_folder_of_targets(tmp_path):
    centres = features(np.float64)[:7]
    np.save(tmp_path / "codebook.npy", centres)
    for path in (tmp_path, tmp_path / "codebook.npy"):
        assert np.array_equal(load_codebook(path).numpy(), centres.astype(np.float32))


class Hostile:
    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("inside", ["alone", "in a k-means", "in an array of objects"])
def test_nothing_in_a_file_is_run(tmp_path, inside):
    mark = tmp_path / "ran"
    evil = Hostile(os.mkdir, str(mark))
    model = fairseqs()
    if inside == "in a k-means":
        model.verbose = evil
        evil = model
    elif inside == "in an array of objects":
        model.cluster_centers_ = np.array([evil, evil], dtype=object)
        evil = model
    joblib.dump(evil, tmp_path / "km.bin")
    with pytest.raises(CheckpointError, match="not a k-means that can be read") as caught:
        load_codebook(tmp_path / "km.bin")
    assert not mark.exists() and "\n" not in str(caught.value)
    joblib.load(tmp_path / "km.bin")  # the file does what it is suspected of
    assert mark.exists()


def test_a_shape_that_lies_costs_no_memory(tmp_path):
    stream = io.BytesIO()
    joblib.dump(fairseqs(), stream)
    # (5, 6) of the centres: K\x05K\x06\x86 in the pickle; 0x7fffffff clusters instead
    contents = stream.getvalue()
    assert contents.count(b"K\x05K\x06\x86") == 1
    contents = contents.replace(b"K\x05K\x06\x86", b"J\xff\xff\xff\x7fK\x06\x86")
    (tmp_path / "km.bin").write_bytes(contents)
    with pytest.raises(CheckpointError):
        load_codebook(tmp_path / "km.bin")


def test_cut_short_anywhere_is_one_line(tmp_path):
    path = tmp_path / "km.bin"
    joblib.dump(fairseqs(), path)
    contents = path.read_bytes()
    for length in range(0, len(contents), 7):
        path.write_bytes(contents[:length])
        with pytest.raises(CheckpointError) as caught:
            load_codebook(path)
        assert "\n" not in str(caught.value) and str(path) in str(caught.value)


def test_other_contents_are_named(tmp_path):
    def refused(match):
        return pytest.raises(CheckpointError, match=match)

    path = tmp_path / "file"
    with refused("no codebook can be read here"):
        load_codebook(path)
    joblib.dump(fairseqs(), path, compress=3)
    with refused("without compression"):
        load_codebook(path)
    joblib.dump({"cluster_centers_": features()}, path)
    with refused("holds dict, expected a fitted k-means"):
        load_codebook(path)
    joblib.dump(LogisticRegression(), path)
    with refused("holds sklearn.linear_model._logistic.LogisticRegression, expected a fitted"):
        load_codebook(path)
    path.write_bytes(
        pickle.dumps(fairseqs(), protocol=4)
    )  # arrays inside the pickle, as joblib never has them
    with refused("expected a fitted k-means"):
        load_codebook(path)
    for array, match in (
        (np.zeros(3), r"array \(3,\)"),
        (np.zeros((1, 4)), "at least two clusters"),
        (np.full((3, 3), np.nan), "not finite"),
        (np.array([["a"], ["b"]]), "of <U1"),
    ):
        np.save(tmp_path / "x.npy", array)
        with refused(match):
            load_codebook(tmp_path / "x.npy")
    np.save(tmp_path / "x.npy", np.array([[{}], [{}]]), allow_pickle=True)
    with refused("damaged .npy"):
        load_codebook(tmp_path / "x.npy")


def test_a_folder_of_targets_says_which_layer_it_is_of(tmp_path):
    assert clustered_layer(tmp_path) is None and clustered_layer(tmp_path / "km.npy") is None
    described = tmp_path / "targets.json"
    described.write_text('{"features": "layer 9"}')
    assert clustered_layer(tmp_path) == 9
    for text, message in [('{"features": "mfcc"}', "has clusters of mfcc"), ("{", "cannot be read")]:
        described.write_text(text)
        with pytest.raises(CheckpointError, match=message):
            clustered_layer(tmp_path)
