"""Confidence intervals of scores: percentile bootstrap over the utterances of the test set.

A score is a ratio of sums (errors / units), averaged over folds and then over seeds. Utterances are drawn
with replacement within each fold; all seeds get the same draws, as they were tested on the same utterances.
The interval covers the choice of test speech; the spread over seeds covers another training of the model.
That of a difference of two models of several seeds (`seeded_difference`) covers both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from distill.data.text import read_table
from distill.errors import DataError, first_line, listed

LEVEL = 0.95
"""Confidence level of the intervals."""
ROUNDS = 5_000
"""Bootstrap samples of a test set."""
MOST_KINDS = 20_000
"""Different outcomes of an utterance, beyond which drawing takes minutes: the largest published test set has
13 078 utterances."""
_AT_ONCE = 500  # draws: the weights of 2 620 different utterances are 10 MB then

Outcomes = Mapping[str, tuple[float, float]]
"""By utterance: (errors, units that could be wrong)."""


def read_outcomes(path: Path) -> dict[str, tuple[float, float]]:
    """The outcomes of a test from its table: a TSV with the columns `id`, `errors` and `count`.

    Raises:
        DataError: if it is missing or no such table, or has an utterance twice, naming the line.
    """
    found: dict[str, tuple[float, float]] = {}
    for number, row in read_table(path, ["id", "errors", "count"], delimiters="\t"):
        try:
            errors, count = float(row["errors"]), float(row["count"])
        except ValueError as error:
            raise DataError(f"{path}: line {number}: {first_line(error)}") from None
        if row["id"] in found or not (0 <= errors < np.inf and 0 <= count < np.inf):
            problem = "is listed twice" if row["id"] in found else f"{errors:g} errors in {count:g}"
            raise DataError(f"{path}: line {number}: {listed([row['id']])}: {problem}")
        found[row["id"]] = (errors, count)
    return found


def error_rate(outcomes: Outcomes) -> float:
    """Error rate in per cent.

    Raises:
        DataError: if there are no units that could be wrong.
    """
    errors, count = np.sum(list(outcomes.values()), axis=0) if outcomes else (0.0, 0.0)
    if not count > 0:
        raise DataError("no utterance, word or phoneme that could be wrong")
    return float(100.0 * errors / count)


def interval(
    seeds: Sequence[Sequence[Outcomes]], *, level: float = LEVEL, rounds: int = ROUNDS, seed: int = 0
) -> tuple[float, float]:
    """Confidence interval of the error rate over test sets of the same kind.

    Args:
        seeds: for each seed, the outcomes of its folds, the same folds in the same order (a single one for
            tasks without folds).
        level: share of test sets within the interval.
        rounds: bootstrap samples.
        seed: of the draws.

    Returns:
        Bounds of the mean over seeds of the mean over folds of the error rate, in per cent.

    Raises:
        DataError: if seeds were tested on different utterances or folds, or there are too many utterances.
    """
    generator = np.random.Generator(np.random.Philox(key=[seed, 0]))
    if len({len(folds) for folds in seeds}) != 1:
        raise DataError("seeds have different folds")
    rates = [_fold_rates(fold, rounds, generator).mean(axis=1) for fold in zip(*seeds, strict=True)]
    low, high = np.quantile(np.mean(rates, axis=0), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def difference_interval(
    ours: Outcomes, theirs: Outcomes, *, level: float = LEVEL, rounds: int = ROUNDS, seed: int = 0
) -> tuple[float, float]:
    """Confidence interval of the difference of two error rates on the same utterances.

    Both get the same draws: what makes a draw hard for both cancels out.

    Args:
        ours: outcomes of a model.
        theirs: those of another.
        level: share of test sets within the interval.
        rounds: bootstrap samples.
        seed: of the draws.

    Returns:
        Bounds of the error rate of `ours` minus that of `theirs`, in percentage points.

    Raises:
        DataError: if they are of different utterances.
    """
    generator = np.random.Generator(np.random.Philox(key=[seed, 0]))
    rates = _fold_rates([ours, theirs], rounds, generator)
    low, high = np.quantile(rates[:, 0] - rates[:, 1], [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


@dataclass(frozen=True)
class Difference:
    """Of two error rates, in percentage points: a model's minus another's."""

    mean: float
    """Of the means over seeds."""
    low: float
    """Lower bound of the interval."""
    high: float
    """Upper bound."""
    by_seed: tuple[float, ...] | None
    """That of each seed, in their order, where both models have the same seeds."""


def seeded_difference(
    ours: Mapping[int, Sequence[Outcomes]],
    theirs: Mapping[int, Sequence[Outcomes]],
    *,
    level: float = LEVEL,
    rounds: int = ROUNDS,
    seed: int = 0,
) -> Difference:
    """The difference of two models on the same utterances, with an interval over utterances and seeds.

    Let d_s be the difference at seed s of n where both have the same seeds (else a model's rate, for each of
    the two). A bootstrap sample is mean_s(d*_s) + T · sqrt(max(0, S² - V) / n):

    * d*_s is of utterances drawn with replacement, the same for both models and all seeds;
    * S² is the variance of the d_s over the seeds, V what the choice of utterances alone gives it, the mean
      over samples of the variance of d*_s - d_s over the seeds: their difference is due to the seeds;
    * T is drawn from Student's t with n - 1 degrees of freedom. To draw three or five seeds with replacement
      would give intervals that cover 75 and 85 % where 95 % are wanted.

    Without an effect of the seeds this is the percentile bootstrap over utterances, without one of the
    utterances Student's interval. Of a single seed it covers the choice of test speech alone.

    Args:
        ours: by seed, the outcomes of its folds, the same folds in the same order.
        theirs: those of the other model.
        level: share of pairs of test sets and trainings within the interval.
        rounds: bootstrap samples.
        seed: of the draws.

    Raises:
        DataError: if the models or seeds were tested on different utterances or folds, or there are too many
            utterances.
    """
    generator = np.random.Generator(np.random.Philox(key=[seed, 0]))
    seeds = [(model[s]) for model in (ours, theirs) for s in sorted(model)]
    if len({len(folds) for folds in seeds}) != 1:
        raise DataError("seeds have different folds")
    drawn = np.mean([_fold_rates(fold, rounds, generator) for fold in zip(*seeds, strict=True)], axis=0)
    measured = np.array([np.mean([error_rate(fold) for fold in folds]) for folds in seeds])  # (seeds,)
    signs = np.repeat([1.0, -1.0], [len(ours), len(theirs)])
    parts = [(measured[signs == sign] * sign, drawn[:, signs == sign] * sign) for sign in (1.0, -1.0)]
    paired = ours.keys() == theirs.keys()
    if paired:
        parts = [(parts[0][0] + parts[1][0], parts[0][1] + parts[1][1])]
    samples = sum(values.mean(axis=1) + _seed_noise(d, values, generator) for d, values in parts)
    low, high = np.quantile(samples, [(1 - level) / 2, (1 + level) / 2])
    mean = sum(float(d.mean()) for d, _ in parts)
    return Difference(mean, float(low), float(high), tuple(parts[0][0].tolist()) if paired else None)


def _seed_noise(measured: np.ndarray, drawn: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """(rounds,) deviations of a mean over seeds that are due to the seeds, by values of (seeds,)."""
    n = len(measured)
    if n < 2:
        return np.zeros(len(drawn))
    by_utterances = (drawn - measured).var(axis=1, ddof=1).mean()
    by_seeds = max(0.0, float(measured.var(ddof=1) - by_utterances))
    return generator.standard_t(n - 1, size=len(drawn)) * (by_seeds / n) ** 0.5


def _fold_rates(seeds: Sequence[Outcomes], rounds: int, generator: np.random.Generator) -> np.ndarray:
    """(rounds, seeds) error rates of one fold in per cent; in a round, all seeds have the same utterances.

    The number of times each utterance is drawn is multinomial. Utterances with the same outcomes for all
    seeds are counted together: a few kinds in place of thousands, with the same distribution of the sums.
    """
    names = sorted(seeds[0])
    if any(sorted(outcomes) != names for outcomes in seeds):
        raise DataError("seeds were tested on different utterances")
    pairs = np.array([[outcomes[name] for outcomes in seeds] for name in names])  # (utterances, seeds, 2)
    kinds, counts = np.unique(pairs.reshape(len(names), -1), axis=0, return_counts=True)
    if len(kinds) > MOST_KINDS:
        raise DataError(f"{len(kinds):,} different outcomes, at most {MOST_KINDS:,} are resampled")
    rates = []
    for start in range(0, rounds, _AT_ONCE):
        drawn = generator.multinomial(len(names), counts / len(names), size=min(_AT_ONCE, rounds - start))
        sums = (drawn @ kinds).reshape(len(drawn), len(seeds), 2)
        # A sample of empty transcripts alone has a total of 0.
        rates.append(100.0 * sums[..., 0] / np.maximum(sums[..., 1], 1e-9))
    return np.concatenate(rates)
