"""Confidence intervals against scipy's bootstrap, and against the closed form of a proportion."""

import numpy as np
import pytest
from scipy import stats

from distill.downstream.bootstrap import (
    MOST_KINDS,
    difference_interval,
    error_rate,
    interval,
    read_outcomes,
    seeded_difference,
)
from distill.errors import DataError


def outcomes(errors, counts=None) -> dict[str, tuple[float, float]]:
    counts = np.ones(len(errors)) if counts is None else counts
    return {f"u{n}": (float(e), float(c)) for n, (e, c) in enumerate(zip(errors, counts, strict=True))}


def test_a_proportion_against_the_closed_form():
    """300 errors in 3 000: standard error sqrt(0.1 * 0.9 / 3000) = 0.548 points."""
    low, high = interval([[outcomes([1] * 300 + [0] * 2700)]])
    half = 1.959964 * 100 * (0.1 * 0.9 / 3000) ** 0.5
    assert low == pytest.approx(10 - half, abs=0.07)  # percents come in thirtieths
    assert high == pytest.approx(10 + half, abs=0.07)


def test_a_ratio_of_sums_against_scipy():
    """Word error rate: long utterances weigh more, and the sum of words is drawn as well."""
    random = np.random.default_rng(0)
    words = random.integers(1, 40, 400)
    errors = random.binomial(words, random.beta(1, 6, 400))
    theirs = stats.bootstrap(
        (errors, words),
        lambda e, w, axis: 100 * e.sum(axis) / w.sum(axis),
        paired=True,
        n_resamples=5000,
        method="percentile",
        rng=np.random.default_rng(1),
    ).confidence_interval
    ours = interval([[outcomes(errors, words)]])
    assert ours == pytest.approx((theirs.low, theirs.high), abs=0.1)
    assert theirs.high - theirs.low > 2


def test_seeds_share_the_draws_of_utterances():
    """Heads that fail on the same utterances are no more certain together than each alone, against scipy."""
    random = np.random.default_rng(2)
    hard = random.random(500) < 0.2
    heads = [np.where(random.random(500) < 0.1, ~hard, hard) for _ in range(3)]
    theirs = stats.bootstrap(
        tuple(heads),
        lambda *h, axis: 100 * np.mean([x.mean(axis) for x in h], axis=0),
        paired=True,
        n_resamples=5000,
        method="percentile",
        rng=np.random.default_rng(3),
    ).confidence_interval
    low, high = interval([[outcomes(head)] for head in heads])
    assert (low, high) == pytest.approx((theirs.low, theirs.high), abs=0.2)
    same = interval([[outcomes(heads[0])]] * 3)
    assert same == pytest.approx(interval([[outcomes(heads[0])]]), abs=0.2)


def test_a_difference_on_the_same_utterances_against_the_closed_form():
    """Of 3 000, one model has 300 wrong, the other 240 of these: only the other 60 make the difference."""
    ours = outcomes([1] * 300 + [0] * 2700)
    theirs = outcomes([1] * 240 + [0] * 2760)
    low, high = difference_interval(ours, theirs)
    half = 1.959964 * 100 * (0.02 * 0.98 / 3000) ** 0.5
    assert (low, high) == (pytest.approx(2 - half, abs=0.07), pytest.approx(2 + half, abs=0.07))
    assert difference_interval(theirs, ours) == pytest.approx((-high, -low), abs=0.05)
    assert difference_interval(ours, ours) == (0, 0)
    with pytest.raises(DataError, match="different utterances"):
        difference_interval(ours, outcomes([1]))


def test_folds_are_drawn_each_by_itself_and_count_the_same():
    """Folds of 100 and 1 000 turns: the variance of the mean of their rates is a quarter of the sum."""
    small, large = outcomes([1] * 50 + [0] * 50), outcomes([1] * 100 + [0] * 900)
    low, high = interval([[small, large]], rounds=20_000)
    deviation = 0.5 * 100 * (0.25 / 100 + 0.09 / 1000) ** 0.5
    assert (low + high) / 2 == pytest.approx(30, abs=0.2)
    assert high - low == pytest.approx(2 * 1.96 * deviation, rel=0.04)


def test_the_same_every_time_and_none_without_errors():
    found = outcomes([0, 1, 0, 0, 1, 1, 0])
    assert interval([[found]]) == interval([[found]])
    assert interval([[found]]) == interval([[dict(reversed(found.items()))]])
    assert interval([[outcomes([0] * 50)]]) == (0.0, 0.0)


def test_what_cannot_be_drawn_together():
    with pytest.raises(DataError, match="seeds were tested on different utterances"):
        interval([[outcomes([0, 1])], [outcomes([0, 1, 1])]])
    with pytest.raises(DataError, match="seeds have different folds"):
        interval([[outcomes([0, 1])], [outcomes([0, 1]), outcomes([1])]])
    with pytest.raises(DataError, match="no utterance, word or phoneme that could be wrong"):
        error_rate(outcomes([0], [0]))


def test_a_table_of_outcomes(tmp_path):
    table = tmp_path / "ks.tsv"
    table.write_text("id\tpredicted\terrors\tcount\na b\tx\u2028y\t1\t2\nc\t\t0\t3\n", encoding="utf-8")
    assert read_outcomes(table) == {"a b": (1.0, 2.0), "c": (0.0, 3.0)}
    assert error_rate(read_outcomes(table)) == 20.0


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("id\terrors\tcount\na\t1\n", "line 2 has 2 cells"),
        ("id\terrors\tcount\na\tfew\t2\n", "line 2: could not convert string to float: 'few'"),
        ("id\terrors\tcount\na\tnan\t2\n", "line 2: a: nan errors in 2"),
        ("id\terrors\tcount\na\t1\t-2\n", "line 2: a: 1 errors in -2"),
        ("id\terrors\tcount\na\t1\t2\na\t1\t2\n", "line 3: a: is listed twice"),
        ("id\terrors\tcount\n\x1b[2J\t1\t-2\n", r"line 2: \\x1b\[2J: 1 errors in -2"),
        ("id\twrong\n", "no column 'errors', 'count'"),
    ],
)
def test_what_is_no_table_of_outcomes(tmp_path, text, problem):
    (tmp_path / "ks.tsv").write_text(text)
    with pytest.raises(DataError, match=problem):
        read_outcomes(tmp_path / "ks.tsv")


def test_more_outcomes_than_any_test_set_has_are_not_resampled():
    with pytest.raises(DataError, match="20,001 different outcomes"):
        interval([[outcomes(range(MOST_KINDS + 1))]], rounds=1)
    assert interval([[outcomes([1] * (MOST_KINDS + 1))]], rounds=1) == (100.0, 100.0)


def by_seed(*rates: float) -> dict[int, list[dict[str, tuple[float, float]]]]:
    """Models that make the same share of errors in every one of 50 utterances: there is nothing to draw."""
    return {seed: [outcomes([10 * rate] * 50, [1000] * 50)] for seed, rate in enumerate(rates)}


def test_seeds_alone_against_students_paired_interval():
    ours, theirs = (12.0, 15.5, 11.0), (10.0, 11.0, 10.5)
    wanted = stats.ttest_rel(ours, theirs).confidence_interval(0.95)
    found = seeded_difference(by_seed(*ours), by_seed(*theirs), rounds=200_000)
    assert found.by_seed == pytest.approx((2, 4.5, 0.5)) and found.mean == pytest.approx(7 / 3)
    assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high), rel=0.03)
    assert wanted.low < 0  # three seeds are few: within their spread, 0.5 to 4.5, lie but 75 %


def test_other_seeds_are_not_paired():
    """Two models of independent seeds, none with an effect of utterances: between Student's and Welch's."""
    ours, theirs = by_seed(12.0, 13.0, 14.0, 13.5), by_seed(10.0, 11.0, 10.5)
    del ours[2]
    found = seeded_difference(ours, theirs, rounds=100_000)
    assert found.by_seed is None and found.mean == pytest.approx((12 + 13 + 13.5) / 3 - 10.5)
    welch = stats.ttest_ind((12, 13, 13.5), (10, 11, 10.5), equal_var=False).confidence_interval(0.95)
    least = stats.ttest_ind((12, 13, 13.5), (10, 11, 10.5)).confidence_interval(0.95)
    assert found.low < min(welch.low, least.low) and found.high > max(welch.high, least.high)
    assert found.high - found.low < 1.6 * (welch.high - welch.low)


def test_equal_seeds_are_the_bootstrap_over_utterances():
    random = np.random.default_rng(4)
    ours, theirs = (outcomes((random.random(300) < rate).astype(int)) for rate in (0.3, 0.2))
    found = seeded_difference({n: [ours] for n in range(3)}, {n: [theirs] for n in range(3)})
    assert (found.low, found.high) == pytest.approx(difference_interval(ours, theirs), abs=0.2)
    one = seeded_difference({0: [ours]}, {0: [theirs]})
    assert (one.low, one.high) == difference_interval(ours, theirs)
    back = seeded_difference({0: [theirs]}, {0: [ours]})
    assert (back.mean, back.low, back.high) == pytest.approx((-one.mean, -one.high, -one.low), abs=0.4)


@pytest.mark.parametrize("n_seeds", [3, 5])
@pytest.mark.parametrize("spread", [0.0, 0.4, 2.0])
def test_intervals_over_utterances_and_seeds_cover_what_they_say(n_seeds, spread):
    """400 experiments: tests of 300 utterances some of which are hard for all, students of which some are
    worse by `spread` in the log odds of an error. The true difference is that of infinitely many of both.
    """
    random = np.random.default_rng(5)

    def errors(base: float, hard: np.ndarray) -> np.ndarray:
        luck = spread * random.standard_normal((n_seeds, 1))
        return random.random((n_seeds, len(hard))) < 1 / (1 + np.exp(-(base + hard + luck)))

    draws = random.standard_normal((200_000, 2)) * (1.0, spread)
    true = [100 * np.mean(1 / (1 + np.exp(-(base + draws.sum(1))))) for base in (-1.0, -1.6)]
    covered = 0
    for _ in range(400):
        hard = random.standard_normal(300)
        ours, theirs = (
            {seed: [outcomes(row.astype(int))] for seed, row in enumerate(errors(base, hard))}
            for base in (-1.0, -1.6)
        )
        found = seeded_difference(ours, theirs, rounds=400)
        covered += found.low <= true[0] - true[1] <= found.high
    assert 0.9 <= covered / 400 <= 0.985


def test_differences_of_folds_are_of_their_means():
    folds = [outcomes([1] * 50 + [0] * 50), outcomes([1] * 100 + [0] * 900)]
    none = [outcomes([0] * 100), outcomes([0] * 1000)]
    found = seeded_difference({0: folds}, {0: none}, rounds=20_000)
    low, high = interval([folds], rounds=20_000)
    assert (found.mean, found.low, found.high) == pytest.approx((30, low, high), abs=0.3)
    with pytest.raises(DataError, match="seeds have different folds"):
        seeded_difference({0: folds}, {0: none[:1]})
    with pytest.raises(DataError, match="tested on different utterances"):
        seeded_difference({0: folds[:1]}, {0: [outcomes([0] * 99)]})
