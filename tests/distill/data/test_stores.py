"""Files and objects by path or URL."""

import pytest

from distill.data.stores import check_place, local_path, read_place
from distill.errors import DataError


@pytest.mark.parametrize(
    ("place", "path"),
    [
        ("a b.wav", "a b.wav"),
        ("file:///data/a%20b.wav", "/data/a b.wav"),
        ("file://localhost/a.wav", "/a.wav"),
        ("file://elsewhere/a.wav", None),
        ("s3://bucket/a.wav", None),
    ],
)
def test_paths_of_this_machine(place, path):
    assert local_path(place) == path


@pytest.mark.parametrize(
    ("place", "why"),
    [
        ("pipe:cat a.wav", "commands are not run"),
        ("https://host/a.wav", "is not read: fetch it to this machine; URLs may begin with s3, gs, azure"),
        ("file://elsewhere/a.wav", "is not read"),
        ("s3://key:secret@bucket/a.wav", "configure the store"),
        ("s3://[bucket/a.wav", "is not a URL"),
    ],
)
def test_places_that_are_refused(place, why):
    with pytest.raises(DataError, match=why):
        check_place(place)


def test_bytes_of_a_file(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"0123456789")
    assert read_place(str(path)) == b"0123456789"
    assert read_place(f"file://{path}", offset=2, n_bytes=3) == b"234"
    with pytest.raises(DataError, match="ends too early"):
        read_place(str(path), offset=8, n_bytes=3)
