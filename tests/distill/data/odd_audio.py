"""Odd audio files, rows of tables and lines of manifests, and what becomes of each.

Outcomes: "read" as it is, "converted" (to 16 kHz and one channel), or else a part of the reason with which it
is left out and listed.
"""

from __future__ import annotations

import gzip
import json
import os
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile

RATE = 16_000
GB = 2**30


class Kind(NamedTuple):
    """A kind of odd file: its name, how it is made in a folder, and what becomes of it."""

    name: str
    make: Callable[[Path], Any]
    outcome: str


def noise(count=RATE // 4, channels=1):
    return np.random.default_rng(0).uniform(-0.3, 0.3, (count, channels))


PCM = (noise()[:, 0] * 32_767).astype("<i2").tobytes()


def written(
    name, outcome="read", *, rate=RATE, count=RATE // 4, channels=1, data=None, change=None, **options
):
    """A file of libsndfile, whose bytes are changed afterwards."""

    def make(folder):
        soundfile.write(folder / name, noise(count, channels) if data is None else data, rate, **options)
        if change is not None:
            (folder / name).write_bytes(bytes(change(bytearray((folder / name).read_bytes()))))

    return Kind(name, make, outcome)


def wav_bytes(body=PCM, *, rate=RATE, channels=1, bits=16, tag=1, align=None, data_says=None, before=b""):
    """A WAV file whose header says what it is told to."""
    align = channels * bits // 8 % 65_536 if align is None else align
    header = struct.pack("<HHIIHH", tag, channels, rate, rate * align % 2**32, align, bits)
    data_says = len(body) if data_says is None else data_says
    content = b"WAVE" + before + b"fmt " + struct.pack("<I", 16) + header
    content += b"data" + struct.pack("<I", data_says) + body
    return b"RIFF" + struct.pack("<I", min(len(content) - len(body) + data_says, 2**32 - 1)) + content


def content(name, data, outcome):
    return Kind(name, lambda folder: (folder / name).write_bytes(data), outcome)


def sparse(name, head, size, outcome):
    """A file that ends in zeros which take no room on the disk."""

    def make(folder):
        with open(folder / name, "wb") as file:
            file.write(head)
            file.truncate(size)

    return Kind(name, make, outcome)


def link(name, to, outcome):
    return Kind(name, lambda folder: (folder / name).symlink_to(to), outcome)


def half(data):
    return data[: len(data) // 2]


def flipped(data):
    for place in range(len(data) // 3, len(data), 97):
        data[place] ^= 0x55
    return data


def flac_says(n_samples):
    """Write a number of samples into the header of a FLAC file."""

    def change(data):
        data[21] = data[21] & 0xF0 | n_samples >> 32
        data[22:26] = struct.pack(">I", n_samples & 0xFFFFFFFF)
        return data

    return change


def with_value(value):
    data = np.full((RATE // 4, 1), 0.1)
    data[7] = value
    return data


def socket_at(folder):
    """A socket; its path may be too long for one unless it is relative."""
    before = os.getcwd()
    os.chdir(folder)
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind("socket.wav")
    finally:
        os.chdir(before)


FILES = [
    # encodings
    written("plain.wav"),
    written("8_bits.wav", subtype="PCM_U8"),
    written("24_bits.wav", subtype="PCM_24"),
    written("64_bit_floats.wav", subtype="DOUBLE"),
    written("mu_law.wav", subtype="ULAW"),
    written("adpcm.wav", subtype="MS_ADPCM"),
    written("plain.flac.flac"),
    written("layer3.mp3"),
    written("vorbis.ogg"),
    written("opus.opus", format="OGG", subtype="OPUS"),
    written("big_endian.aiff"),
    # rates and channels
    written("8_channels.wav", "converted", channels=8),
    written("1024_channels.wav", "converted", channels=1024, count=800),
    content("no_channels.wav", wav_bytes(channels=0), "Channel count is zero"),
    content("65535_channels.wav", wav_bytes(channels=65_535), "Too many channels"),
    written("8000_hz.wav", "converted", rate=8_000),
    written("44100_hz.wav", "converted", rate=44_100),
    written("11127_hz.wav", "converted", rate=11_127),
    written("383999_hz.wav", "converted", rate=383_999, count=RATE),
    content("0_hz.wav", wav_bytes(rate=0), "cannot be read"),
    content("1_hz.wav", wav_bytes(rate=1), "a sampling rate of 1 Hz is not read"),
    content("2_ghz.wav", wav_bytes(rate=2**31 - 1), "Hz is not read"),
    content("negative_hz.wav", wav_bytes(rate=2**32 - 1), "cannot be read"),
    # lengths
    content("empty.wav", b"", "is empty"),
    content("no_data.wav", wav_bytes(b""), "holds no samples"),
    content("data_of_0.wav", wav_bytes(data_says=0), "holds no samples"),
    content("streamed.wav", wav_bytes(data_says=2**32 - 1), "read"),
    written("no_samples.flac", "is empty", count=0),
    written("one_sample.wav", "1 samples, a frame needs 400", count=1),
    written("short.wav", "399 samples, a frame needs 400", count=399),
    written("unknown_length.flac", "does not say how long it is", change=flac_says(0)),
    written("a_billion_years.flac", "cannot be read", change=flac_says(2**36 - 1)),
    written("twice_as_long.flac", "cannot be read", change=flac_says(RATE // 2)),
    sparse("days.wav", wav_bytes(b"", data_says=4 * GB - 99), 4 * GB - 50, "read"),
    sparse(
        "days_of_8_channels.wav",
        wav_bytes(b"", channels=8, bits=8, rate=384_000, data_says=4 * GB - 99),
        4 * GB - 50,
        "converted",
    ),
    sparse("8_gigabytes.wav", b"", 8 * GB, "cannot be read"),
    # damage
    content("cut_header.wav", wav_bytes()[:20], "cannot be read"),
    written("cut_off.wav", "is cut off", change=half),
    written("cut_off_au.wav", "is cut off", change=half, format="AU"),
    written("cut_off_aiff.aiff", "is cut off", change=half),
    written("cut_off_flac.flac", "cannot be read", change=half),
    written("cut_off_ogg.ogg", "cannot be read", change=half),
    written("flipped.flac", "cannot be read", change=flipped),
    written("flipped_ogg.ogg", "cannot be read", change=flipped),
    written("not_a_number.wav", "not finite", subtype="FLOAT", data=with_value(np.nan)),
    written("infinite.wav", "not finite", subtype="FLOAT", data=with_value(-np.inf)),
    written("too_large.wav", "not finite", subtype="DOUBLE", data=with_value(1e300)),
    content("no_bits.wav", wav_bytes(bits=0, align=2), "cannot be read"),
    content("no_format.wav", wav_bytes(tag=0x1234), "cannot be read"),
    content("long_list.wav", wav_bytes(before=b"LIST\xff\xff\xff\x7fINFO"), "cannot be read"),
    # something else
    content("text.wav", b"this is no audio\n" * 99, "cannot be read"),
    content("not_found.flac", b"<!DOCTYPE html><html>404 Not Found</html>", "cannot be read"),
    content("packed.wav", gzip.compress(wav_bytes()), "cannot be read"),
    content("pointer.wav", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "cannot be read"),
    content("no_header.wav", PCM, "cannot be read"),
    content("zeros.mp3", bytes(100_000), "cannot be read"),
    written("a_flac.wav", format="FLAC"),
    written("a_wav.mp3", format="WAV"),
    written("sphere.wav", format="NIST"),
    written("silence.wav", data=np.zeros((RATE // 4, 1))),
    # no files
    Kind("pipe.wav", lambda folder: os.mkfifo(folder / "pipe.wav"), "is a pipe, not a file"),
    Kind("socket.wav", socket_at, "is a socket, not a file"),
    link("device.wav", "/dev/zero", "is a device, not a file"),
    link("dead.wav", "nowhere", "does not exist"),
    link("itself.wav", "itself.wav", "Too many levels of symbolic links"),
    # names
    written("with space and 'quotes\".wav"),
    written("l" * 240 + ".wav"),
    written("colour\x1b[31m.wav"),
]


def good_cut(name="u"):
    """A cut of plain.wav as in a manifest."""
    recording = {"id": "r", "sources": [{"type": "file", "channels": [0], "source": "plain.wav"}]}
    recording |= {"sampling_rate": RATE, "num_samples": RATE // 4, "duration": 0.25, "channel_ids": [0]}
    cut = {"id": name, "start": 0, "duration": 0.25, "channel": 0, "supervisions": []}
    return cut | {"recording": recording, "type": "MonoCut"}


def cut(**changes):
    return lambda: {**good_cut(), **changes}


def recording(**changes):
    return lambda: {**good_cut(), "recording": {**good_cut()["recording"], **changes}}


def nested(depth):
    """A mixture of a mixture of ..."""

    def make():
        found = good_cut()
        for number in range(depth):
            track = {"cut": found, "type": found["type"], "offset": 0.0}
            found = {"id": f"m{number}", "tracks": [track], "type": "MixedCut"}
        return found

    return make


def mixture(n_tracks, **more):
    track = {"cut": good_cut(), "type": "MonoCut", **more}
    return lambda: {
        "id": "mix",
        "tracks": [{**track, "offset": 0.01 * n} for n in range(n_tracks)],
        "type": "MixedCut",
    }


def padded(seconds):
    pad = {"id": "pad", "duration": seconds, "sampling_rate": RATE, "feat_value": 0.0, "num_samples": 1}
    tracks = [
        {"cut": good_cut(), "type": "MonoCut", "offset": 0.0},
        {"cut": {**pad, "num_samples": int(seconds * RATE)}, "type": "PaddingCut", "offset": 0.25},
    ]
    return lambda: {"id": "padded", "tracks": tracks, "type": "MixedCut"}


LINES: dict[str, tuple[Callable[[], Any], str]] = {
    "plain": (cut(), "read"),
    "no duration": (lambda: {k: v for k, v in good_cut().items() if k != "duration"}, "lhotse can read"),
    "infinite duration": (cut(duration=float("inf")), "seconds"),
    "duration that is not a number": (cut(duration=float("nan")), "nan seconds"),
    "no duration given": (cut(duration=None), "None seconds"),
    "duration in words": (cut(duration="long"), "'long' seconds"),
    "duration as text": (cut(duration="0.25"), "'0.25' seconds"),
    "duration in a list": (cut(duration=[0.25]), "seconds"),
    "negative duration": (cut(duration=-0.25), "seconds"),
    "duration of 0": (cut(duration=0), "seconds"),
    "a year": (cut(duration=3e7), "cannot be read"),
    "a million years": (cut(duration=3e13), "seconds"),
    "duration of a huge number": (cut(duration=10**400), "... seconds"),
    "duration of true": (cut(duration=True), "True seconds"),
    "negative start": (cut(start=-1), "a start of -1"),
    "start behind the end": (cut(start=99), "cannot be read"),
    "start in words": (cut(start="now"), "a start of 'now'"),
    "infinite start": (cut(start=float("inf")), "a start of inf"),
    "integer id": (cut(id=7), "id is 7"),
    "no id": (cut(id=None), "id is None"),
    "empty id": (cut(id="id is ''"), ""),
    "surrogate in the id": (cut(id="a\udcff"), "not Unicode"),
    "line end in the id": (cut(id="a\nb"), "read"),
    "slash in the id": (cut(id="../../a"), "read"),
    "terminal codes in the id": (cut(id="\x1b[2J"), "read"),
    "long id": (cut(id="a" * 100_000), "aaa..., not a name"),
    "id in a list": (cut(id=["a"]), "id is ['a']"),
    "other channel": (cut(channel=5), "has channels [0], not [5]"),
    "channel in words": (cut(channel="left"), "has channels [0]"),
    "no recording": (cut(recording=None), "lhotse can read"),
    "recording of text": (cut(recording="plain.wav"), "lhotse can read"),
    "no sources": (recording(sources=[]), "has no source"),
    "source without path": (
        recording(sources=[{"type": "file", "channels": [0], "source": "source has no path"}]),
        "",
    ),
    "source of null": (
        recording(sources=[{"type": "file", "channels": [0], "source": None}]),
        "no path or URL",
    ),
    "source with NUL": (
        recording(sources=[{"type": "file", "channels": [0], "source": "a\0b"}]),
        "embedded null byte",
    ),
    "source with surrogates": (
        recording(sources=[{"type": "file", "channels": [0], "source": "a\udcff"}]),
        "does not exist",
    ),
    "unknown source": (
        recording(sources=[{"type": "magic", "channels": [0], "source": "x"}]),
        "of type magic",
    ),
    "command": (recording(sources=[{"type": "command", "channels": [0], "source": "touch ran"}]), "not run"),
    "address": (
        recording(sources=[{"type": "url", "channels": [0], "source": "http://x/a.wav"}]),
        "not read",
    ),
    "other rate": (recording(sampling_rate=8_000), "its manifest says 8000"),
    "rate of 0": (recording(sampling_rate=0), "0 Hz is not read"),
    "rate in words": (recording(sampling_rate="16k"), "not an integer"),
    "rate of null": (recording(sampling_rate=None), "not an integer"),
    "infinite rate": (recording(sampling_rate=float("inf")), "not an integer"),
    "recording of infinite duration": (recording(duration=float("inf")), "a duration of inf"),
    "recording too long": (recording(duration=99.0, num_samples=99 * RATE), "read"),
    "samples in words": (recording(num_samples="many"), "'many'"),
    "negative samples": (recording(num_samples=-1), "samples of -1"),
    "unknown transform": (recording(transforms=[{"name": "Magic", "kwargs": {}}]), "Magic"),
    "transforms that are none": (recording(transforms=[7]), "lhotse can read"),
    "transforms in words": (recording(transforms="Speed"), "lhotse can read"),
    "a thousand transforms": (
        recording(transforms=[{"name": "Speed", "kwargs": {"factor": 1.0}}] * 1000),
        "more than 8 transforms",
    ),
    "infinite speed": (
        recording(transforms=[{"name": "Speed", "kwargs": {"factor": float("inf")}}]),
        "a speed of inf",
    ),
    "speed in words": (
        recording(transforms=[{"name": "Speed", "kwargs": {"factor": "fast"}}]),
        "values that are none",
    ),
    "mixture of mixtures": (nested(100), "read"),
    "mixture of nothing": (mixture(0), "lhotse can read"),
    "mixture with infinite loudness": (mixture(2, snr=float("inf")), "read"),
    "a day of silence behind": (padded(86_000.0), "read"),
    "text": (lambda: "hello", "a JSON str"),
    "number": (lambda: 7, "a JSON int"),
    "null": (lambda: None, "a JSON NoneType"),
    "list": (lambda: [good_cut()], "a JSON list"),
    "supervision": (lambda: {"id": "s", "recording_id": "r", "start": 0, "duration": 1}, "a supervision"),
    "other kind": (cut(type="OtherCut"), "no cut"),
    "kind of null": (cut(type=None), "no cut"),
    "unknown field": (cut(colour="red"), "lhotse can read"),
}
"""By kind of line: how it is made, and what becomes of it."""


def write_manifest(folder: Path, path: Path) -> None:
    """A manifest of all odd lines; plain.wav is in `folder`."""
    wav = json.dumps(str(folder / "plain.wav"))
    lines = [json.dumps(make()).replace('"plain.wav"', wav) for make, _ in LINES.values()]
    path.write_text("\n".join(lines) + "\n")


ROWS: dict[str, tuple[str, str]] = {
    "plain": ("plain.wav", "read"),
    "with dots": ("./up/24_bits.wav", "read"),
    "blank around it": (" 8_bits.wav ", "read"),
    "not there": ("gone.wav", "gone.wav: does not exist"),
    "a pipe": ("pipe.wav", "is a pipe"),
    "an address": ("http://127.0.0.1:9/a.wav", "does not exist"),
    "a command": ("|touch ran", "does not exist"),
    "a long name": ("a" * 300 + ".wav", "File name too long"),
    "quotes": ('"mu_law.wav"', "does not exist"),
    "another program's text": ("text.wav", "cannot be read"),
    "terminal codes": ("\x1b[2J.wav", "does not exist"),
}
"""By kind of row of a table: its path, and what becomes of it."""
