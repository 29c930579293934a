"""What to do about sources of audio that do not exist."""

from __future__ import annotations

from pathlib import Path

from distill.data_prep import CORPORA, PUBLISHED
from distill.errors import MissingSource


def how_to_make(path: Path) -> str:
    """What to do about a missing source: the command that makes it, where there is one.

    That is known of manifests in the places where `distill data prepare` puts them: `CORPUS/SPLIT.jsonl.gz`.
    """
    corpus, split = path.parent.name, path.name.removesuffix(".jsonl.gz")
    if path.name == split:
        return MissingSource.advice
    if corpus not in CORPORA:
        return (
            "name the folder of your manifests (data.root=..., evaluate: --data), or other sources "
            "(data.train, evaluate: sources.train=... label=...)"
        )
    splits = [part.name for part in PUBLISHED[corpus].splits] if corpus in PUBLISHED else [split]
    if split not in splits:
        return f"{corpus} has no split {split}: name one of {', '.join(splits)}"
    root = " --root FOLDER" if corpus in PUBLISHED else ""
    return f"distill data prepare {corpus}{root} --out {path.parent}"
