"""Files that do not answer are given up and listed; the others are read."""

import threading

import numpy as np
import pytest
import soundfile

from distill.data import patience
from distill.data.dataset import SpeechDataset
from distill.data.patience import patiently
from distill.data.recordings import read_header
from distill.data.sources import index_cuts
from distill.data_prep import CORPORA
from distill.errors import DataError
from distill.preflight.survey import survey


@pytest.fixture
def stalled(tmp_path, monkeypatch):
    """A folder in which opening slow.wav never ends, once `stalled()` was called."""
    for name in ("a", "slow", "z"):
        soundfile.write(tmp_path / f"{name}.wav", np.full(8_000, 0.1), 16_000)
    monkeypatch.setattr(patience, "PATIENCE_S", 0.2)
    released, real = threading.Event(), soundfile.SoundFile

    class Stalled(real):
        def __init__(self, file, *args, **kwargs):
            if str(file).endswith("slow.wav"):
                released.wait(60)
            super().__init__(file, *args, **kwargs)

    def start():
        monkeypatch.setattr(soundfile, "SoundFile", Stalled)
        return tmp_path

    yield start
    released.set()


def test_in_training(stalled, tmp_path):
    cuts = index_cuts(str(tmp_path))
    stalled()
    batch = SpeechDataset(cuts)[0, 0, [0, 1, 2]]
    assert batch.ids == ["a", "z"]
    assert batch.skipped == [
        ("slow", "does not answer: given up after 0.2 s (a network disk that hangs?)"),
    ]


def test_when_headers_are_read(stalled):
    folder = stalled()
    with pytest.raises(DataError, match=r"slow.wav does not answer: given up after 0.2 s"):
        read_header(folder / "slow.wav")
    (problem,) = survey(str(folder), sample=None, seed=0).bad
    assert "slow.wav: does not answer" in problem
    assert CORPORA["folder"](folder, folder / "out").n_files == 2
    assert "does not answer" in (folder / "out" / "skipped.tsv").read_text()


def test_a_lost_disk_does_not_cost_the_time_for_each_file(stalled):
    folder = stalled()
    said = []
    for _ in range(3):
        with pytest.raises(DataError) as error:
            read_header(folder / "slow.wav")
        said.append(str(error.value).partition("after ")[2].partition(" ")[0])
    assert said == ["0.2", "0.1", "0.0667"]


def test_errors_come_back_and_threads_end_with_their_users():
    with pytest.raises(KeyError, match="x"):
        patiently({}.__getitem__, "x")
    assert patiently(max, 1, 2) == 2
    before = threading.active_count()
    users = [threading.Thread(target=patiently, args=(max, 1, 2)) for _ in range(20)]
    for user in users:
        user.start()
    for user in users:
        user.join()
    for thread in threading.enumerate():
        if thread.daemon and thread not in users and thread.name.endswith("(_answer)"):
            thread.join(0.05)
    assert threading.active_count() <= before + 1
