"""Files: audio files below a folder, and refusing what is not a regular file or has no UTF-8 name."""

from __future__ import annotations

import os
import stat
from collections.abc import Collection
from pathlib import Path

from distill.errors import DataError

AUDIO_SUFFIXES = frozenset({".wav", ".flac", ".mp3", ".ogg", ".opus", ".aiff", ".aif"})
"""What libsndfile, the library behind soundfile, decodes."""

_OTHER_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (lambda mode: stat.S_ISCHR(mode) or stat.S_ISBLK(mode), "a device"),
)


def audio_files(folder: Path) -> list[Path]:
    """All audio files below `folder`, sorted, linked folders included and hidden ones left out.

    Raises:
        DataError: `folder` does not exist or is not a folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; name the folder that holds the audio files")
    return files_below(folder, AUDIO_SUFFIXES)


def files_below(folder: Path, suffixes: Collection[str]) -> list[Path]:
    """As `audio_files`, with other suffixes, in lower case."""
    found: list[Path] = []
    visited: set[str] = set()
    for parent, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(parent)
        if real in visited:  # a link to a parent folder would never end
            folders.clear()
            continue
        visited.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [
            Path(parent, name)
            for name in names
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in suffixes
        ]
    return sorted(found)


def regular_file(path: str | Path) -> Path:
    """The path of a file that can be read to its end: a pipe or a device would hang, or never stop.

    Raises:
        DataError: it does not exist, or is something else.
    """
    try:
        state = os.stat(path)
    except FileNotFoundError:
        raise DataError(f"{path} does not exist") from None
    except (OSError, ValueError) as error:  # the latter for NUL
        raise DataError(f"{path} cannot be read ({getattr(error, 'strerror', None) or error})") from None
    if not stat.S_ISREG(state.st_mode):
        what = next((what for is_one, what in _OTHER_KINDS if is_one(state.st_mode)), "something else")
        raise DataError(f"{path} is {what}, not a file")
    return Path(path)


def state_of(path: str | Path) -> str:
    """Size and time of change of a file; "" if it is not on this machine."""
    try:
        state = os.stat(path)
    except (OSError, ValueError):
        return ""
    return f"{state.st_size} {state.st_mtime_ns}"


def cache_folder(name: str) -> Path:
    """Where files of ours that can be made again are kept for this user; it may not exist yet."""
    home = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    return home / "robust-distilhubert" / name


def check_name(name: str | Path) -> None:
    """Refuse a name that is not text: manifests, tables and logs are written in UTF-8.

    Raises:
        DataError: it is not UTF-8.
    """
    try:
        str(name).encode()
    except UnicodeEncodeError:
        raise DataError("its name is not UTF-8, which manifests are written in; rename it") from None


def printable(name: str | Path) -> str:
    """A name, or other text, in which bytes that are not UTF-8 are escaped."""
    return str(name).encode(errors="backslashreplace").decode()
