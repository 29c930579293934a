"""CHiME-3's real evaluation set: sentences of WSJ read in four noisy places (Barker et al. 2015).

Seven microphones recorded each sentence: 0 is close to the mouth, 2 looks backwards, 1 and 3-6 look at the
speaker from the tablet's frame. Every channel is a split of its own.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from distill.data.text import read_lines, read_text
from distill.data_prep.corpus import Clip, Corpus, Split
from distill.data_prep.files import first_folder
from distill.errors import DataError

CHANNELS = range(7)
PLACES = ("BUS", "CAF", "PED", "STR")


def find(root: Path, split: str) -> list[Clip] | None:
    """Sentences of one channel; the place is in `custom["place"]`."""
    home = first_folder(root, "CHiME3/data", "data") or root
    audio = home / "audio" / "16kHz" / "isolated"
    channel = int(split[-1])
    folders = [audio / f"et05_{place.lower()}_real" for place in PLACES]
    if not any(any(folder.glob(f"*.CH{channel}.wav")) for folder in folders):
        return None
    return [
        Clip(
            id=f"{name}.CH{channel}",
            path=audio / f"et05_{place.lower()}_real" / f"{name}.CH{channel}.wav",
            text=normalise(text),
            speaker=name.partition("_")[0],
            custom={"place": place},
        )
        for name, text in sorted(_transcripts(home).items())
        if (place := name.rpartition("_")[2]) in PLACES
    ]


def _transcripts(home: Path) -> dict[str, str]:
    """Text as written by utterance, such as M05_440C0201_BUS."""
    dots = home / "transcriptions" / "et05_real.dot_all"
    if dots.is_file():  # TEXT (NAME)
        return dict(_named(dots, number, line) for number, line in read_lines(dots))
    notes = home / "annotations" / "et05_real.json"
    if notes.is_file():
        try:
            return {
                "_".join((entry["speaker"], entry["wsj_name"], entry["environment"])): entry["dot"]
                for entry in json.loads(read_text(notes))
            }
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{notes}: not the annotations of CHiME-3 ({error}); unpack it again") from None
    raise DataError(f"{dots}: no such file, nor {notes}; unpack CHiME-3's transcriptions")


def _named(path: Path, number: int, line: str) -> tuple[str, str]:
    """Name and text of a line `TEXT (NAME)`."""
    found = re.fullmatch(r"(.*)\((\S+)\)\s*", line)
    if found is None:
        raise DataError(f"{path}: line {number}, {line!r}, is not of the form TEXT (NAME)")
    return found[2], found[1]


def normalise(text: str) -> str:
    r"""WSJ's detailed orthography in LibriSpeech's characters: A-Z, apostrophe and space.

    Marks for noises (`<NOISE>`, `[door_slam]`) go, and so do the signs of WSJ's orthography: `*` around
    words spoken wrongly, `!` and `~`. A punctuation mark that was spoken (`,COMMA`) keeps its word, since
    that is what can be heard. Spellings stay: `MR.` becomes `MR`, where LibriSpeech writes MISTER.

    >>> normalise("<NOISE> Mr. O'Brien's forty-two ,COMMA *N.A.T.O.* \"DOUBLE-QUOTE")
    "MR O'BRIEN'S FORTY TWO COMMA NATO DOUBLE QUOTE"
    """
    text = re.sub(r"<[^>]*>|\[[^\]]*\]", " ", text.upper())
    text = text.replace("-", " ").replace("'SINGLE QUOTE", "SINGLE QUOTE")
    words = (re.sub(r"[^A-Z']", "", word) for word in text.split())
    return " ".join(word for word in words if word.strip("'"))


CHIME3 = Corpus(
    name="chime3",
    title="CHiME-3, real evaluation data",
    # 330 sentences in each place
    splits=tuple(Split(name=f"et05_real_ch{channel}", files=1320) for channel in CHANNELS),
    find=find,
    layout="CHiME3/data/{audio/16kHz/isolated/et05_bus_real/*.CH5.wav,transcriptions/et05_real.dot_all}",
    source="https://catalog.ldc.upenn.edu/LDC2017S24",
    size="unknown size",
    licence="LDC user agreement",
)
