"""Corpora, splits and files that are missing."""

import numpy as np
import pytest
import soundfile

from distill.data_prep import CORPORA, PUBLISHED
from distill.data_prep.preparation import prepare
from distill.errors import DataError, UsageError
from tests.data_prep.corpora import LIBRISPEECH, make_librispeech


@pytest.mark.parametrize("corpus", PUBLISHED)
def test_an_empty_root_says_what_was_expected_and_where_to_get_it(tmp_path, corpus):
    (tmp_path / "root").mkdir()
    with pytest.raises(DataError) as error:
        CORPORA[corpus](tmp_path / "root", tmp_path / "out")
    message = str(error.value)
    assert "\n" not in message and str(tmp_path / "root") in message
    assert PUBLISHED[corpus].layout in message and PUBLISHED[corpus].source in message
    assert not (tmp_path / "out").exists()


def test_a_missing_root_and_no_root(tmp_path):
    with pytest.raises(DataError, match="nowhere: no such folder; --root names the folder that holds musan/"):
        CORPORA["musan"](tmp_path / "nowhere", tmp_path / "out")
    with pytest.raises(UsageError, match="--root FOLDER .get it from https://www.openslr.org/17, 11 GB"):
        CORPORA["musan"](None, tmp_path / "out")


def test_splits_are_checked(tmp_path):
    make_librispeech(tmp_path / "root")
    with pytest.raises(UsageError, match="no split 'dev'; there are train-clean-100, "):
        prepare(LIBRISPEECH, tmp_path / "root", tmp_path / "out", splits=["dev"])
    with pytest.raises(DataError, match="test-other of LibriSpeech not found"):
        prepare(LIBRISPEECH, tmp_path / "root", tmp_path / "out", splits=["dev-clean", "test-other"])
    result = prepare(LIBRISPEECH, tmp_path / "root", tmp_path / "out", splits=["dev-clean"])
    assert not result.missing
    with pytest.raises(ValueError, match="jobs must be at least 1"):
        prepare(LIBRISPEECH, tmp_path / "root", tmp_path / "out", jobs=0)


def test_a_half_downloaded_corpus_names_its_first_missing_files(tmp_path, reads):
    files = make_librispeech(tmp_path / "root")
    make_librispeech(tmp_path / "root", "test-clean")
    for path in files[1:]:
        path.unlink()
    with pytest.raises(DataError) as error:
        prepare(LIBRISPEECH, tmp_path / "root", tmp_path / "out")
    message = str(error.value)
    assert message.startswith("dev-clean: 5 of its 6 files are missing, first ")
    assert str(files[1]) in message and str(files[3]) in message and str(files[4]) not in message
    assert not reads  # found before hours of reading
    prepare(LIBRISPEECH, tmp_path / "root", tmp_path / "out", splits=["test-clean"])


def test_two_files_of_one_name_are_refused(tmp_path):
    for folder in ("a", "b"):
        path = tmp_path / "root/musan/noise" / folder / "x.wav"
        path.parent.mkdir(parents=True)
        soundfile.write(path, np.zeros(100), 16_000)
    with pytest.raises(DataError, match="b/x.wav and .*a/x.wav are both called x"):
        CORPORA["musan"](tmp_path / "root", tmp_path / "out")
