"""The speech of a task, refused as long as something of it is amiss."""

import numpy as np
import pytest
import soundfile
from lhotse import CutSet, Recording

from distill.downstream.options import EvaluationConfig
from distill.downstream.task_sources import read_split
from distill.errors import DataError
from distill.hubert import HubertConfig


def test_a_line_that_is_no_cut_is_named(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(8_000), 16_000)
    path = tmp_path / "test.jsonl"
    CutSet.from_cuts([Recording.from_file(tmp_path / "a.wav").to_cut()]).to_file(path)
    path.write_text(path.read_text() + '{"id": "b"}\n')
    with pytest.raises(DataError, match="1 audio files of 2 .*test.jsonl, line 2: no cut"):
        read_split(EvaluationConfig(task="ks", sources={"test": str(path)}), "test", HubertConfig())
