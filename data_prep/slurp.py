"""SLURP: action and scenario of requests to a home assistant (Bastianelli et al. 2020).

Its lists are in the repository of the authors, its audio comes apart from it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from distill.data.text import read_lines, read_text
from distill.data_prep.corpus import Clip, Corpus, Split
from distill.data_prep.files import first_folder
from distill.errors import DataError

LABELS = ("action", "scenario", "intent")


def find(root: Path, split: str) -> list[Clip] | None:
    """The recordings of `dataset/slurp/SPLIT.jsonl`, both of the headset and of the distant microphone.

    `custom` holds action, scenario and intent. Speakers are known if `metadata.json` exists.
    """
    home = root if (root / "dataset/slurp").is_dir() else root / "slurp"
    listed = home / "dataset/slurp" / f"{split}.jsonl"
    name = "slurp_synth" if split == "train_synthetic" else "slurp_real"
    audio = first_folder(home / "audio", name) or first_folder(home, name) or first_folder(root, name)
    if not listed.is_file() or audio is None:
        return None
    speakers = _speakers(home / "dataset/slurp/metadata.json")
    clips: dict[str, Clip] = {}
    for number, line in read_lines(listed):
        try:
            found = {clip.id: clip for clip in _clips(json.loads(line), audio, speakers)}
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{listed}: line {number} is no entry of SLURP ({error!r})") from None
        if differing := [name for name in found if clips.get(name, found[name]) != found[name]]:
            raise DataError(f"{listed}: line {number} says otherwise of {differing[0]} than a line before it")
        clips |= found
    return list(clips.values())


def _clips(entry: dict[str, Any], audio: Path, speakers: dict[str, str]) -> list[Clip]:
    labels = {name: entry[name] for name in LABELS}
    names = [recording["file"] for recording in entry["recordings"]]
    return [
        Clip(
            id=name.rpartition(".")[0],
            path=audio / name,
            text=entry["sentence"],
            speaker=speakers.get(name),
            custom=labels,
        )
        for name in names
    ]


def _speakers(metadata: Path) -> dict[str, str]:
    """By file."""
    if not metadata.is_file():
        return {}
    try:
        entries = json.loads(read_text(metadata)).values()
        return {
            name: recording["usrid"] for entry in entries for name, recording in entry["recordings"].items()
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{metadata}: not SLURP's metadata ({error!r})") from None


SLURP = Corpus(
    name="slurp",
    title="SLURP",
    splits=tuple(Split(name=name) for name in ("train", "devel", "test", "train_synthetic")),
    find=find,
    layout="dataset/slurp/train.jsonl and audio/slurp_real",
    source="https://github.com/pswietojanski/slurp",
    size="6 GB",
    licence="text CC BY 4.0, audio CC BY-NC 4.0: non-commercial use only",
)
