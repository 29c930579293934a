"""Where the files of a corpus are, and whether all of them exist."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from tqdm import tqdm

from distill.data_prep.corpus import Clip, Corpus, Split
from distill.errors import DataError, UsageError

Clips = Mapping[str, list[Clip]]
"""Split -> its clips."""


def chosen_splits(corpus: Corpus, names: Sequence[str] | None) -> list[Split]:
    """The splits of these names, or all.

    Raises:
        UsageError: there is no split of a name.
    """
    known = {split.name: split for split in corpus.splits}
    for name in names or ():
        if name not in known:
            raise UsageError(f"{corpus.name} has no split {name!r}; there are {', '.join(known)}")
    return [split for split in corpus.splits if names is None or split.name in names]


def where_to_get(corpus: Corpus) -> str:
    """Source and size of a corpus, for messages."""
    return f"get it from {corpus.source}, {corpus.size}"


def find_clips(
    corpus: Corpus, root: Path, splits: Sequence[Split], *, all_needed: bool
) -> tuple[Clips, tuple[str, ...]]:
    """Clips of the splits below `root`, all of whose files exist, and the names of the other splits.

    Raises:
        DataError: there is no such folder or split, a file is missing, two clips have the same name, or a
            file's name is not UTF-8.
    """
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; --root names the folder that holds {corpus.layout}")
    clips: dict[str, list[Clip]] = {}
    for split in tqdm(splits, desc="finding files", unit="split", disable=None):
        found = corpus.find(root, split.name)
        if found:
            clips[split.name] = found
    missing = tuple(split.name for split in splits if split.name not in clips)
    if missing and (all_needed or not clips):
        raise DataError(
            f"{root}: {', '.join(missing)} of {corpus.title} not found; expected {corpus.layout} below it "
            f"({where_to_get(corpus)})"
        )
    for name, found in clips.items():
        _check_ids(name, found)
        _check_complete(name, found)
    return clips, missing


def _check_ids(split: str, clips: Sequence[Clip]) -> None:
    owners: dict[str, Path] = {}
    for clip in clips:
        if clip.id in owners and owners[clip.id] == clip.path:
            raise DataError(
                f"{split}: {clip.path} is in the lists twice, as {clip.id}; leave one of them out"
            )
        other = owners.setdefault(clip.id, clip.path)
        if other != clip.path:
            raise DataError(f"{split}: {clip.path} and {other} are both called {clip.id}; keep one of them")
        try:
            os.fspath(clip.path).encode()
        except UnicodeEncodeError:
            name = ascii(os.fspath(clip.path))
            raise DataError(f"{name}: not UTF-8, which manifests are written in; rename it") from None


def _check_complete(split: str, clips: Sequence[Clip]) -> None:
    """Stop at a half-downloaded corpus; one listing per folder is quick on network disks, too."""
    names: dict[Path, set[str]] = {}
    lost = []
    for clip in clips:
        folder = clip.path.parent
        if folder not in names:
            names[folder] = set(os.listdir(folder)) if folder.is_dir() else set()
        if clip.path.name not in names[folder]:
            lost.append(clip.path)
    if lost:
        first = ", ".join(map(str, lost[:3]))
        raise DataError(
            f"{split}: {len(lost)} of its {len(clips)} files are missing, first {first}; "
            "unpack the archive again, or choose other splits"
        )
