"""Lexica: pronunciations of words (phoneme recognition), and their spellings (decoding).

Lines are `WORD PHONE PHONE ...` or `WORD W O R D |`, separated by spaces or tabs. What else CMUdict and MFA
write is understood: comments (`;;; ...`, `# ...`, after the phones as well), variants (`WORD(2)`), and one or
four probabilities between word and phones.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Container, Iterator, Mapping, Sequence
from pathlib import Path

from distill.data.text import read_lines
from distill.errors import DataError

_VARIANT = re.compile(r"(.+)\(\d+\)")
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
_PROBABILITIES = (1, 4)  # of the pronunciation; and three of silence around it
_SAMPA = frozenset("@{}&?")  # vowels and the glottal stop: phones without a letter
_MOST_PHONES = 500
"""Different phones of a lexicon. The largest sets, IPA with tones, have about 300: more must be words."""
_ENOUGH_WORDS = 1_000
"""Size of a lexicon from which on every phone of a language occurs in several words."""


def read_pronunciations(path: Path) -> dict[str, list[str]]:
    """The phones of each word (in upper case): its first pronunciation.

    Raises:
        DataError: the file is missing, not UTF-8 or no lexicon; a line has no phones or something that cannot
            be a phone, naming the line.
    """
    found: dict[str, list[str]] = {}
    phones: set[str] = set()
    for where, word, symbols in _entries(path):
        symbols = _without_probabilities(symbols)
        if not symbols:
            raise DataError(f"{where}: {word} has no phones, expected WORD PHONE PHONE ...")
        if wrong := next((symbol for symbol in symbols if not can_be_phone(symbol)), None):
            raise DataError(f"{where}: {wrong!r} cannot be a phone, expected WORD PHONE PHONE ...")
        phones.update(symbols)
        found.setdefault(word.upper(), symbols)
    if not found:
        raise DataError(f"lexicon {path} has no words, expected lines WORD PHONE PHONE ...")
    if len(phones) > _MOST_PHONES:
        some = ", ".join(sorted(phones)[:3])
        raise DataError(
            f"lexicon {path}: it has {len(phones)} different phones, such as {some}, which must be words; "
            "expected lines WORD PHONE PHONE ..."
        )
    return found


def odd_phones(lexicon: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Phones that occur in a single word of a large lexicon, with that word: most probably not phones.

    A line with two words has one, as in `NEW YORK N UW1 Y`.
    """
    words: dict[str, set[str]] = defaultdict(set)
    for word, phones in lexicon.items() if len(lexicon) >= _ENOUGH_WORDS else ():
        for phone in phones:
            if len(words[phone]) < 2:
                words[phone].add(word)
    return {phone: found.pop() for phone, found in words.items() if len(found) == 1}


def can_be_phone(symbol: str) -> bool:
    """Whether a symbol may be a phone (`AH0`, `t_h`, `dʒ`, `@`); numbers and punctuation are not."""
    named = any(character.isalpha() or character in _SAMPA for character in symbol)
    return named and not any(character in ",;()[]/" for character in symbol) and not _NUMBER.fullmatch(symbol)


def read_spellings(path: Path, symbols: Container[str], word_end: str | None) -> dict[str, list[list[str]]]:
    """Spellings by word, whose case is unchanged.

    Args:
        path: of the lexicon.
        symbols: that a head knows.
        word_end: the symbol after every word, where the others are letters, whose case does not matter; None:
            they are subwords, as they are.

    Raises:
        DataError: the file is missing, not UTF-8 or empty; a line has no spelling, or one in other symbols,
            naming the line.
    """
    found: dict[str, list[list[str]]] = {}
    expected = "WORD PIECE PIECE ..." if word_end is None else f"WORD W O R D {word_end}"
    for where, word, letters in _entries(path):
        spelling = letters if word_end is None else [letter.upper() for letter in letters]
        if not spelling:
            raise DataError(f"{where}: {word} has no spelling, expected {expected}")
        wrong = any(letter not in symbols for letter in spelling)
        if wrong or (word_end is not None and spelling[-1] != word_end):
            rule = (
                "pieces that" if word_end is None else f"letters that the head knows, and {word_end} at the"
            )
            raise DataError(
                f"{where}: {word} is spelled {' '.join(spelling)}, expected {rule} "
                f"{'the model knows' if word_end is None else 'end'}"
            )
        found.setdefault(word, []).append(spelling)
    if not found:
        raise DataError(f"lexicon {path} has no words, expected lines {expected}")
    return found


def _entries(path: Path) -> Iterator[tuple[str, str, list[str]]]:
    """(file and line for messages, word, the symbols after it), without comments and numbers of variants."""
    if not path.is_file():
        raise DataError(f"lexicon {path}: no such file")
    for number, line in read_lines(path):
        where = f"lexicon {path}: line {number}"
        if line.startswith((";;;", "#")):
            continue
        if "\t" in line and len(line.partition("\t")[0].split()) > 1:
            raise DataError(f"{where}: {line.partition(chr(9))[0]!r} before the tab is not one word")
        word, *symbols = line.split()
        variant = _VARIANT.fullmatch(word)
        yield where, variant[1] if variant else word, _without_comment(symbols)


def _without_comment(symbols: Sequence[str]) -> list[str]:
    """The symbols before `# ...`; Kaldi's `#1` is no comment."""
    starts = (n for n, symbol in enumerate(symbols) if symbol[0] == "#" and not symbol[1:].isdecimal())
    return list(symbols[: next(starts, len(symbols))])


def _without_probabilities(symbols: list[str]) -> list[str]:
    """The symbols after the probabilities; an integer is none: it may be meant as a phone, and is refused."""
    count = 0
    while count < len(symbols) and _NUMBER.fullmatch(symbols[count]) and not symbols[count].isdecimal():
        count += 1
    return symbols[count:] if count in _PROBABILITIES else symbols
