"""What heads learn to say: classes, characters or phonemes, and how far a prediction is from the truth.

Shapes: B utterances, F frames, V outputs, S slots, U symbols.
"""

from __future__ import annotations

import itertools
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from lhotse.cut import Cut
from rapidfuzz.distance import Levenshtein
from torch import Tensor

from distill.data.audio import samples_at_16k
from distill.downstream.decoding import greedy
from distill.downstream.heads import CharacterHead, Head, PhoneHead, UtteranceHead, ctc_loss
from distill.downstream.options import EvaluationConfig
from distill.downstream.truths import class_of, phones_of, pronunciations_of, text_of
from distill.errors import DataError

logger = logging.getLogger(__name__)

WORD_END = "|"
CHARACTERS = (WORD_END, "'", *"ABCDEFGHIJKLMNOPQRSTUVWXYZ")
"""What transcripts are written in; the end of a word is a symbol too, behind the last word as well."""

UNKNOWN = "<unk>"
"""A phoneme that training speech does not have."""

_FEW_CLASSES = 20  # of which each may have one utterance in a trial


class Outcome(NamedTuple):
    """What came of one utterance."""

    errors: float
    """Wrong: an utterance, or words or phonemes."""
    total: float
    """Out of how many."""
    truth: str
    """What should have been said: classes joined by `|`, words or phonemes by blanks."""
    said: str
    """What the head said."""


@dataclass(frozen=True)
class ClassLabels:
    """One class of each slot."""

    slots: tuple[tuple[str, ...], ...]
    """The classes by slot; IC has three slots, the others one."""
    column: str
    """Custom field with the classes, joined by `|`."""

    @classmethod
    def of(cls, cuts: Sequence[Cut], column: str) -> ClassLabels:
        """The classes that occur in some speech, sorted; a column that looks like no classes is warned of."""
        counts = Counter(tuple(class_of(cut, column).split("|")) for cut in cuts)
        if len({len(row) for row in counts}) > 1:
            few, many = min(counts, key=len), max(counts, key=len)
            raise DataError(f"{column}: {'|'.join(few)} and {'|'.join(many)} have not equally many slots")
        once = sum(count == 1 for count in counts.values())
        if once > len(counts) / 2 and len(counts) > _FEW_CLASSES:
            logger.warning(
                "%s: %d of its %d classes are those of one training utterance only; label=NAME names another "
                "column",
                *(column, once, len(counts)),
            )
        slots = tuple(tuple(sorted(set(slot))) for slot in zip(*counts, strict=True))
        for slot in slots:
            alike = Counter(name.casefold() for name in slot)
            if several := [name for name in slot if alike[name.casefold()] > 1]:
                logger.warning(
                    "%s: %s differ in upper and lower case alone and are classes of their own",
                    *(column, ", ".join(map(repr, several))),
                )
        return cls(slots, column)

    def targets(self, cut: Cut) -> list[int]:
        """(S), numbers of the classes.

        Raises:
            DataError: for a class that does not occur in the training speech.
        """
        names = class_of(cut, self.column).split("|")
        if len(names) == len(self.slots) and all(n in s for n, s in zip(names, self.slots, strict=True)):
            return [slot.index(name) for name, slot in zip(names, self.slots, strict=True)]
        raise DataError(f"{cut.id}: its {self.column} {'|'.join(names)!r} is not one of the training speech")

    def head(self, dim: int, width: int | None) -> UtteranceHead:
        """A new head."""
        return UtteranceHead(dim, [len(slot) for slot in self.slots], width or 256)

    def loss(self, head: Head, outputs: Tensor, frames: Tensor, targets: Tensor, lengths: Tensor) -> Tensor:
        """A number to be lowered."""
        assert isinstance(head, UtteranceHead)
        return head.loss(outputs, targets)

    def outcomes(
        self, head: Head, outputs: Tensor, frames: Tensor, targets: list[list[int]], decode: Any = None
    ) -> list[Outcome]:
        """An utterance is right if all its slots are."""
        assert isinstance(head, UtteranceHead)
        pairs = zip(head.predict(outputs).tolist(), targets, strict=True)
        return [Outcome(float(p != t), 1.0, self.names(t), self.names(p)) for p, t in pairs]

    def names(self, numbers: Sequence[int]) -> str:
        """The classes of all slots, joined by `|`."""
        return "|".join(slot[number] for slot, number in zip(self.slots, numbers, strict=True))


@dataclass(frozen=True)
class TokenLabels:
    """A sequence of characters or phonemes; errors are counted in words or in phonemes."""

    symbols: tuple[str, ...]
    """Without the blank, whose number is 0: the first symbol's is 1."""
    kind: str
    """"characters" or "phones"."""
    pronunciations: Mapping[str, Sequence[str]] | None = None
    """By word, for speech without phones."""

    @classmethod
    def of(cls, cuts: Sequence[Cut], config: EvaluationConfig) -> TokenLabels:
        """Characters are always the same; phonemes those that occur in some speech, and one for others."""
        if config.defaults.kind == "characters":
            return cls(CHARACTERS, "characters")
        lexicon = pronunciations_of(config)
        phones = sorted({phone for cut in cuts for phone in phones_of(cut, lexicon)})
        return cls((*phones, UNKNOWN), "phones", lexicon)

    def targets(self, cut: Cut) -> list[int]:
        """(U), numbers of the symbols.

        Raises:
            DataError: without a transcript, or for one in other characters.
        """
        if self.kind == "phones":
            phones = phones_of(cut, self.pronunciations)
            symbols = [phone if phone in self.symbols else UNKNOWN for phone in phones]
        else:
            symbols = [*WORD_END.join(text_of(cut).upper().split()), WORD_END]
        if unknown := next((symbol for symbol in symbols if symbol not in self.symbols), None):
            known = " ".join(self.symbols)
            raise DataError(f"{cut.id}: {unknown!r} in its transcript is none of {known}; normalise the text")
        return [1 + self.symbols.index(symbol) for symbol in symbols]

    def head(self, dim: int, width: int | None) -> CharacterHead | PhoneHead:
        """A new head."""
        if self.kind == "characters":
            return CharacterHead(dim, 1 + len(self.symbols), width or 1024)
        return PhoneHead(dim, 1 + len(self.symbols), width or 256)

    def loss(self, head: Head, outputs: Tensor, frames: Tensor, targets: Tensor, lengths: Tensor) -> Tensor:
        """A number to be lowered."""
        return ctc_loss(outputs, frames, targets, lengths)

    def outcomes(
        self,
        head: Head,
        outputs: Tensor,
        frames: Tensor,
        targets: list[list[int]],
        decode: Callable[[Tensor], list[str]] | None = None,
    ) -> list[Outcome]:
        """Words or phonemes that are wrong, left out or too many, and how many there should be.

        Args:
            head: not needed here.
            outputs: (B, F, V) log-probabilities.
            frames: (B,) valid frames.
            targets: symbols of each utterance.
            decode: (F, V) -> words, with a language model; default: the likeliest symbol of each frame.
        """
        log_probs = outputs.detach().float().cpu()
        found = []
        for row, n_frames, target in zip(log_probs, frames.tolist(), targets, strict=True):
            said = decode(row[:n_frames]) if decode else self.units(greedy(row[:n_frames]))
            truth = self.units(target)
            wrong = Levenshtein.distance(said, truth)
            found.append(Outcome(float(wrong), float(len(truth)), " ".join(truth), " ".join(said)))
        return found

    def units(self, numbers: Sequence[int]) -> list[str]:
        """Words, or phonemes."""
        symbols = [self.symbols[number - 1] for number in numbers]
        return "".join(symbols).replace(WORD_END, " ").split() if self.kind == "characters" else symbols


Labels = ClassLabels | TokenLabels


def targets_of(
    labels: Labels, cuts: Sequence[Cut], frames_of: Callable[[int], int], what: str
) -> dict[str, list[int]]:
    """The targets of utterances by their names; says which transcripts have no room in their frames.

    CTC needs a frame for each symbol, and one between two that are equal: from an utterance with fewer it
    learns nothing (its loss counts as 0), and no output for it can be without errors.

    Args:
        labels: of the task.
        cuts: the utterances.
        frames_of: samples at 16 kHz -> frames.
        what: which speech it is, for people.
    """
    targets = {cut.id: labels.targets(cut) for cut in cuts}
    if isinstance(labels, ClassLabels):
        return targets

    def needed(target: Sequence[int]) -> int:
        return len(target) + sum(a == b for a, b in itertools.pairwise(target))

    crowded = [cut.id for cut in cuts if needed(targets[cut.id]) > frames_of(samples_at_16k(cut))]
    if crowded:
        logger.warning(
            "%s: the transcripts of %d of %d utterances need more frames than there are (%s): nothing is "
            "learned from them, and they cannot be got right; do text and audio belong together?",
            *(what, len(crowded), len(cuts), ", ".join(crowded[:3]) + ", ..." * (len(crowded) > 3)),
        )
    return targets


def make_labels(cuts: Sequence[Cut], config: EvaluationConfig) -> Labels:
    """The labels of a task, from its training speech."""
    if config.defaults.kind == "classes":
        return ClassLabels.of(cuts, config.label or config.defaults.label)
    return TokenLabels.of(cuts, config)
