"""Published corpora: their splits, their figures, and how their utterances are found on disk.

Nothing here opens audio or imports anything but the standard library; `preparation` does the work.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Interval = tuple[str, float, float]
"""(symbol, start in seconds, duration in seconds)"""


@dataclass(frozen=True, kw_only=True)
class Clip:
    """One audio file of a corpus, as its lists and folders describe it."""

    id: str
    """Of the cut; unique in its split."""
    path: Path
    """Absolute."""
    text: str | None = None
    speaker: str | None = None
    custom: Mapping[str, Any] = field(default_factory=dict)
    """Classes and the like, for `cut.custom`."""
    alignment: Mapping[str, tuple[Interval, ...]] = field(default_factory=dict)
    """By tier ("word", "phone")."""
    pieces_s: float | None = None
    """Cut the file into pieces of this length in seconds; a shorter rest is left out."""


@dataclass(frozen=True, kw_only=True)
class Split:
    """A part of a corpus, with what its authors say it holds."""

    name: str
    """Of the manifest."""
    files: int | None = None
    """Published number of audio files; None where none is known."""
    hours: float | None = None
    """Published duration; None where none is known."""


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """A published corpus."""

    name: str
    """As on the command line."""
    title: str
    splits: tuple[Split, ...]
    find: Callable[[Path, str], list[Clip] | None]
    """(root, name of the split) -> its clips without opening audio, or None if the split is missing."""
    layout: str
    """A path of it below the root, for messages."""
    source: str
    """Where to get it."""
    size: str
    """Of the download, or of the files where that is what is known."""
    licence: str
