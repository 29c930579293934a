"""Reading audio headers again only where files have changed."""

import numpy as np
import soundfile

from distill.data_prep import headers
from tests.data_prep.corpora import make_librispeech


def test_a_changed_file_is_read_again_although_it_was_read_before(tmp_path):
    files = make_librispeech(tmp_path / "root")
    cache = tmp_path / "cache.jsonl"
    before, _ = headers.read_headers(files, cache, jobs=2, label="")
    soundfile.write(files[0], np.zeros(123), 16_000)
    after, _ = headers.read_headers(files, cache, jobs=2, label="")
    assert after[files[0]].n_samples == 123 != before[files[0]].n_samples
    assert {path: after[path] for path in files[1:]} == {path: before[path] for path in files[1:]}
