"""Audio in Shar shards, read in any order: a manifest says in which tar file it is, and where in it.

lhotse reads shards from end to end; until then its cuts have placeholders instead of audio. In our manifests
the placeholder's `source` is `TAR#OFFSET+BYTES`, where TAR is a path, or a URL that smart_open can read.
"""

from __future__ import annotations

import functools
import gzip
import json
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lhotse import Recording
from lhotse.audio import AudioSource
from lhotse.cut import Cut
from lhotse.cut.data import DataCut
from lhotse.serialization import deserialize_item
from lhotse.utils import fastcopy, is_valid_url

from distill.errors import DataError


def located_cuts(cuts: Path, tar: Path, place: str) -> Iterator[Cut]:
    """The cuts of one shard, each with the place of its audio.

    Args:
        cuts: `cuts.000000.jsonl.gz`.
        tar: `recording.000000.tar`, not compressed, on this machine; only its headers are read.
        place: path or URL under which training will find that tar file.

    Raises:
        DataError: the two do not belong together, or are broken.
    """
    try:
        with gzip.open(cuts) as lines, tarfile.open(tar, "r:") as members:
            for line in lines:
                cut: Any = deserialize_item(json.loads(line))
                audio, about = members.next(), members.next()
                if audio is None or about is None:
                    raise DataError(f"{tar}: has no audio for {cut.id}; fetch the shard again")
                if audio.name.rpartition(".")[0] != cut.id:
                    raise DataError(f"{tar}: has {audio.name} where {cuts.name} has {cut.id}")
                if audio.name.endswith(".nodata"):
                    raise DataError(f"{tar}: {cut.id} has no audio in it")
                content = members.extractfile(about)
                assert content is not None
                recording = Recording.from_dict(json.loads(content.read()))
                recording.sources[0].source = f"{place}#{audio.offset_data}+{audio.size}"
                yield fastcopy(cut, recording=recording)
    except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError, tarfile.TarError) as error:
        raise DataError(f"{tar}: no shard of lhotse's Shar, or a broken one ({error})") from None


def in_memory(cut: Cut) -> Cut:
    """The cut with the bytes of its audio if that is in a shard, else the cut itself.

    Raises:
        DataError: the shard is not there or too short, or the manifest does not say which it is.
    """
    recording = cut.recording if isinstance(cut, DataCut) else None
    if recording is None or recording.sources[0].type != "shar":
        return cut
    source = recording.sources[0]
    try:
        data = _read(*place_of(source))
    except DataError as error:
        raise DataError(f"{cut.id}: {error}") from None
    read = AudioSource(type="memory", channels=source.channels, source=data)
    return fastcopy(cut, recording=fastcopy(recording, sources=[read]))


def place_of(source: AudioSource) -> tuple[str, int, int]:
    """Path or URL of the tar file, offset and number of bytes of the audio in it.

    Raises:
        DataError: it is lhotse's placeholder, which does not say.
    """
    tar, _, stretch = str(source.source).rpartition("#")
    offset, _, n_bytes = stretch.partition("+")
    if not (tar and offset.isdigit() and n_bytes.isdigit()):
        raise DataError(
            "its audio is in Shar shards, and the manifest does not say where: make one that does with "
            "distill data prepare shar --root SHARDS --out FOLDER"
        )
    return tar, int(offset), int(n_bytes)


def _read(tar: str, offset: int, n_bytes: int) -> bytes:
    try:
        if is_valid_url(tar):
            import smart_open

            stream = smart_open.open(tar, "rb", transport_params=_transport(tar, n_bytes))
        else:
            stream = open(tar, "rb")  # noqa: SIM115
        with stream:
            stream.seek(offset)
            data = stream.read(n_bytes)
    except ImportError:
        raise DataError(
            f"{tar} cannot be read without smart_open: pip install 'robust-distilhubert[shards]'"
        ) from None
    except Exception as error:  # noqa: BLE001 disks and object stores each have exceptions of their own
        raise DataError(f"{tar} cannot be read ({' '.join(str(error).split())})") from None
    if len(data) < n_bytes:
        raise DataError(f"{tar} ends too early; fetch or make it again")
    return data


def _transport(url: str, n_bytes: int) -> dict[str, Any]:
    """Of an object in S3, ask for that stretch alone."""
    if not url.startswith("s3://"):
        return {}
    return {"client": _s3(os.getpid()), "defer_seek": True, "range_chunk_size": n_bytes}


@functools.cache
def _s3(process: int) -> Any:  # noqa: ARG001 connections must not be shared with a parent
    import boto3

    return boto3.client("s3")
