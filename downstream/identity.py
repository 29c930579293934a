"""What files, audio and lists are, in short: names that change with what they stand for."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from lhotse.cut import Cut
from lhotse.cut.data import DataCut

from distill.data.contents import plain
from distill.data.files import state_of
from distill.data.recordings import parts_of
from distill.errors import DataError


def file_identity(path: str | Path) -> str:
    """Name of a file and hash of what it holds.

    Raises:
        DataError: if it is missing.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    state = path.stat()
    return f"{path.name} {_hash_once(path, state.st_size, state.st_mtime_ns)}"


@functools.cache
def _hash_once(path: Path, n_bytes: int, modified_ns: int) -> str:
    """Hash of a file in that state: a language model has gigabytes."""
    return hash_files([path], digest_size=16)


def hash_files(paths: Iterable[Path], *, digest_size: int) -> str:
    """BLAKE2b of the bytes of files, one after the other, in hexadecimal."""
    digest = hashlib.blake2b(digest_size=digest_size)
    for path in paths:
        with path.open("rb") as opened:
            while block := opened.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def audio_of(cuts: Sequence[Cut]) -> tuple[list[str], list[str]]:
    """Where the audio of each utterance is, and the state of those files.

    Returns:
        Paths or URLs with the place in them; sizes and times of change, which URLs do not have.
    """
    seen: dict[str, str] = {}
    places, states = [], []
    for cut in cuts:
        place, state = [], []
        for part in parts_of(cut):
            for source in part.recording.sources if part.recording else ():
                name = source.source if isinstance(source.source, str | Path) else "memory"
                place.append(f"{name} {part.start}{_otherwise(part)}")
                file = str(name).rpartition("#")[0] if source.type == "shar" else str(name)
                state.append(seen[file] if file in seen else seen.setdefault(file, state_of(file)))
        places.append("\t".join(place))
        states.append("\t".join(state))
    return places, states


def _otherwise(part: DataCut) -> str:
    """How a part is read, unless it is the first channel, at most resampled."""
    channel = getattr(part, "channel", 0)
    changes = map(plain, part.recording.transforms or ()) if part.recording else ()
    found = [channel] if channel not in (0, [0]) else []
    found += [change for change in changes if change.get("name") != "Resample"]
    return f" {json.dumps(found, sort_keys=True, default=str)}" if found else ""
