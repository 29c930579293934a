"""Audio in Shar shards, read in any order: a manifest says in which tar file it is, and where in it.

lhotse reads shards from start to end, and the cuts in its own lists have placeholders instead of audio. In
our manifests the placeholder's `source` is `TAR#OFFSET+BYTES`, where TAR is a path, or a URL for smart_open.
"""

from __future__ import annotations

import gzip
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lhotse import Recording
from lhotse.audio import AudioSource
from lhotse.cut import Cut
from lhotse.serialization import deserialize_item
from lhotse.utils import fastcopy

from distill.data.files import regular_file
from distill.data.stores import check_place
from distill.errors import DataError, first_line


def located_cuts(cuts: Path, tar: Path, place: str) -> Iterator[Cut]:
    """The cuts of one shard, each with the place of its audio.

    Args:
        cuts: `cuts.000000.jsonl.gz`.
        tar: `recording.000000.tar`, not compressed, on this machine; only its headers are read.
        place: path or URL of that tar file for training.

    Raises:
        DataError: the two do not belong together, or are broken.
    """
    for file in (cuts, tar):
        regular_file(file)
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
                (placeholder,) = recording.sources
                where = f"{place}#{audio.offset_data}+{audio.size}"
                source = AudioSource(type="shar", channels=placeholder.channels, source=where)
                recording = fastcopy(recording, sources=[source])
                yield fastcopy(cut, recording=recording)
    except DataError:
        raise
    except Exception as error:  # noqa: BLE001 lhotse raises whatever its parser does
        raise DataError(
            f"{tar}: not a shard of lhotse's Shar, or a broken one ({first_line(error)})"
        ) from None


def place_of(source: AudioSource) -> tuple[str, int, int]:
    """Path or URL of the tar file, offset and number of bytes of the audio in it.

    Raises:
        DataError: it is lhotse's own placeholder, which does not say, or not a file or object in a store.
    """
    tar, _, stretch = str(source.source).rpartition("#")
    offset, _, n_bytes = stretch.partition("+")
    if not (tar and offset.isdigit() and n_bytes.isdigit()):
        raise DataError(
            "its audio is in Shar shards, and the manifest does not say where: make one that does with "
            "distill data prepare shar --root SHARDS --out FOLDER"
        )
    check_place(tar)
    return tar, int(offset), int(n_bytes)
