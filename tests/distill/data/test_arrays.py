"""Arrays of strangers: no larger than their bytes, and what is wrong is one line."""

import io
import shutil
import tracemalloc
import zipfile

import numpy as np
import pytest

from distill.adaptation.targets import Targets
from distill.data.arrays import read_array, read_arrays
from distill.errors import DataError
from tests.distill.adaptation.small_targets import make


@pytest.fixture(scope="module")
def made(cuts, tmp_path_factory):
    out = tmp_path_factory.mktemp("targets")
    return out, make(cuts, out)


def test_arrays_are_those_that_numpy_reads(tmp_path):
    arrays = {
        "a": np.arange(6.0).reshape(2, 3),
        "b": np.array(["x", "yz"]),
        "c": np.array(7),
        "d": np.zeros(0),
    }
    arrays["e"] = np.asfortranarray(arrays["a"])
    np.savez_compressed(tmp_path / "x.npz", **arrays)
    found = read_arrays(tmp_path / "x.npz")
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        np.save(tmp_path / "x.npy", array)
        for one in (found[name], read_array(tmp_path / "x.npy")):
            np.testing.assert_array_equal(one, array)
            assert one.dtype == array.dtype and one.flags.writeable


def npz(members, *, method=zipfile.ZIP_STORED):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return stream.getvalue()


def npy(array):
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def header(text):
    """A .npy file of a header alone."""
    text = text.ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


WHOLE = {"ids": npy(np.array(["a"])), "lengths": npy(np.array([2])), "labels": npy(np.zeros(2, np.int16))}
HOSTILE = {
    "a claim of 2 TB": npz(
        WHOLE | {"labels": header("{'descr': '<i2', 'fortran_order': False, 'shape': (10**12,), }")}
    ),
    "a shape of 2 TB": npz(
        WHOLE | {"labels": header("{'descr': '<i2', 'fortran_order': False, 'shape': (1000000000000,), }")}
    ),
    "a negative shape": npz(
        WHOLE | {"labels": header("{'descr': '<i2', 'fortran_order': False, 'shape': (-1,), }")}
    ),
    "a torn header": npz(WHOLE | {"labels": header("{'descr': '<i2', 'fortran_order': (")}),
    "a bomb": npz(WHOLE | {"labels": bytes(100 * 2**20)}, method=zipfile.ZIP_DEFLATED),
    "objects": npz(WHOLE | {"ids": header("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }")}),
    "labels of text": npz(WHOLE | {"labels": npy(np.array(["x", "y"]))}),
    "negative lengths": npz(
        {"ids": npy(np.array(["a", "b"])), "lengths": npy(np.array([-1, 3])), "labels": WHOLE["labels"]}
    ),
    "two dimensions": npz(WHOLE | {"ids": npy(np.array([["a"]]))}),
    "nothing": b"",
    "an archive of nothing": npz({}),
    "no archive": b"PK\3\4" + bytes(99),
    "an unknown compression": npz(WHOLE).replace(b"\x14\0\0\0\0\0", b"\x14\0\0\0\x63\0"),
    "an encrypted member": npz(WHOLE).replace(b"\x14\0\0\0\0\0", b"\x14\0\1\0\0\0"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_labels_are_one_line_within_limits(made, tmp_path, kind):
    shutil.copytree(made[0], tmp_path / "out")
    (tmp_path / "out" / "labels-00000.npz").write_bytes(HOSTILE[kind])
    tracemalloc.start()
    with pytest.raises(DataError, match="damaged k-means targets") as caught:
        Targets.load(tmp_path / "out")
    assert tracemalloc.get_traced_memory()[1] < 50 * 2**20
    tracemalloc.stop()
    assert str(caught.value).isprintable()
