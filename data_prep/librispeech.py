"""LibriSpeech and Mini LibriSpeech: read English with transcripts (Panayotov et al. 2015).

lhotse's recipe is not used: it leaves out missing files with only a warning, checks no figures and starts
again after an interruption. Its parser of word alignments is used.
"""

from __future__ import annotations

from pathlib import Path

from distill.data.text import read_lines
from distill.data_prep.corpus import Clip, Corpus, Interval, Split
from distill.data_prep.files import first_folder
from distill.errors import DataError


def find(root: Path, split: str) -> list[Clip] | None:
    """Every line of every `SPEAKER-CHAPTER.trans.txt` is an utterance.

    Word alignments are read if `SPEAKER-CHAPTER.alignment.txt` is in the same folder (github.com/CorentinJ/
    librispeech-alignments).
    """
    folder = first_folder(root, f"LibriSpeech/{split}", split)
    if folder is None:
        return None
    clips = []
    for transcript in sorted(folder.glob("*/*/[!.]*.trans.txt")):  # not a Mac's `._` files
        words = _alignments(transcript.with_name(transcript.name.replace(".trans.txt", ".alignment.txt")))
        for number, line in read_lines(transcript):
            name, _, text = line.strip().partition(" ")
            if not text.strip():
                raise DataError(f"{transcript}: line {number}, {line!r}, is not of the form NAME TEXT")
            clips.append(
                Clip(
                    id=name,
                    path=transcript.with_name(f"{name}.flac"),
                    text=text,
                    speaker=name.partition("-")[0],
                    alignment={"word": words[name]} if name in words else {},
                )
            )
    return clips


def _alignments(path: Path) -> dict[str, tuple[Interval, ...]]:
    """Words by utterance, without the pauses."""
    if not path.is_file():
        return {}
    from lhotse.recipes.librispeech import parse_alignments

    return {
        name: tuple((item.symbol, item.start, item.duration) for item in items if item.symbol)
        for name, items in parse_alignments(path).items()
    }


LIBRISPEECH = Corpus(
    name="librispeech",
    title="LibriSpeech",
    splits=(  # files: counted in the release; hours: Table 1 of the paper
        Split(name="train-clean-100", files=28539, hours=100.6),
        Split(name="train-clean-360", files=104014, hours=363.6),
        Split(name="train-other-500", files=148688, hours=496.7),
        Split(name="dev-clean", files=2703, hours=5.4),
        Split(name="dev-other", files=2864, hours=5.3),
        Split(name="test-clean", files=2620, hours=5.4),
        Split(name="test-other", files=2939, hours=5.1),
    ),
    find=find,
    layout="LibriSpeech/train-clean-100/103/1240/103-1240.trans.txt",
    source="https://www.openslr.org/12",
    size="60 GB",
    licence="CC BY 4.0",
)

MINI_LIBRISPEECH = Corpus(
    name="mini_librispeech",
    title="Mini LibriSpeech",
    splits=(Split(name="train-clean-5", files=1519), Split(name="dev-clean-2", files=1089)),
    find=find,
    layout="LibriSpeech/train-clean-5/1088/134315/1088-134315.trans.txt",
    source="https://www.openslr.org/31",
    size="0.5 GB",
    licence="CC BY 4.0",
)
