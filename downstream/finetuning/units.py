"""What fine-tuned models write: characters, or subwords that are learned from the training transcripts.

Output 0 is the blank. Characters are those of SUPERB's ASR, with the end of a word as a symbol behind every
word, the last too. Subwords are pieces of a SentencePiece unigram model (Kudo 2018) whose first piece, the
unknown one, lends its number to the blank: `vocabulary` counts the outputs.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from distill.atomic import read_bytes
from distill.downstream.heads import BLANK
from distill.downstream.labels import CHARACTERS, WORD_END
from distill.errors import CheckpointError, ConfigError, DataError, UserError, first_line

WORD_BEGIN = "\u2581"
"""Begins every piece that begins a word, as SentencePiece writes it."""
FILE = "subwords.model"
"""The SentencePiece model in the folder of a fine-tuned model."""

_MOST_BYTES = 16 << 20
"""Of that model: one of 30 000 pieces has less than 1 MB."""
_LONGEST = 1 << 20  # bytes of a transcript; SentencePiece leaves out longer lines


def normalised(text: str) -> str:
    """A transcript as it is learned and counted: upper case, one space between words."""
    return " ".join(text.upper().split())


@dataclass(frozen=True)
class Characters:
    """The letters, apostrophe, and the end of a word."""

    kind = "characters"

    @property
    def symbols(self) -> tuple[str, ...]:
        """All but the blank: the first one's number is 1."""
        return CHARACTERS

    @property
    def outputs(self) -> int:
        """Symbols with the blank."""
        return 1 + len(CHARACTERS)

    def encode(self, text: str) -> list[int]:
        """The numbers of a transcript's symbols.

        Raises:
            DataError: for a character that is none of them.
        """
        words = normalised(text).split()
        letters = [*WORD_END.join(words), WORD_END] if words else []
        unknown = next((letter for word in words for letter in word if letter not in _LETTERS), None)
        if unknown is not None:
            raise DataError(f"{unknown!r} in its transcript is none of the characters {''.join(CHARACTERS)}")
        return [_NUMBERS[letter] for letter in letters]

    def words(self, numbers: Sequence[int]) -> list[str]:
        """The words that symbols spell; blanks are left out."""
        letters = "".join(self.symbols[number - 1] for number in numbers if number != BLANK)
        return letters.replace(WORD_END, " ").split()

    def save(self, folder: Path) -> None:
        """Nothing is needed beside the kind."""


_LETTERS = frozenset(CHARACTERS) - {WORD_END}
_NUMBERS = {symbol: number for number, symbol in enumerate(CHARACTERS, start=1)}


@dataclass(frozen=True)
class Subwords:
    """Pieces of words.

    Args:
        model: a SentencePiece model, as bytes.

    Raises:
        CheckpointError: those are no such model.
        UserError: SentencePiece is not installed.
    """

    model: bytes
    kind = "subwords"

    def __post_init__(self) -> None:
        _ = self.symbols  # a damaged model is found here

    @property
    def symbols(self) -> tuple[str, ...]:
        """All pieces but the unknown one, whose number is the blank's: the first one's number is 1."""
        return self._pieces

    @cached_property
    def _pieces(self) -> tuple[str, ...]:
        processor = self._processor
        if processor.unk_id() != BLANK:
            raise CheckpointError(
                f"{FILE}: its unknown piece is not the first one, in whose place the blank is"
            )
        return tuple(processor.id_to_piece(number) for number in range(1, processor.get_piece_size()))

    @property
    def outputs(self) -> int:
        """Pieces with the blank."""
        return 1 + len(self.symbols)

    def encode(self, text: str) -> list[int]:
        """The numbers of a transcript's pieces, the likeliest ones.

        Raises:
            DataError: for a character that the training transcripts do not have.
        """
        found = self._processor.encode(normalised(text))
        if BLANK in found:
            known = set("".join(self.symbols))
            odd = next((letter for letter in normalised(text) if letter not in known | {" "}), "")
            raise DataError(f"{odd!r} in its transcript does not occur in the training transcripts")
        return found

    def words(self, numbers: Sequence[int]) -> list[str]:
        """The words that pieces spell; blanks are left out."""
        pieces = "".join(self.symbols[number - 1] for number in numbers if number != BLANK)
        return pieces.replace(WORD_BEGIN, " ").split()

    def save(self, folder: Path) -> None:
        """Write `FILE`."""
        from distill.checkpoints.files import atomic

        with atomic(folder / FILE) as temporary:
            temporary.write_bytes(self.model)

    @cached_property
    def _processor(self) -> Any:
        try:
            return _sentencepiece().SentencePieceProcessor(model_proto=self.model)
        except RuntimeError:  # its text names lines of SentencePiece's source
            raise CheckpointError(f"{FILE} is damaged: restore it from a copy") from None


Units = Characters | Subwords


def learn_subwords(texts: Iterable[str], vocabulary: int) -> Subwords:
    """A unigram model of some transcripts; the same ones give the same model.

    Args:
        texts: the transcripts.
        vocabulary: outputs, the blank included.

    Raises:
        ConfigError: they do not have as many pieces, or more characters than that.
        UserError: SentencePiece is not installed.
    """
    package = _sentencepiece()
    written = io.BytesIO()
    lines = [normalised(text) for text in texts]
    if longest := next((line for line in lines if len(line.encode()) > _LONGEST), None):
        raise DataError(f"a transcript has {len(longest)} characters: does it belong to one utterance?")
    try:
        package.SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
            model_writer=written,
            model_type="unigram",
            vocab_size=vocabulary,
            character_coverage=1.0,
            normalization_rule_name="identity",
            unk_id=BLANK,
            bos_id=-1,
            eos_id=-1,
            pad_id=-1,
            max_sentence_length=_LONGEST,
            num_threads=1,  # several add up in any order: the model would depend on chance
            minloglevel=2,
        )
    except RuntimeError as error:
        raise ConfigError(_why_not(str(error), vocabulary)) from None
    return Subwords(written.getvalue())


def _why_not(said: str, vocabulary: int) -> str:
    """One line of what SentencePiece says about a vocabulary that it cannot make."""
    if found := re.search(r"value <= (\d+)", said):
        return (
            f"vocabulary {vocabulary} is larger than the training transcripts allow: set "
            f"vocabulary={found[1]} at most, or name more speech"
        )
    if found := re.search(r"required_chars\D*\d+ vs (\d+)", said):
        return f"vocabulary {vocabulary} is too small for the transcripts' characters: at least {found[1]}"
    return f"vocabulary {vocabulary}: SentencePiece cannot learn it ({first_line(RuntimeError(said))})"


def read_units(kind: str, folder: Path) -> Units:
    """The units of a fine-tuned model.

    Args:
        kind: "characters" or "subwords".
        folder: that of the model.

    Raises:
        CheckpointError: for another kind, or if the subwords are missing or damaged.
    """
    if kind == Characters.kind:
        return Characters()
    if kind != Subwords.kind:
        raise CheckpointError(f"{folder}: its units are {str(kind)[:40]!r}, expected characters or subwords")
    try:
        return Subwords(read_bytes(folder / FILE, _MOST_BYTES))
    except OSError as error:
        raise CheckpointError(f"{folder / FILE}, its subwords, cannot be read: {error.strerror}") from None


def _sentencepiece() -> Any:
    try:
        import sentencepiece  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise UserError(
            "subwords: sentencepiece is not installed: pip install 'robust-distilhubert[subword]'"
        ) from None
    return sentencepiece
