"""Beam search over subwords with an n-gram model of words, or of the subwords themselves.

A hypothesis is a path of CTC symbols through a trie of all words, each spelled in pieces. Of paths that agree
in all that matters from here on (state of the language model, place in the trie, last symbol), the better one
is kept. The score of a path of words w is

    log p_CTC(path) + lm_weight log10 p_LM(w) + word_score |w|

and inside a word the best unigram of its continuations stands in for the language model (max smearing), as in
flashlight (Pratap et al. 2019).

Shapes: F frames, V symbols with the blank first.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from torch import Tensor

from distill.downstream.decoding import (
    DAMAGED,
    MISSING,
    BeamSearch,
    arpa_words,
    in_the_models_case,
    known_words,
    language_model_kind,
    warn_of_others,
)
from distill.downstream.heads import BLANK
from distill.downstream.lexica import read_spellings
from distill.errors import DataError, UserError

BEAM_TOKENS = 50
"""Likeliest pieces of a frame by default: of a thousand, hardly any others are ever spoken."""


class Units(Protocol):
    """What a CTC model writes in; the blank has the number 0."""

    @property
    def symbols(self) -> Any:  # not to every type checker is a cached property one
        """Texts without the blank: the first symbol's number is 1."""
        ...

    def encode(self, text: str) -> list[int]:
        """The numbers of a transcript's symbols; DataError for one that cannot be written."""
        ...

    def words(self, numbers: Sequence[int]) -> list[str]:
        """The words that symbols spell."""
        ...


class _Node:
    """A place in the trie."""

    __slots__ = ("best", "children", "words")

    def __init__(self) -> None:
        self.children: dict[int, _Node] = {}
        self.words: list[str] = []
        self.best = float("-inf")  # log10 of the likeliest word that ends here or further on


class _Path(NamedTuple):
    """A hypothesis."""

    score: float
    """Without the stand-in for the language model inside a word."""
    words: tuple[Any, str] | None
    """The last word and what came before it, in the same form."""


class SubwordDecoder:
    """Lexicon-constrained beam search; its output is in upper case.

    Args:
        path: ARPA file (gzipped or not) of words, or of the units' own pieces; or a binary of KenLM's
            `build_binary`.
        units: of the model.
        lexicons: lines `WORD PIECE PIECE ...`, a word from the first file that has it; none: every word of
            the ARPA file, in the pieces that the units write it in.
        search: its options.

    Raises:
        DataError: for a language model or lexicon that is missing or of another kind or alphabet.
        UserError: if the packages of the extra `lm` are not installed.
    """

    def __init__(
        self,
        path: str | Path,
        units: Units,
        *,
        lexicons: Sequence[str | Path] = (),
        search: BeamSearch | None = None,
    ):
        path = Path(path)
        kind = language_model_kind(path)
        if not lexicons and kind == "binary":
            raise DataError(f"lm {path} is binary and does not list its words: give a lexicon with it")
        try:
            import kenlm  # pyright: ignore[reportMissingImports]
        except ImportError:
            raise UserError(MISSING) from None
        self.units, self.of_pieces = units, False
        spellings = self._from_lexicons(lexicons, path, kind) if lexicons else self._from_model(path)
        try:
            self._model: Any = kenlm.Model(str(path))
        except OSError:
            raise DataError(DAMAGED.format(path)) from None
        self._new_state = kenlm.State
        self._root = _Node()
        self._insert(spellings)
        self.search(search or BeamSearch(beam_tokens=BEAM_TOKENS))

    def search(self, search: BeamSearch) -> None:
        """Search with these options from now on."""
        self.options = search

    def _from_lexicons(
        self, lexicons: Iterable[str | Path], path: Path, kind: str
    ) -> dict[str, list[list[int]]]:
        numbers = {symbol: number for number, symbol in enumerate(self.units.symbols, start=1)}
        spellings: dict[str, list[list[str]]] = {}
        for lexicon in map(Path, lexicons):
            spellings = read_spellings(lexicon, numbers, None) | spellings
        found = in_the_models_case(spellings, known_words(path, kind), path)
        return {
            word: [[numbers[p] for p in pieces] for pieces in variants] for word, variants in found.items()
        }

    def _from_model(self, path: Path) -> dict[str, list[list[int]]]:
        """Each word of an ARPA file in pieces; if it is a model of pieces, each piece by itself."""
        words = list(dict.fromkeys(arpa_words(path)))
        numbers = {symbol: number for number, symbol in enumerate(self.units.symbols, start=1)}
        self.of_pieces = set(words) <= numbers.keys()
        if self.of_pieces:
            return {word: [[numbers[word]]] for word in words}
        found = {word: [pieces] for word in words if (pieces := written(self.units, word))}
        if not found:
            raise DataError(f"lm {path} has no word that can be written in the model's subwords")
        warn_of_others(path, len(found), len(words))
        return found

    def _insert(self, spellings: Mapping[str, Sequence[Sequence[int]]]) -> None:
        state, after = self._start(), self._new_state()
        for word, variants in spellings.items():
            score = self._model.BaseScore(state, word, after)
            for pieces in variants:
                node = self._root
                for piece in pieces:
                    node = node.children.setdefault(piece, _Node())
                    node.best = max(node.best, score)
                if word not in node.words:
                    node.words.append(word)

    def _start(self) -> Any:
        state = self._new_state()
        self._model.BeginSentenceWrite(state)
        return state

    def __call__(self, log_probs: Tensor) -> list[str]:
        """(F, V) log-probabilities -> the best words."""
        words = _Search(self._root, self._model, self._new_state, self._start(), self.options).run(log_probs)
        if self.of_pieces:
            numbers = {symbol: number for number, symbol in enumerate(self.units.symbols, start=1)}
            words = self.units.words([numbers[word] for word in words])
        return [word.upper() for word in words]


def written(units: Units, word: str) -> list[int]:
    """The symbols of a word; [] if they do not spell it, as for letters that the units do not have."""
    try:
        numbers = units.encode(word.upper())
    except DataError:
        return []
    return numbers if units.words(numbers) == [word.upper()] else []


class _Search:
    """The search through one utterance."""

    def __init__(self, root: _Node, model: Any, new_state: Any, start: Any, options: BeamSearch):
        self.root, self.model, self.new_state, self.options = root, model, new_state, options
        self.states = [start]  # of the language model; hypotheses have their numbers
        self.numbers = {start: 0}
        self.known: dict[tuple[int, str], tuple[float, int]] = {}

    def run(self, log_probs: Tensor) -> list[str]:
        """(F, V) -> the words of the best hypothesis."""
        emissions = log_probs.float().cpu()
        paths = {(0, self.root, BLANK): _Path(0.0, None)}
        n_tokens = min(self.options.beam_tokens or emissions.shape[1], emissions.shape[1])
        likeliest = emissions.topk(n_tokens, dim=1).indices.tolist()
        for row, tokens in zip(emissions.tolist(), likeliest, strict=True):
            paths = self._pruned(self._step(paths, row, [token for token in tokens if token != BLANK]))
        ended = {key: path for key, path in paths.items() if key[1] is self.root} or paths
        best = max(ended, key=lambda key: ended[key].score + self._weighed(key[0], "</s>")[0])
        words, found = ended[best].words, []
        while words is not None:
            words, word = words
            found.append(word)
        return found[::-1]

    def _step(self, paths: Mapping[Any, _Path], row: list[float], tokens: list[int]) -> dict[Any, _Path]:
        """All continuations by one frame."""
        found: dict[Any, _Path] = {}

        def add(state: int, node: _Node, last: int, score: float, words: Any) -> None:
            key = (state, node, last)
            if key not in found or score > found[key].score:
                found[key] = _Path(score, words)

        for (state, node, last), (score, words) in paths.items():
            add(state, node, BLANK, score + row[BLANK], words)
            if last != BLANK:
                add(state, node, last, score + row[last], words)
            for token in tokens:
                child = node.children.get(token)
                if child is None or token == last:  # the same symbol again needs a blank in between
                    continue
                further = score + row[token]
                if child.children:
                    add(state, child, token, further, words)
                for word in child.words:
                    gain, after = self._weighed(state, word)
                    add(after, self.root, token, further + gain + self.options.word_score, (words, word))
        return found

    def _weighed(self, state: int, word: str) -> tuple[float, int]:
        """The language model's weighed score of a word, and its state after it."""
        if (state, word) not in self.known:
            after = self.new_state()
            score = self.options.lm_weight * self.model.BaseScore(self.states[state], word, after)
            number = self.numbers.setdefault(after, len(self.states))
            if number == len(self.states):
                self.states.append(after)
            self.known[state, word] = (score, number)
        return self.known[state, word]

    def _pruned(self, paths: dict[Any, _Path]) -> dict[Any, _Path]:
        """The best ones."""
        weight, root = self.options.lm_weight, self.root

        def rank(key: Any) -> float:
            return paths[key].score + (0.0 if key[1] is root else weight * key[1].best)

        ranks = {key: rank(key) for key in paths}
        least = max(ranks.values()) - self.options.beam_threshold
        kept = [key for key in paths if ranks[key] >= least]
        if len(kept) > self.options.beam:
            kept = heapq.nlargest(self.options.beam, kept, key=ranks.__getitem__)
        return {key: paths[key] for key in kept}
