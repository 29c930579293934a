"""IEMOCAP as SUPERB's emotion recognition: four classes, five sessions as folds (Busso et al. 2008)."""

from __future__ import annotations

import re
from pathlib import Path

from distill.data.text import read_text
from distill.data_prep.corpus import Clip, Corpus, Split
from distill.data_prep.files import first_folder

CLASSES = {"neu": "neu", "hap": "hap", "exc": "hap", "sad": "sad", "ang": "ang"}
"""Emotion of the annotation -> class: excited counts as happy, the others are left out."""

_TURN = re.compile(r"^\[[^\]]*\]\t(Ses\w+)\t(\w+)\t", re.MULTILINE)  # [start - end] NAME EMOTION [v, a, d]
_SPOKEN = re.compile(r"^(Ses\w+) \[[^\]]*\]: ?(.*)$", re.MULTILINE)  # NAME [start-end]: TEXT


def find(root: Path, split: str) -> list[Clip] | None:
    """Turns of a session (`session1` to `session5`) in one of the four classes.

    `custom` holds the class in `label` and the annotation in `emotion`.
    """
    session = f"Session{split[-1]}"
    home = first_folder(root, f"IEMOCAP_full_release/{session}", f"IEMOCAP/{session}", session)
    if home is None:
        return None
    spoken = {}
    for path in _notes(home / "dialog" / "transcriptions"):
        spoken.update(_SPOKEN.findall(read_text(path)))
    clips = []
    for path in _notes(home / "dialog" / "EmoEvaluation"):
        for name, emotion in _TURN.findall(read_text(path)):
            if emotion in CLASSES:
                clips.append(_clip(home, name, emotion, spoken.get(name)))
    return clips


def _notes(folder: Path) -> list[Path]:
    """Copies made on a Mac hold a `._NAME.txt` for every file."""
    return sorted(path for path in folder.glob("*.txt") if not path.name.startswith("."))


def _clip(home: Path, name: str, emotion: str, text: str | None) -> Clip:
    dialogue, _, turn = name.rpartition("_")  # Ses01F_impro01, F000: the letter there is the speaker's
    return Clip(
        id=name,
        path=home / "sentences" / "wav" / dialogue / f"{name}.wav",
        text=text.strip() if text else None,
        speaker=f"{name[:5]}{turn[0]}",
        custom={"label": CLASSES[emotion], "emotion": emotion},
    )


IEMOCAP = Corpus(
    name="iemocap",
    title="IEMOCAP, four emotions",
    splits=tuple(  # 5531 turns in all
        Split(name=f"session{i}", files=files) for i, files in enumerate((1085, 1023, 1151, 1031, 1241), 1)
    ),
    find=find,
    layout="IEMOCAP_full_release/Session1/{dialog/EmoEvaluation/*.txt,sentences/wav/*/*.wav}",
    source="https://sail.usc.edu/iemocap (on request)",
    size="unknown size",
    licence="USC's release form: research only",
)
