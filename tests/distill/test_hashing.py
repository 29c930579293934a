"""Hashes must never change: crops, distortions and dev sets are drawn by them, scores are kept under them."""

import os

import pytest

from distill.errors import DataError
from distill.hashing import file_identity, hash_files, hash_lines, hash_number, hash_text


def test_numbers_depend_on_their_parts_alone():
    assert hash_number(0, 3, "crop", "u01") == 12400695932783550166
    assert hash_number("0", "3", "crop", "u01") == 12400695932783550166
    assert hash_number(0, 3, "crop", "u02") != 12400695932783550166


def test_texts_and_lines():
    assert hash_text("a", digest_size=4) == "ca234c55"
    assert hash_lines(["a", "b"]) == hash_text("a\nb\n", digest_size=16)
    assert hash_lines(["\udcff"]) == hash_lines([os.fsdecode(b"\xff")])  # a name that is not UTF-8


def test_files_are_known_by_name_and_contents(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)
    assert hash_files([tmp_path / "a", tmp_path / "b"], digest_size=16) == hash_text("ab", digest_size=16)
    known = file_identity(tmp_path / "a")
    assert known == f"a {hash_text('a', digest_size=16)}"
    (tmp_path / "a").write_text("other")
    assert file_identity(tmp_path / "a") != known
    with pytest.raises(DataError, match="no such file"):
        file_identity(tmp_path / "c")
