"""Tables and figures of recognition under perturbations."""

import csv

import pytest

from distill.analysis.probes.waveform_figures import draw, tables


def row(model, perturbation, value, wer, unit, *, metric="wer", time=0.02):
    return {
        "model": model,
        "identity": "0",
        "perturbation": perturbation,
        "value": value,
        "unit": unit,
        "what": "",
        "metric": metric,
        **{metric: wer, f"{metric}_low": wer - 2, f"{metric}_high": wer + 3},
        "time_median_s": time,
        "time_mean_s": time,
        "busy": False,
        "snr_db": value if unit == "dB SNR" else None,
        "utterances": 7,
        "machine": "a machine, 1 thread",
    }


ROWS = [
    row(model, perturbation, value, 10 + factor * value, unit)
    for model, factor in (("_first", 1), ("sec|ond", 2))
    for perturbation, unit, values in (
        ("clean", "", [0]),
        ("speed", "%", [200, 100, 50]),
        ("background_fsd", "dB SNR", [20, 0, 10]),
        ("pgd", "dB SNR", [40]),
    )
    for value in values
]


def test_tables_are_in_the_order_of_the_values_with_models_side_by_side():
    text = tables(ROWS)
    lines = text.splitlines()
    start = lines.index("speed (%), 7 utterances")
    assert lines[start + 2] == "| value | SNR (dB) | model | WER (%) | median ms | mean ms |"
    assert lines[start + 4] == "| 50 |  | _first | 60.0 [58.0, 63.0] | 20.0 | 20.0 |"
    assert [line.split(" | ")[0] for line in lines[start + 4 : start + 10]] == ["| 50"] * 2 + [
        "| 100"
    ] * 2 + ["| 200"] * 2
    noise = lines.index("background noise (fsd) (dB SNR), 7 utterances")
    assert lines[noise + 4].startswith("| 20 | 20.0 | _first | 30.0") and r"sec\|ond" in lines[noise + 5]
    assert text.endswith("on a machine, 1 thread.")


def test_a_figure_for_each_perturbation_with_several_values(tmp_path):
    written = draw(ROWS, tmp_path)
    assert {path.name for path in written} == {
        f"{name}.{kind}" for name in ("speed", "background_fsd") for kind in ("png", "pdf", "csv")
    }
    assert all(path.stat().st_size for path in written)
    with (tmp_path / "background_fsd.csv").open() as file:
        found = list(csv.DictReader(file))
    assert [each["value"] for each in found if each["model"] == "_first"] == ["20", "0", "10", "0"]
    assert [each["perturbation"] for each in found].count("clean") == 2


def test_differences_have_a_column():
    rows = [row("a", "speed", 50, 10, "%"), row("b", "speed", 50, 14, "%")]
    rows[1] |= {"against": "a", "difference": 4.0, "difference_low": -1.0, "difference_high": 9.0}
    lines = tables(rows).splitlines()
    assert lines[2] == "| value | SNR (dB) | model | WER (%) | WER minus a's | median ms | mean ms |"
    assert "|  | 20.0 |" in lines[4] and "| +4.0 [-1.0, +9.0] | 20.0 |" in lines[5]


def test_times_on_a_busy_machine_are_marked(tmp_path):
    rows = [row("a", "speed", value, 10, "%") | {"busy": value == 50} for value in (50, 100)]
    text = tables(rows)
    assert (
        "| ~20.0 | ~20.0 |" in text
        and "| 20.0 | 20.0 |" in text
        and text.endswith("~: the machine did other work, too.")
    )
    assert draw(rows, tmp_path)


@pytest.mark.parametrize("metric", ["error", "per"])
def test_other_metrics_and_missing_times(tmp_path, metric):
    rows = [row("m", "speed", value, 5, "%", metric=metric, time=None) for value in (50, 100)]
    assert len(draw(rows, tmp_path)) == 3
    assert f"{metric.upper()} (%)" in tables(rows)
