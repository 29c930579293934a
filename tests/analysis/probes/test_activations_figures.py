"""Figures and tables of layers on disturbed speech."""

from distill.analysis.probes import activations_figures

ROWS = [
    {
        "model": model,
        "disturbance": disturbance,
        "layer": layer,
        "metric": metric,
        "value": None if metric == "pwcca" and layer == "cnn" else 0.1 * place + 0.1 * number,
        "low": None if metric == "pwcca" else 0.1 * place,
        "high": None if metric == "pwcca" else 0.1 * place + 0.3,
        "utterances": 7,
    }
    for model, depth in (("shallow", 2), ("deep", 4))
    for number, disturbance in enumerate(("noise 0.1", "noise 0.5", "2-dist"))
    for place, layer in enumerate(("cnn", "0", "1", "2")[:depth])
    for metric in ("distance", "cosine", "pwcca")
]


def test_figures_for_each_metric(tmp_path):
    written = activations_figures.draw(ROWS, tmp_path)
    assert {path.stem for path in written} == {
        f"{metric}_{kind}"
        for metric in ("distance", "cosine", "pwcca")
        for kind in ("by_layer", "noise_0.1", "2-dist")
    }
    assert len(written) == 27 and all(path.stat().st_size > 100 for path in written)


def test_tables():
    text = activations_figures.tables(ROWS)
    assert "| model |  | layer cnn | layer 0 | layer 1 | layer 2 |" in text
    assert "| shallow | \u03c1 = 0.5 | 0.100 | 0.200 |  |  |" in text
    assert "| deep | 2-dist |  | 0.300 | 0.400 | 0.500 |" in text  # no CCA of the first layer
    assert text.count("\n\n") == 5
