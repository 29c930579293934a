"""Figures and tables of noise after single layers."""

import pytest

from distill.analysis.probes import layer_noise_figures

ROWS = [
    {
        "model": model,
        "metric": metric,
        "noise": noise,
        "layer": layer,
        "sigma": sigma,
        "value": 10 * sigma + place,
        "low": 10 * sigma,
        "high": 10 * sigma + 2 * place,
        "utterances": 7,
    }
    for model, depth in (("deep", 4), ("shallow", 2))
    for metric in ("wer", "cer")
    for noise in ("additive", "multiplicative")
    for place, layer in enumerate(("cnn", "0", "1", "2")[:depth])
    for sigma in (0.0, 0.2, 0.4)
]


def test_figures_for_each_metric_and_noise(tmp_path):
    written = layer_noise_figures.draw(ROWS, tmp_path)
    stems = {path.stem for path in written}
    assert stems == {
        f"{noise}_{metric}_by_{axis}"
        for noise in ("additive", "multiplicative")
        for metric in ("wer", "cer")
        for axis in ("layer", "sigma")
    }
    assert len(written) == 24 and all(path.stat().st_size > 300 for path in written)


@pytest.mark.parametrize("rows", [ROWS, [row for row in ROWS if row["sigma"] == 0.4]])
def test_tables(rows):
    text = layer_noise_figures.tables(rows)
    assert "word error rate (%), additive noise, 7 utterances" in text
    assert "| deep | 2 |" in text and "| 7.0 [4.0, 10.0] |" in text
