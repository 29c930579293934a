"""Decoders of fine-tuned models, and a random search for their weights.

The weight of the language model and the score of a word are drawn uniformly from wav2vec 2.0's ranges
(Baevski et al. 2020, appendix B) and judged by the word error rate on dev speech, as in SPIRAL (section 4.3):
with a small beam, and the test follows with a large one. What is drawn is a hash of the seed and the trial.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rapidfuzz.distance import Levenshtein
from torch import Tensor

from distill.atomic import read_json, write_json
from distill.downstream.decoding import BeamSearch, LanguageModelDecoder
from distill.downstream.labels import WORD_END
from distill.downstream.subword_search import BEAM_TOKENS, SubwordDecoder, Units
from distill.errors import UserError, differing_keys, refuse_other_settings
from distill.hashing import hash_number
from distill.options import DecodingConfig

logger = logging.getLogger(__name__)

LM_WEIGHTS, WORD_SCORES = (0.0, 5.0), (-5.0, 5.0)
"""Lowest and highest value of each."""

Decoder = LanguageModelDecoder | SubwordDecoder


def make_decoder(lm: str | Path, units: Any, lexicons: Sequence[str | Path], search: BeamSearch) -> Decoder:
    """The beam search for a model's units.

    Args:
        lm: n-gram language model.
        units: of the model: characters, whose words end with `WORD_END`, or subwords.
        lexicons: files of spelled words; none: all words of an ARPA file.
        search: its options.

    Raises:
        DataError: for a language model or lexicon that is missing, or of another kind or alphabet.
        UserError: if the packages of the extra `lm` are not installed.
    """
    if is_characters(units):
        return LanguageModelDecoder(lm, units.symbols, word_end=WORD_END, lexicons=lexicons, search=search)
    return SubwordDecoder(lm, units, lexicons=lexicons, search=search)


def is_characters(units: Units) -> bool:
    """Whether units are characters, with a symbol of its own after every word."""
    return WORD_END in units.symbols


def search_options(
    units: Units, decoding: DecodingConfig, *, beam: int, weights: tuple[float, float]
) -> BeamSearch:
    """Options of a beam search over a model's units.

    Args:
        units: of the model.
        decoding: threshold and symbols of a frame.
        beam: hypotheses.
        weights: (lm_weight, word_score).
    """
    tokens = decoding.beam_tokens or (None if is_characters(units) else BEAM_TOKENS)
    lm_weight, word_score = weights
    return BeamSearch(
        beam=beam,
        beam_threshold=decoding.beam_threshold,
        beam_tokens=tokens,
        lm_weight=lm_weight,
        word_score=word_score,
    )


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A pair of weights and what it gave on dev."""

    lm_weight: float
    """Weight of the language model."""
    word_score: float
    """Added for every word."""
    errors: int
    """Wrong, missing and superfluous words."""
    words: int
    """In the transcripts."""

    @property
    def wer(self) -> float:
        """Word error rate in per cent."""
        return 100.0 * self.errors / self.words


def draw_weights(seed: int, trial: int) -> tuple[float, float]:
    """(lm_weight, word_score) of a trial."""

    def uniform(name: str, low: float, high: float) -> float:
        return low + (high - low) * hash_number(seed, "decoding", name, trial) / 2**64

    return uniform("lm_weight", *LM_WEIGHTS), uniform("word_score", *WORD_SCORES)


def random_search(
    count: Callable[[float, float], tuple[int, int]],
    log: Path,
    *,
    trials: int,
    first: tuple[float, float],
    seed: int,
    settings: Mapping[str, Any],
) -> Trial:
    """The best of some pairs of weights.

    Args:
        count: (lm_weight, word_score) -> (errors, words) on dev.
        log: JSON file that every trial is written to; trials that are in it are not made again.
        trials: number of pairs that are drawn.
        first: a pair that is tried before those.
        seed: of the draws.
        settings: what the outcomes depend on; a log of others is refused.

    Raises:
        UserError: if the log is damaged, or of other settings.
    """
    made = _read_log(log, dict(settings))
    pairs = [first, *(draw_weights(seed, trial) for trial in range(trials))]
    found: list[Trial] = []
    for number, (lm_weight, word_score) in enumerate(pairs):
        if (trial := made.get((lm_weight, word_score))) is None:
            errors, words = count(lm_weight, word_score)
            trial = Trial(lm_weight=lm_weight, word_score=word_score, errors=errors, words=words)
        found.append(trial)
        write_json(log, {"settings": dict(settings), "trials": [asdict(each) for each in found]})
        logger.info("trial %d of %d: %s, WER %.2f", number, trials, asdict(trial), trial.wer)
    return min(found, key=lambda trial: trial.errors)


_MODEL = "checkpoint_hash"  # among the settings: trials of another model say nothing


def _read_log(log: Path, settings: dict[str, Any]) -> dict[tuple[float, float], Trial]:
    """The trials that were made before, by their weights."""
    if not log.exists():
        return {}
    try:
        values = read_json(log)
        trials = [Trial(**trial) for trial in values["trials"]]
        before = values["settings"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{log} is not a log of a search ({error}): remove it to search again") from None
    if before.get(_MODEL) != settings.get(_MODEL):  # what the run released before
        return {}
    refuse_other_settings(log, differing_keys(before, settings, unstated_ok=False))
    return {(trial.lm_weight, trial.word_score): trial for trial in trials}


def count_errors(
    decode: Callable[[Tensor], list[str]], outputs: Sequence[tuple[Tensor, Sequence[str]]]
) -> tuple[int, int]:
    """Word errors of a decoder, and words.

    Args:
        decode: (F, V) log-probabilities -> words.
        outputs: log-probabilities and transcript of each utterance.
    """
    errors = sum(Levenshtein.distance(decode(log_probs), list(words)) for log_probs, words in outputs)
    return errors, sum(len(words) for _, words in outputs)
