"""Readers of what names speech: manifests, their indexes, tables, targets, and what was prepared."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile

from distill.adaptation.targets import Targets
from distill.data.dataset import SpeechDataset
from distill.data.manifest import ManifestCuts
from distill.data.sources import index_cuts
from distill.data_prep.ledger import Ledger
from distill.errors import DataError
from tests.fuzz.target import Target, read_json, write_json

RATE = 16_000


def _cut(number: int) -> dict[str, object]:
    """A cut of a.wav, which is not there: nothing but the manifest is read."""
    source = {"type": "file", "channels": [0], "source": "/nowhere/a.wav"}
    recording = {"id": "r", "sources": [source], "sampling_rate": RATE, "num_samples": 4000, "duration": 0.25}
    supervision = {"id": "s", "recording_id": "r", "start": 0.0, "duration": 0.2, "text": "a b"}
    cut = {"id": f"u{number}", "start": 0.0, "duration": 0.25, "channel": 0, "supervisions": [supervision]}
    return cut | {"recording": recording | {"channel_ids": [0]}, "custom": {"a": 1}, "type": "MonoCut"}


def _mixture() -> dict[str, object]:
    tracks = [{"cut": _cut(n), "type": "MonoCut", "offset": 0.1 * n, "snr": 5.0} for n in range(2)]
    return {"id": "m", "tracks": tracks, "type": "MixedCut"}


def _lines(*values: object) -> bytes:
    return b"".join(json.dumps(value).encode() + b"\n" for value in values)


def _read_batch(path: Path) -> None:
    cuts = index_cuts(str(path))
    batch = SpeechDataset(cuts)[0, 0, range(len(cuts))]
    assert all(why.isprintable() for _, why in batch.skipped)


def _read_index(path: Path) -> None:
    """Of a manifest whose index was harmed: made again, so that the cuts are the same."""
    assert [cut.id for cut in ManifestCuts(path.parents[2] / "x.jsonl")] == ["u0", "u1"]


def _with_index(name: str) -> Callable[[Path], object]:
    def beside(folder: Path) -> None:
        manifest = folder.parents[1] / "x.jsonl"
        manifest.write_bytes(_lines(_cut(0), _cut(1)))
        ManifestCuts(manifest)
        (folder / name).unlink()

    return beside


def _ledger() -> dict[str, object]:
    entry = {"digest": "0", "state": "1", "utterances": 2, "files": 2, "published": 2, "hours": 0.1}
    entry |= {"skipped": {"/a.wav": "is empty"}, "shards": {"/shards": [0, 1]}}
    return {"corpus": "timit", "splits": {"test": entry}}


def _read_ledger(path: Path) -> None:
    ledger = Ledger(path.parent, "timit")
    ledger.done("test", "0", "1")
    ledger.record("test", {"digest": "0", "utterances": 2, "files": 2, "hours": 0.1, "skipped": {}})
    ledger.write_skipped()


def _targets(folder: Path) -> None:
    (folder / "codebook.npy").write_bytes(_npy(np.zeros((4, 39), np.float32)))
    values = {"features": "mfcc", "n_clusters": 4, "seed": 3, "utterances": 1, "frames": 2}
    (folder / "targets.json").write_text(json.dumps(values))


def _npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def _labels(method: int) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        arrays = {"ids": np.array(["a"]), "lengths": np.array([2]), "labels": np.zeros(2, np.int16)}
        for name, array in arrays.items():
            archive.writestr(f"{name}.npy", _npy(array))
    return stream.getvalue()


def _wav(folder: Path) -> None:
    soundfile.write(folder / "a.wav", np.zeros(800), RATE)


TARGETS = [
    Target(
        name="manifest",
        file="x.jsonl",
        seeds=lambda: [_lines(_cut(0), _mixture()), _lines(_mixture())],
        read=_read_batch,
        parse=lambda data: [json.loads(line) for line in data.splitlines()],
        dump=lambda value: _lines(*value) if isinstance(value, list) else write_json(value),
        words=(b'"duration": ', b"NaN", b"Infinity", b"1e400", b'"transforms": [', b"\\ud800", b"null"),
    ),
    Target(
        name="table",
        file="x.tsv",
        seeds=lambda: [b"path\tlabel\na.wav\tyes\n", b".\na.wav\t800\n", b'"path","a"\n"a.wav","b"\n'],
        read=_read_batch,
        beside=_wav,
        words=(b"\t", b",", b'"', b"\r\n", b"\n", b"..", b"/", b"path", b"\xe2\x80\xa8", b"\xef\xbb\xbf"),
    ),
    Target(
        name="index",
        file="folder/.index/x.jsonl/about.json",
        seeds=lambda: [b'{"version": 3}', b"{}"],
        read=_read_index,
        beside=_with_index("about.json"),
        parse=read_json,
        dump=write_json,
    ),
    Target(
        name="index_lines",
        file="folder/.index/x.jsonl/lines",
        seeds=lambda: [bytes(48)],
        read=_read_index,
        beside=_with_index("lines"),
    ),
    Target(
        name="prepared",
        file="prepared.json",
        seeds=lambda: [write_json(_ledger())],
        read=_read_ledger,
        parse=read_json,
        dump=write_json,
        allowed=(DataError,),
    ),
    Target(
        name="targets",
        file="labels.npz",
        seeds=lambda: [_labels(zipfile.ZIP_STORED), _labels(zipfile.ZIP_DEFLATED)],
        read=lambda path: Targets.load(path.parent),
        beside=_targets,
        words=(b"PK\x03\x04", b"PK\x01\x02", b"'shape': (", b"'descr': '|O'", b"99999999"),
    ),
]
