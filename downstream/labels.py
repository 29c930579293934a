"""What heads predict: classes, characters or phonemes, and how predictions are scored.

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
"""What transcripts are written in; the end of a word is a symbol too, also after the last word."""

UNKNOWN = "<unk>"
"""Stands for phonemes that training speech does not have."""

_FEW_CLASSES = 20  # with so few, a trial may have one utterance of each


class Outcome(NamedTuple):
    """Score of one utterance."""

    errors: float
    """Wrong units: the utterance, or its words or phonemes."""
    total: float
    """Units that could be wrong."""
    truth: str
    """The reference: classes joined by `|`, or words or phonemes by spaces."""
    prediction: str
    """The head's, in the same form."""


@dataclass(frozen=True)
class ClassLabels:
    """One class for each slot."""

    slots: tuple[tuple[str, ...], ...]
    """The classes by slot; IC has three slots, the others one."""
    column: str
    """Custom field with the classes, joined by `|`."""

    @classmethod
    def of(cls, cuts: Sequence[Cut], column: str) -> ClassLabels:
        """The classes of some speech, sorted; warns of a column that does not look like classes."""
        counts = Counter(tuple(class_of(cut, column).split("|")) for cut in cuts)
        if len({len(row) for row in counts}) > 1:
            few, many = min(counts, key=len), max(counts, key=len)
            raise DataError(f"{column}: {'|'.join(few)} and {'|'.join(many)} have different numbers of slots")
        once = sum(count == 1 for count in counts.values())
        if once > len(counts) / 2 and len(counts) > _FEW_CLASSES:
            logger.warning(
                "%s: %d of its %d classes have a single training utterance; another column is chosen with "
                "label=NAME",
                *(column, once, len(counts)),
            )
        slots = tuple(tuple(sorted(set(slot))) for slot in zip(*counts, strict=True))
        for slot in slots:
            alike = Counter(name.casefold() for name in slot)
            if several := [name for name in slot if alike[name.casefold()] > 1]:
                logger.warning(
                    "%s: %s differ only in upper and lower case and count as different classes",
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
        raise DataError(
            f"{cut.id}: its {self.column} {'|'.join(names)!r} does not occur in the training speech"
        )

    def head(self, dim: int, width: int | None) -> UtteranceHead:
        """A new head."""
        return UtteranceHead(dim, [len(slot) for slot in self.slots], width or 256)

    def loss(self, head: Head, outputs: Tensor, frames: Tensor, targets: Tensor, lengths: Tensor) -> Tensor:
        """Training loss of the outputs."""
        assert isinstance(head, UtteranceHead)
        return head.loss(outputs, targets)

    def outcomes(
        self, head: Head, outputs: Tensor, frames: Tensor, targets: list[list[int]], decode: Any = None
    ) -> list[Outcome]:
        """An utterance is right if all its slots are right."""
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
        """Characters are a fixed set; phonemes are those that occur in some speech, and `UNKNOWN`."""
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
        """Training loss of the outputs."""
        return ctc_loss(outputs, frames, targets, lengths)

    def outcomes(
        self,
        head: Head,
        outputs: Tensor,
        frames: Tensor,
        targets: list[list[int]],
        decode: Callable[[Tensor], list[str]] | None = None,
    ) -> list[Outcome]:
        """Edit distance in words or phonemes (substitutions, deletions, insertions), and length of the truth.

        Args:
            head: not needed here.
            outputs: (B, F, V) log-probabilities.
            frames: (B,) valid frames.
            targets: symbols of each utterance.
            decode: (F, V) -> words, with a language model; default: the most likely symbol of each frame.
        """
        log_probs = outputs.detach().float().cpu()
        found = []
        for row, n_frames, target in zip(log_probs, frames.tolist(), targets, strict=True):
            prediction = decode(row[:n_frames]) if decode else self.units(greedy(row[:n_frames]))
            truth = self.units(target)
            wrong = Levenshtein.distance(prediction, truth)
            found.append(Outcome(float(wrong), float(len(truth)), " ".join(truth), " ".join(prediction)))
        return found

    def units(self, numbers: Sequence[int]) -> list[str]:
        """The words, or phonemes, that symbols spell."""
        symbols = [self.symbols[number - 1] for number in numbers]
        return "".join(symbols).replace(WORD_END, " ").split() if self.kind == "characters" else symbols


Labels = ClassLabels | TokenLabels


def targets_of(
    labels: Labels, cuts: Sequence[Cut], frames_of: Callable[[int], int], what: str
) -> dict[str, list[int]]:
    """The targets of utterances by id; warns of transcripts that are too long for their number of frames.

    CTC needs a frame for each symbol, and one between two equal ones: with fewer, the loss of an utterance
    counts as 0, and no output can be without errors.

    Args:
        labels: of the task.
        cuts: the utterances.
        frames_of: samples at 16 kHz -> frames.
        what: name of the speech, for the warning.
    """
    targets = {cut.id: labels.targets(cut) for cut in cuts}
    if isinstance(labels, ClassLabels):
        return targets

    def needed(target: Sequence[int]) -> int:
        return len(target) + sum(a == b for a, b in itertools.pairwise(target))

    too_long = [cut.id for cut in cuts if needed(targets[cut.id]) > frames_of(samples_at_16k(cut))]
    if too_long:
        logger.warning(
            "%s: the transcripts of %d of %d utterances need more frames than there are (%s): nothing is "
            "learned from them, and they cannot be got right; do text and audio belong together?",
            *(what, len(too_long), len(cuts), ", ".join(too_long[:3]) + ", ..." * (len(too_long) > 3)),
        )
    return targets


def make_labels(cuts: Sequence[Cut], config: EvaluationConfig) -> Labels:
    """The labels of a task, from its training speech."""
    if config.defaults.kind == "classes":
        return ClassLabels.of(cuts, config.label or config.defaults.label)
    return TokenLabels.of(cuts, config)
