"""Rows compared to one of them: which pairs make a difference, what is marked, and in which formats."""

import csv
import io

import numpy as np
import pytest

from distill.cli import main
from distill.downstream.bootstrap import interval, seeded_difference
from distill.downstream.table_differences import conditions_of, find_line, with_means
from distill.downstream.table_rows import Line
from distill.downstream.tables import make_tables
from distill.errors import UserError
from tests.downstream.made_results import write

N = 400


def errors_of(rate: float, seed: int) -> np.ndarray:
    """The same hard utterances for every model."""
    hard = np.random.default_rng(0).random(N)
    return (hard + 0.05 * np.random.default_rng([seed, int(1000 * rate)]).standard_normal(N) < rate).astype(
        int
    )


def evaluation(folder, name: str, seed: int, rate: float, *, condition="clean", **changes):
    """A result with the outcomes of its utterances."""
    found = errors_of(rate, seed)
    error = 100 * found.mean()
    value = error if changes.get("metric") == "wer" else 100 - error
    out = folder / f"{name}-{condition}-{seed}-{changes.get('task', 'ks')}"
    write(
        out,
        {"recipe": name, "model": name, "seed": seed, "value": value, "condition": condition}
        | {"checkpoint_hash": f"{name}{seed}", "predictions": "predictions/0.tsv", "n_utterances": N}
        | changes,
    )
    (out / "predictions").mkdir()
    lines = [f"u{n}\t{e}\t1" for n, e in enumerate(found)]
    (out / "predictions" / "0.tsv").write_text("\n".join(["id\terrors\tcount", *lines]) + "\n")
    return {f"u{n}": (float(e), 1.0) for n, e in enumerate(found)}


@pytest.fixture
def folder(tmp_path):
    """Three seeds of three arms, clean and at three SNRs."""
    for name, rate in (("mini_s4", 0.3), ("better", 0.2), ("same", 0.3)):
        for condition, more in (("clean", 0.0), ("fsd@20", 0.02), ("fsd@5", 0.1), ("fsd@-5", 0.3)):
            for seed in range(3):
                chance = 0.001 * (name == "same")  # draws of its own
                evaluation(tmp_path, name, seed, rate + more + chance, condition=condition)
    return tmp_path


def rows(text: str) -> dict[str, dict[str, str]]:
    return {row["row"]: row for row in csv.DictReader(io.StringIO(text))}


def test_differences_are_paired_by_seed_and_utterance(folder):
    found = rows(make_tables([folder], "csv", against="mini_s4"))
    assert list(found) == ["mini_s4", "better", "same"]
    assert [row["against"] for row in found.values()] == ["", "mini_s4", "mini_s4"]
    ours, theirs = ({seed: errors_of(rate, seed) for seed in range(3)} for rate in (0.2, 0.3))
    by_seed = [100 * (theirs[seed].mean() - ours[seed].mean()) for seed in range(3)]  # of accuracies
    better = found["better"]
    assert float(better["clean"]) == pytest.approx(np.mean(by_seed), abs=1e-3)
    assert float(better["clean spread"]) == pytest.approx(max(by_seed) - min(by_seed), abs=1e-3)
    tables = [
        {s: [{f"u{n}": (float(e), 1.0) for n, e in enumerate(x)}] for s, x in model.items()}
        for model in (theirs, ours)
    ]
    expected = seeded_difference(*tables)
    low, high = float(better["clean low"]), float(better["clean high"])
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=0.3)
    assert float(found["mini_s4"]["clean"]) == pytest.approx(
        np.mean([100 * (1 - theirs[seed].mean()) for seed in range(3)]), abs=1e-3
    )


def test_the_star_says_that_the_interval_excludes_nothing(folder):
    text = make_tables([folder], against="mini_s4")
    title, table = text.split("\n\n")[:2]
    assert title == "### KS: accuracy in %, higher is better; differences to mini_s4"
    head, _, base, better, same = [[c.strip() for c in line.split("|")[1:-1]] for line in table.splitlines()]
    assert head[4:] == ["clean", "fsd@20", "fsd@5", "fsd@-5", "fsd@mean"]
    assert not any("*" in cell for cell in (*base, *same)) and all("*" in cell for cell in better[4:])
    assert better[4].startswith("+") and " n=3) [+" in better[4]
    assert "Other rows: their means minus those of the first" in text and "paper" not in table
    latex = make_tables([folder], "latex", against="mini_s4")
    assert (
        "{*}" in latex and r"\caption{KS: accuracy in \%, higher is better; differences to mini\_s4." in latex
    )


def test_error_rates_fall_where_a_row_is_better(tmp_path):
    for name, rate in (("s4", 0.3), ("better", 0.2)):
        for seed in range(2):
            evaluation(tmp_path, name, seed, rate, task="asr", metric="wer")
    found = rows(make_tables([tmp_path], "csv", against="s4"))
    assert list(found) == ["S4", "better"]
    assert float(found["better"]["clean high"]) < 0


def test_what_cannot_be_compared_is_said(tmp_path, caplog):
    for seed in range(3):
        evaluation(tmp_path, "s4", seed, 0.3)
    for seed in range(2):
        evaluation(tmp_path, "fewer", seed, 0.2)
    evaluation(tmp_path, "fewer", 0, 0.2, condition="dns")
    evaluation(tmp_path, "other", 0, 0.2, predictions=None)
    evaluation(tmp_path, "fewer", 0, 0.2, task="ic")
    text = make_tables([tmp_path], against="s4")
    assert "fewer, clean: seeds 0, 1, S4 has 0, 1, 2: not paired by seed." in text
    assert "fewer, dns: no difference: S4 was not tested there." in text
    assert "other, clean: a single seed: the interval covers the choice of utterances alone." in text
    assert "other, clean: no confidence interval: the outcomes of utterances were not kept." in text
    assert "IC: accuracy in %, higher is better: no results of s4: left out" in caplog.text
    found = rows(make_tables([tmp_path], "csv", against="s4"))
    assert found["fewer"]["clean spread"] == "" and found["fewer"]["clean low"]


def test_no_such_row(folder, capsys):
    with pytest.raises(
        UserError, match="--against s5: there is no such row; there are better, mini_s4, same"
    ):
        make_tables([folder], against="s5")
    assert main(["table", str(folder), "--against", "s5"]) == 1
    assert main(["table", str(folder), "--against", "mini_s4", "--format", "csv"]) == 0
    assert "against" in capsys.readouterr().out.partition("\n")[0].split(",")
    assert main(["table", str(folder), "--against", "s4", "--paper", "spiral"]) == 2


def test_a_row_is_found_by_its_label_its_name_or_its_recipe():
    last, weighted = Line("S4'", "last", ""), Line("S4'", "weighted_sum", "")
    two = [Line("mine", "last", "a" * 32), Line("mine", "last", "b" * 32)]
    lines = [last, weighted, *two]
    assert find_line(lines, "s4_prime") == find_line(lines, "S4'") == last
    assert find_line(lines, "S4' (weighted_sum)") == weighted
    assert find_line(lines, "mine (student aaaaaaaa)") == two[0]
    assert find_line([weighted], "S4'") == weighted and find_line(lines, "yours") is None
    with pytest.raises(UserError, match=r"--against mine: several rows .*: mine \(student aaaaaaaa\), mine"):
        find_line(lines, "mine")


def test_a_mean_over_snrs_has_an_interval_of_its_own(folder):
    """An utterance is drawn with all of its SNRs."""
    found = rows(make_tables([folder], "csv", against="mini_s4"))

    def model(rate: float) -> dict:
        """By seed, the errors of an utterance at three SNRs, of three."""
        errors = {s: sum(errors_of(rate + more, s) for more in (0.02, 0.1, 0.3)) for s in range(3)}
        return {s: [{f"u{n}": (float(e), 3.0) for n, e in enumerate(x)}] for s, x in errors.items()}

    expected = seeded_difference(model(0.3), model(0.2))
    better = {key: float(found["better"][f"fsd@mean{key}"]) for key in ("", " low", " high")}
    parts = [float(found["better"][f"fsd@{snr}"]) for snr in (20, 5, -5)]
    assert better[""] == pytest.approx(expected.mean, abs=1e-3) == pytest.approx(np.mean(parts), abs=1e-3)
    assert (better[" low"], better[" high"]) == pytest.approx((expected.low, expected.high), abs=0.3)
    low, high = interval(list(model(0.3).values()))
    base = [float(found["mini_s4"][f"fsd@mean{key}"]) for key in (" low", " high")]
    assert base == pytest.approx((100 - high, 100 - low), abs=0.3)


def test_only_several_snrs_of_a_kind_have_a_mean(tmp_path):
    columns = with_means(["clean", "fsd", "fsd@0", "fsd@20", "dns@5"])
    assert columns == ["clean", "fsd", "dns@5", "fsd@20", "fsd@0", "fsd@mean"]
    assert conditions_of("fsd@mean", columns) == ["fsd@20", "fsd@0"] and conditions_of("fsd", columns) == [
        "fsd"
    ]
    for name in ("s4", "lacks"):
        evaluation(tmp_path, name, 0, 0.3, condition="fsd@0")
    evaluation(tmp_path, "s4", 0, 0.3, condition="fsd@20")
    found = rows(make_tables([tmp_path], "csv", against="s4"))
    assert found["S4"]["fsd@mean"] and not found["lacks"]["fsd@mean"] and found["lacks"]["fsd@0"]
