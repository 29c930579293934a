"""The truth about utterances from manifests and lexica: classes, transcripts, phonemes."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lhotse.cut import Cut

from distill.atomic import write_text
from distill.downstream.lexica import can_be_phone, odd_phones, read_pronunciations
from distill.downstream.options import EvaluationConfig
from distill.errors import DataError
from distill.processes import is_first_process

logger = logging.getLogger(__name__)


def truths(cuts: Sequence[Cut], config: EvaluationConfig) -> list[str]:
    """What is to be predicted of utterances: class, transcript or phonemes."""
    kind = config.defaults.kind
    if kind == "classes":
        return [class_of(cut, config.label or config.defaults.label) for cut in cuts]
    if kind == "characters":
        return [text_of(cut) for cut in cuts]
    lexicon = pronunciations_of(config)
    return [" ".join(phones_of(cut, lexicon)) for cut in cuts]


def class_of(
    cut: Cut, column: str, advice: str = "name the field or column with the classes with label=NAME"
) -> str:
    """The class of an utterance: a custom field of its own or of its supervision.

    Spaces around it, and around each of its slots, are removed.

    Raises:
        DataError: if it is missing, a list or the like, or one of its slots is empty.
    """
    for fields in [getattr(cut, "custom", None) or {}, *(s.custom or {} for s in cut.supervisions)]:
        if column not in fields:
            continue
        found = _cell(fields[column], f"{cut.id}: its {column}")
        slots = [slot.strip() for slot in found.split("|")]
        if not all(slots):
            raise DataError(f"{cut.id}: its {column} is empty ({found!r}): fill it in, or leave the row out")
        return "|".join(slots)
    raise DataError(f"{cut.id} has no {column!r}: {advice}")


def _cell(value: Any, what: str) -> str:
    """A value of a manifest as text; "" for None and for NaN, which is pandas' empty cell.

    Raises:
        DataError: for a list or the like.
    """
    if isinstance(value, list | tuple | dict):
        raise DataError(f"{what} is {str(value)[:80]}, expected one text")
    return "" if value is None or value != value else str(value)


def text_of(cut: Cut) -> str:
    """The transcript: of the supervision, else a custom field `text`."""
    own = _cell((getattr(cut, "custom", None) or {}).get("text"), f"{cut.id}: its text")
    texts = [s.text for s in cut.supervisions if s.text] or [own]
    if not str(texts[0]).strip():
        raise DataError(f"{cut.id} has no transcript: prepare the corpus with its texts")
    return " ".join(map(str, texts))


def phones_of(cut: Cut, pronunciations: Mapping[str, Sequence[str]] | None) -> list[str]:
    """Phonemes: an alignment of the supervision, else a custom field `phones`, else by the lexicon.

    Raises:
        DataError: if there are none, a word is missing in the lexicon, or a symbol cannot be a phone.
    """
    if (phones := own_phones(cut)) is not None:
        if wrong := [phone for phone in phones if not can_be_phone(phone)]:
            raise DataError(f"{cut.id}: {wrong[0]!r} among its phones cannot be one: correct it")
        return phones
    if pronunciations is None:
        raise DataError(f"{cut.id} has no phones: name a lexicon (WORD PHONE PHONE ...) with lexicon=FILE")
    words = text_of(cut).upper().split()
    if lacking := [word for word in words if word not in pronunciations]:
        raise DataError(f"{cut.id}: the lexicon does not have {', '.join(lacking[:5])}: add what is missing")
    return [phone for word in words for phone in pronunciations[word]]


def own_phones(cut: Cut) -> list[str] | None:
    """The phonemes that a manifest states, if any."""
    for supervision in cut.supervisions:
        if supervision.alignment and "phone" in supervision.alignment:
            return [item.symbol for item in supervision.alignment["phone"]]
    phones = _cell((getattr(cut, "custom", None) or {}).get("phones"), f"{cut.id}: its phones")
    return phones.split() or None


def check_words(cuts: Iterable[Cut], config: EvaluationConfig, listing: Path) -> None:
    """Refuse lexica that lack words of the transcripts, naming all of them at once; warn of odd phones.

    Args:
        cuts: all utterances.
        config: of phoneme recognition.
        listing: the missing words are written here, one a line.

    Raises:
        DataError: if there are any.
    """
    lexicon = pronunciations_of(config)
    if lexicon is None:
        return
    if odd := [f"{phone} (in {word})" for phone, word in odd_phones(lexicon).items()]:
        some = ", ".join(odd[:5]) + ", ..." * (len(odd) > 5)
        logger.warning("%s: perhaps not phones, as only one word has each: %s", config.lexicon, some)
    words = {word for cut in cuts if own_phones(cut) is None for word in text_of(cut).upper().split()}
    if not (missing := sorted(words - lexicon.keys())):
        return
    if is_first_process():
        write_text(listing, "\n".join(missing) + "\n")
    names = ",".join(config.lexicons)
    some = ", ".join(missing[:10]) + ", ..." * (len(missing) > 10)
    raise DataError(
        f"{names}: {len(missing)} of {len(words)} words of the transcripts are missing: {some}; all are in "
        f"{listing}: write lines WORD PHONE PHONE ... for them into another file, lexicon={names},FILE"
    )


def pronunciations_of(config: EvaluationConfig) -> dict[str, list[str]] | None:
    """The phonemes of each word, from the first lexicon that has it; None without a lexicon."""
    found: dict[str, list[str]] = {}
    for path in config.lexicons:
        found = read_pronunciations(Path(path)) | found
    return found if config.lexicons else None
