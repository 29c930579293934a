"""Recordings: what headers say, and where the audio of a cut is."""

import numpy as np
import pytest
import soundfile

from distill.data.recordings import Header, audio_place, file_rate, read_header, recording_of, recordings_of
from distill.errors import DataError


def test_a_header_makes_a_recording_with_all_channels(tmp_path):
    path = tmp_path / "a.flac"
    soundfile.write(path, np.zeros((6_000, 2)), 8_000)
    assert read_header(path) == Header(n_samples=6_000, sampling_rate=8_000, n_channels=2)
    recording = recording_of(path, read_header(path), "a")
    assert (recording.duration, recording.channel_ids) == (0.75, [0, 1])
    assert file_rate(recording.resample(16_000)) == 8_000


@pytest.mark.parametrize(("content", "why"), [(b"", "is empty"), (b"no audio", "cannot be read")])
def test_a_file_without_a_header(tmp_path, content, why):
    (tmp_path / "a.wav").write_bytes(content)
    with pytest.raises(DataError, match=f"a.wav {why}"):
        read_header(tmp_path / "a.wav")


def test_the_place_of_audio(cuts, speech):
    cut = cuts["u00"]
    assert audio_place(cut) == f"{speech}/u00.wav"
    assert audio_place(cut.truncate(offset=0.1)) == f"{speech}/u00.wav from 0.1 s on"
    assert [recording.id for recording in recordings_of(cut.append(cuts["u01"]))] == ["u00", "u01"]
