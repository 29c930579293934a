"""Files that are none: pipes and devices hang, names that are no text break what is written later."""

import os
import re
import signal
from pathlib import Path

import numpy as np
import pytest
import soundfile

from distill.data.audio import read_audio
from distill.data.files import regular_file
from distill.data.recordings import read_header
from distill.data.shar import located_cuts
from distill.data.sources import index_cuts, open_cuts
from distill.data.stores import read_place
from distill.data.unusable import why_unusable
from distill.data_prep import CORPORA
from distill.data_prep.headers import read_headers
from distill.errors import DataError
from distill.preflight.survey import survey


@pytest.fixture(autouse=True)
def impatient():
    """Whatever waits for a pipe fails."""
    signal.alarm(20)
    yield
    signal.alarm(0)


@pytest.fixture
def folder(tmp_path):
    """A good file among a pipe, a device, a folder and dead links of audio's names."""
    root = tmp_path / "audio"
    root.mkdir()
    soundfile.write(root / "good.wav", np.zeros(8_000), 16_000)
    os.mkfifo(root / "pipe.wav")
    (root / "device.wav").symlink_to("/dev/zero")
    (root / "dead.wav").symlink_to("nowhere")
    (root / "folder.flac").mkdir()
    return root


def usable(source):
    """Ids of the utterances that can be used, and why the others cannot."""
    cuts = index_cuts(str(source))
    for cut in cuts:
        if why_unusable(cut):
            with pytest.raises(DataError, match=re.escape(why_unusable(cut))):
                read_audio(cut)
    why = [why_unusable(cut) for cut in cuts if why_unusable(cut)]
    assert survey(str(source), sample=None, seed=0).bad == why
    return [cut.id for cut in cuts if not why_unusable(cut)], " ".join(why)


def test_only_regular_files_of_a_folder_are_opened(folder, tmp_path):
    good, why = usable(folder)
    assert good == ["good"]
    assert "pipe.wav: is a pipe, not a file" in why
    assert "device.wav: is a device, not a file" in why
    assert "dead.wav: does not exist" in why
    CORPORA["folder"](folder, tmp_path / "out")
    listed = (tmp_path / "out" / "skipped.tsv").read_text()
    assert "is a pipe, not a file" in listed and "is a device" in listed
    _, broken = read_headers([folder / "pipe.wav"], tmp_path / "cache", jobs=1, label="x")
    assert "is a pipe" in broken[folder / "pipe.wav"]


def test_only_regular_files_of_tables_and_manifests_are_opened(folder):
    table = folder / "list.tsv"
    table.write_text("path\ngood.wav\npipe.wav\ndevice.wav\n")
    assert usable(table)[0] == ["good"]
    cut = index_cuts(str(table))[0]
    for name, message in {"pipe.wav": "a pipe", "device.wav": "a device", "folder.flac": "a folder"}.items():
        cut.recording.sources[0].source = str(folder / name)
        with pytest.raises(DataError, match=f"^good: .*{name} is {message}, not a file"):
            read_audio(cut)


@pytest.mark.parametrize("name", ["x.jsonl", "x.jsonl.gz", "x.tsv"])
def test_a_source_that_is_a_pipe(tmp_path, name):
    os.mkfifo(tmp_path / name)
    for read in (open_cuts, index_cuts):
        with pytest.raises(DataError, match=f"{name} is a pipe, not a file"):
            read(str(tmp_path / name))
    assert "is a pipe" in survey(str(tmp_path / name), sample=None, seed=0).error


def test_shards_that_are_pipes(tmp_path):
    os.mkfifo(tmp_path / "a.tar")
    with pytest.raises(DataError, match=r"a.tar is a pipe"):
        read_place(str(tmp_path / "a.tar"), 0, 10)
    (tmp_path / "cuts.jsonl.gz").write_bytes(b"x")
    with pytest.raises(DataError, match=r"a.tar is a pipe"):
        list(located_cuts(tmp_path / "cuts.jsonl.gz", tmp_path / "a.tar", "x"))


def test_what_is_no_file_is_named(tmp_path):
    with pytest.raises(DataError, match="is a folder, not a file"):
        regular_file(tmp_path)
    with pytest.raises(DataError, match=r"cannot be read \(embedded null byte\)"):
        regular_file("a\0b")
    with pytest.raises(DataError, match=r"File name too long"):
        regular_file(300 * "a")


def test_names_that_are_no_text_are_left_out(tmp_path):
    root = tmp_path / "audio"
    soundfile.write(tmp_path / "good.wav", np.zeros(8_000), 16_000)
    try:
        os.makedirs(os.fsencode(root) + b"/sp\xe9akers")
    except OSError:
        pytest.skip("this file system has no such names")
    for name in (b"good.wav", b"caf\xe9.wav", b"sp\xe9akers/a.wav"):
        os.symlink(tmp_path / "good.wav", os.fsencode(root) + b"/" + name)
    good, why = usable(root)
    assert good == ["good"] and why.count("its name is not UTF-8") == 2 and why.encode()
    assert "".join(cut.id for cut in index_cuts(str(root))).encode()


@pytest.mark.parametrize("name", ["what?", "a?b=c", "?", "ends?part=0-1"])
def test_names_with_a_question_mark(tmp_path, name):
    for number in range(20):
        Path(tmp_path / name).mkdir(exist_ok=True)
        soundfile.write(tmp_path / name / f"{number}.wav", np.zeros(800), 16_000)
    (tmp_path / name / "list.tsv").write_text("path\tset\n0.wav\ta\n1.wav\tb?\n")
    assert len(index_cuts(str(tmp_path / name))) == 20
    assert 0 < len(index_cuts(f"{tmp_path / name}?part=0-0.5")) < 20
    assert [cut.id for cut in open_cuts(f"{tmp_path / name}/list.tsv?set=a")] == ["0"]
    assert [cut.id for cut in open_cuts(f"{tmp_path / name}/list.tsv?set=b?")] == ["1"]
    assert survey(str(tmp_path / name), sample=None, seed=0).utterances == 20
    with pytest.raises(DataError, match="gone does not exist"):
        open_cuts(f"{tmp_path}/gone?part=0-1")


def test_streams_of_unknown_length(tmp_path):
    stream = tmp_path / "stream.flac"
    soundfile.write(stream, np.random.default_rng(0).uniform(-1, 1, 16_000), 16_000)
    content = bytearray(stream.read_bytes())
    content[21:26] = bytes([content[21] & 0xF0, 0, 0, 0, 0])  # STREAMINFO as encoders write it to a pipe
    stream.write_bytes(content)
    soundfile.write(tmp_path / "good.wav", np.zeros(8_000), 16_000)
    (tmp_path / "list.tsv").write_text("path\nstream.flac\ngood.wav\n")
    with pytest.raises(DataError, match="does not say how long it is"):
        read_header(stream)
    for source in (str(tmp_path), str(tmp_path / "list.tsv")):
        good, why = usable(source)
        assert good == ["good"] and "does not say how long it is" in why
        assert survey(source, sample=None, seed=0).hours < 1
