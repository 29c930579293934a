"""From CTC outputs to words: greedily, or by a beam search with a lexicon and an n-gram model.

Of characters, flashlight searches. Of subwords, `subword_search` does: flashlight loses a word whose last
piece lasts several frames, unless every word ends with a symbol of its own.

Shapes: F frames, V symbols with the blank first.
"""

from __future__ import annotations

import gzip
import logging
import math
import re
import zlib
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from distill.downstream.heads import BLANK
from distill.downstream.lexica import read_spellings
from distill.errors import DataError, UserError, check_finite

_BINARY = b"mmap lm http://kheafield.com/code"  # how every file of KenLM's build_binary begins
_GZIP = b"\x1f\x8b"
_LONGEST_LINE = 1 << 16  # bytes
_UNKNOWN = "<unk>"
DAMAGED = "lm {} is damaged, truncated or without 2-grams: download or build it again"
_NO_WORDS = frozenset({"<s>", "</s>", _UNKNOWN, "<UNK>"})

logger = logging.getLogger(__name__)

MISSING = "lm: flashlight-text and kenlm are not installed: pip install 'robust-distilhubert[lm]'"
"""What to say without the packages of the extra `lm`."""


@dataclass(frozen=True, kw_only=True)
class BeamSearch:
    """Options of a beam search with a language model; the defaults are those of SUPERB's ASR."""

    beam: int = 5
    """Most hypotheses that are kept at each frame."""
    beam_threshold: float = 25.0
    """Hypotheses whose score is lower than the best one's by more than this are dropped."""
    beam_tokens: int | None = None
    """Likeliest symbols of each frame that hypotheses may go on with; None: all."""
    lm_weight: float = 2.0
    """Weight of the language model's log10-probabilities."""
    word_score: float = -1.0
    """Added for every word: the higher, the more and shorter words."""

    def __post_init__(self) -> None:
        check_finite(self)
        if self.beam < 1 or (self.beam_tokens is not None and self.beam_tokens < 1):
            raise ValueError(f"beam and beam_tokens must be at least 1, not {self.beam}, {self.beam_tokens}")
        if self.beam_threshold <= 0:
            raise ValueError(f"beam_threshold must be positive, not {self.beam_threshold}")
        if self.lm_weight < 0:
            raise ValueError(f"lm_weight must not be negative, not {self.lm_weight}")


def greedy(log_probs: Tensor) -> list[int]:
    """The likeliest symbol of each frame, repetitions and blanks left out. (F, V) -> numbers."""
    best = log_probs.argmax(-1).unique_consecutive()
    return best[best != BLANK].tolist()


class LanguageModelDecoder:
    """Lexicon-constrained beam search with an n-gram model of words; its output is in upper case.

    Args:
        path: ARPA file (gzipped or not), or a binary of KenLM's `build_binary`.
        symbols: of the head, the blank excepted.
        word_end: the symbol after every word.
        lexicons: lines `WORD W O R D |`, a word from the first file that has it; none: every word of the ARPA
            file, letter by letter. Their case need not be the language model's.
        search: its options.

    Raises:
        DataError: for a language model or lexicon that is missing or of another kind.
        UserError: if the packages of the extra `lm` are not installed.
    """

    def __init__(
        self,
        path: str | Path,
        symbols: Sequence[str],
        *,
        word_end: str,
        lexicons: Sequence[str | Path] = (),
        search: BeamSearch | None = None,
    ):
        path = Path(path)
        kind = language_model_kind(path)
        if not lexicons and kind == "binary":
            raise DataError(f"lm {path} is binary and does not list its words: give a lexicon=FILE with it")
        numbers = {symbol: number for number, symbol in enumerate(symbols, start=1)}
        spellings: dict[str, list[list[str]]] = {}
        for lexicon in map(Path, lexicons):
            spellings = read_spellings(lexicon, numbers, word_end) | spellings
        try:
            if lexicons:
                spellings = in_the_models_case(spellings, known_words(path, kind), path)
            else:
                words = list(dict.fromkeys(arpa_words(path)))
                spellings = dict(_spelled(words, symbols, word_end))
                if not spellings:
                    raise DataError(f"lm {path} has no word that can be written in the head's characters")
                warn_of_others(path, len(spellings), len(words))
            self._build(path, spellings, numbers, numbers[word_end])
            self.search(search or BeamSearch())
        except ImportError:
            raise UserError(MISSING) from None

    def _build(
        self, path: Path, spellings: Mapping[str, list[list[str]]], numbers: Mapping[str, int], word_end: int
    ) -> None:
        """The language model, and a trie of all spellings."""
        from flashlight.lib.text import decoder as flashlight  # pyright: ignore[reportMissingImports]
        from flashlight.lib.text.decoder.kenlm import KenLM  # pyright: ignore[reportMissingImports]
        from flashlight.lib.text.dictionary import Dictionary  # pyright: ignore[reportMissingImports]

        self.words: Any = Dictionary()
        for word in dict.fromkeys([*spellings, _UNKNOWN]):
            self.words.add_entry(word)
        unknown = self.words.get_index(_UNKNOWN)
        self.words.set_default_index(unknown)
        try:
            model = KenLM(str(path), self.words)
        except RuntimeError:  # its text names a line in KenLM's source
            raise DataError(DAMAGED.format(path)) from None
        trie = flashlight.Trie(1 + len(numbers), word_end)
        start = model.start(False)
        for word, variants in spellings.items():
            index = self.words.get_index(word)
            _, score = model.score(start, index)
            for letters in variants:
                trie.insert([numbers[symbol] for symbol in letters], index, score)
        trie.smear(flashlight.SmearingMode.MAX)
        self._parts: tuple[Any, ...] = (trie, model, word_end, BLANK, unknown)
        self._n_symbols = 1 + len(numbers)

    def search(self, search: BeamSearch) -> None:
        """Search with these options from now on."""
        from flashlight.lib.text import decoder as flashlight  # pyright: ignore[reportMissingImports]

        self.options = search
        options = flashlight.LexiconDecoderOptions(
            beam_size=search.beam,
            beam_size_token=search.beam_tokens or self._n_symbols,
            beam_threshold=search.beam_threshold,
            lm_weight=search.lm_weight,
            word_score=search.word_score,
            unk_score=-math.inf,
            sil_score=0.0,
            log_add=False,
            criterion_type=flashlight.CriterionType.CTC,
        )
        self.decoder: Any = flashlight.LexiconDecoder(options, *self._parts, [], False)

    def __call__(self, log_probs: Tensor) -> list[str]:
        """(F, V) log-probabilities -> the best words, in upper case as transcripts are."""
        emissions = log_probs.float().cpu().contiguous()
        found = self.decoder.decode(emissions.data_ptr(), *emissions.shape)
        words = [self.words.get_entry(number) for number in found[0].words if number >= 0] if found else []
        return [word.upper() for word in words]


def warn_of_others(path: Path, n_written: int, n_words: int) -> None:
    """Warn if most words of a language model can never be said: it may be of another language.

    Args:
        path: of the model.
        n_written: words that can be written in a head's symbols.
        n_words: all its words.
    """
    if n_written < n_words / 2:
        logger.warning(
            "lm %s: only %d of its %d words can be written in the model's symbols; is it of that language?",
            *(path, n_written, n_words),
        )


def language_model_kind(path: Path) -> str:
    """Format of a language model: "arpa" or "binary".

    Raises:
        DataError: if it is missing or of neither format.
    """
    if not path.is_file():
        raise DataError(f"lm {path}: no such file")
    with path.open("rb") as file:
        start = file.read(len(_BINARY))
    if start == _BINARY:
        return "binary"
    try:
        lines = _text_lines(path)
        first = next((line for _, line in zip(range(100), lines, strict=False) if line), "")
        while first and first != "\\data\\" and first.startswith("#"):
            first = next(lines, "")
    except (OSError, EOFError, zlib.error, DataError):
        first = ""
    if first != "\\data\\":
        raise DataError(
            f"lm {path} is no n-gram language model: expected an ARPA file (gzipped or not) or a "
            "binary of KenLM's build_binary"
        )
    return "arpa"


def _text_lines(path: Path) -> Iterator[str]:
    """The stripped lines of a file of any size, gzipped or not; DataError if one is long or not UTF-8."""
    with path.open("rb") as file:
        gzipped = file.read(2) == _GZIP
    with gzip.open(path) if gzipped else path.open("rb") as lines:
        for number, line in enumerate(iter(lambda: lines.readline(_LONGEST_LINE), b""), start=1):
            if len(line) == _LONGEST_LINE:
                raise DataError(f"lm {path}: line {number} is too long for an n-gram")
            try:
                yield line.decode("utf-8").strip()
            except UnicodeDecodeError:
                raise DataError(f"lm {path} is not UTF-8 (line {number})") from None


def arpa_words(path: Path) -> Iterator[str]:
    """The words of an ARPA file: its 1-grams.

    Raises:
        DataError: if it ends too early, or is not UTF-8.
    """
    inside = False
    try:
        for line in _text_lines(path):
            if line.startswith("\\"):
                if inside:
                    return
                inside = line == "\\1-grams:"
            elif inside and len(fields := line.split()) > 1 and fields[1] not in _NO_WORDS:
                yield fields[1]
    except (OSError, EOFError, zlib.error):
        raise DataError(DAMAGED.format(path)) from None


def _orders(path: Path) -> Iterator[int]:
    """The orders of n-grams that the head of an ARPA file lists."""
    try:
        for line in _text_lines(path):
            if found := re.fullmatch(r"ngram\s+(\d+)\s*=\s*\d+", line):
                yield int(found[1])
            elif line.startswith("\\") and line != "\\data\\":
                return
    except (OSError, EOFError, zlib.error):
        raise DataError(DAMAGED.format(path)) from None


def _spelled(
    words: Iterable[str], symbols: Sequence[str], word_end: str
) -> Iterator[tuple[str, list[list[str]]]]:
    """Those words that can be spelled in the symbols, with their spelling."""
    allowed = set(symbols) - {word_end}
    for word in words:
        if set(word.upper()) <= allowed:
            yield word, [[*word.upper(), word_end]]


def known_words(path: Path, kind: str) -> Container[str]:
    """The vocabulary of a language model, for membership tests: that of a binary one cannot be listed."""
    if kind == "arpa":
        return set(arpa_words(path))
    import kenlm  # pyright: ignore[reportMissingImports]

    try:
        return kenlm.Model(str(path))
    except OSError:
        raise DataError(DAMAGED.format(path)) from None


def order_of(path: Path) -> int:
    """The order of an n-gram language model: 4 of a 4-gram.

    Raises:
        DataError: if it is missing, of another format or damaged.
        UserError: for a binary one if the packages of the extra `lm` are not installed.
    """
    if language_model_kind(path) == "arpa":
        return max(_orders(path), default=0)
    try:
        import kenlm  # pyright: ignore[reportMissingImports]

        return int(kenlm.Model(str(path)).order)
    except ImportError:
        raise UserError(MISSING) from None
    except OSError:
        raise DataError(DAMAGED.format(path)) from None


def in_the_models_case(
    spellings: Mapping[str, list[list[str]]], known: Container[str], path: Path
) -> dict[str, list[list[str]]]:
    """Spellings by the language model's own form of each word: unchanged, lower case or upper case.

    Args:
        spellings: by word, in any case; words that the model knows in no case stay unchanged.
        known: the model's words.
        path: the model, for people.

    Raises:
        DataError: if it knows none of the words.
    """
    found: dict[str, list[list[str]]] = {}
    some = False
    for word, variants in spellings.items():
        theirs = [form for form in dict.fromkeys((word, word.lower(), word.upper())) if form in known]
        some = some or bool(theirs)
        for form in theirs or [word]:
            before = found.setdefault(form, [])
            before.extend(letters for letters in variants if letters not in before)
    if not some:
        raise DataError(f"lm {path} knows none of the lexicon's words: give the lexicon that belongs to it")
    return found
