"""TIMIT with 39 phones, Kaldi's dev set and the core test set (Garofolo et al. 1993; Lee and Hon 1989).

The phone folding and the speaker lists are lhotse's. Its recipe is not used: it keeps the two dialect
sentences that everybody read, and knows only one of the spellings in which copies of the corpus come.
"""

from __future__ import annotations

from pathlib import Path

from distill.data.text import read_lines, read_text
from distill.data_prep.corpus import Clip, Corpus, Interval, Split
from distill.data_prep.files import first_folder
from distill.errors import DataError

SAMPLE_RATE = 16_000  # in which its lists count
_HOMES = (".", "TIMIT", "timit", "data", "TIMIT/data", "timit/data", "timit/TIMIT", "timit/timit")


def find(root: Path, split: str) -> list[Clip] | None:
    """SX and SI sentences, with `alignment["word"]` and `["phone"]` (39 phones, glottal stops left out).

    Names may be in upper or lower case; files named `.WAV.wav` are read, too.
    """
    part = "train" if split == "train" else "test"
    folder = first_folder(root, *(f"{home}/{name}" for home in _HOMES for name in (part.upper(), part)))
    if folder is None:
        return None
    from lhotse.recipes.timit import get_phonemes, get_speakers

    dev, test = get_speakers()
    speakers = {"train": None, "dev": set(dev), "test": set(test)}[split]
    phones = get_phonemes(39)
    clips = []
    for speaker in sorted(folder.glob("*/*")):
        if speaker.is_dir() and (speakers is None or speaker.name.lower() in speakers):
            clips += [_clip(path, phones) for path in _sentences(speaker)]
    return clips


def _sentences(speaker: Path) -> list[Path]:
    found: dict[str, Path] = {}
    for path in sorted(speaker.iterdir()):
        stem, _, suffixes = path.name.lower().partition(".")
        if suffixes in ("wav", "wav.wav") and not stem.startswith("sa"):
            found.setdefault(stem, path)  # a copy with both has the original first
    return list(found.values())


def _clip(path: Path, phones: dict[str, str]) -> Clip:
    stem = path.name.partition(".")[0]
    words = tuple(_intervals(_next_to(path, stem, "wrd")))
    folded = (
        (phones[symbol], start, length) for symbol, start, length in _intervals(_next_to(path, stem, "phn"))
    )
    try:
        kept = tuple(interval for interval in folded if interval[0])
    except KeyError as error:
        raise DataError(f"{path.with_name(stem)}.PHN: {error} is not a phone of TIMIT") from None
    text = " ".join(read_text(_next_to(path, stem, "txt")).split()[2:])
    return Clip(
        id=f"{path.parent.name}-{stem}".upper(),
        path=path,
        text=text,
        speaker=path.parent.name.upper(),
        custom={"dialect": path.parent.parent.name.upper()},
        alignment={"word": words, "phone": kept},
    )


def _next_to(path: Path, stem: str, suffix: str) -> Path:
    for name in (f"{stem}.{suffix.upper()}", f"{stem}.{suffix}"):
        if path.with_name(name).is_file():
            return path.with_name(name)
    raise DataError(f"{path.with_name(stem)}.{suffix.upper()} is missing; unpack the corpus again")


def _intervals(path: Path) -> list[Interval]:
    """Lines `FIRST_SAMPLE LAST_SAMPLE SYMBOL`."""
    intervals = []
    for number, line in read_lines(path):
        try:
            start, end, symbol = line.split()
            seconds = int(start) / SAMPLE_RATE, (int(end) - int(start)) / SAMPLE_RATE
        except ValueError:
            raise DataError(
                f"{path}: line {number}, {line!r}, is not of the form FIRST LAST SYMBOL"
            ) from None
        intervals.append((symbol, *seconds))
    return intervals


TIMIT = Corpus(
    name="timit",
    title="TIMIT",
    splits=(  # 462, 50 and 24 speakers, eight sentences each
        Split(name="train", files=3696, hours=3.14),
        Split(name="dev", files=400, hours=0.34),
        Split(name="test", files=192, hours=0.16),
    ),
    find=find,
    layout="TIMIT/TRAIN/DR1/FCJF0/{SX37.WAV,SX37.TXT,SX37.WRD,SX37.PHN}",
    source="https://catalog.ldc.upenn.edu/LDC93S1",
    size="unknown size",
    licence="LDC user agreement",
)
