"""Folders of shards, and folders without."""

import pytest

from distill.data_prep import CORPORA
from distill.errors import DataError


def test_a_folder_without_shards(tmp_path):
    with pytest.raises(DataError, match="no shards in it"):
        CORPORA["shar"](tmp_path, tmp_path / "out")
    with pytest.raises(DataError, match="no such folder"):
        CORPORA["shar"](tmp_path / "none", tmp_path / "out")
