"""Noise after single layers: its size, its independence of batches, the record, the three judges."""

import json

import numpy as np
import pytest
import torch

from distill.analysis.models import OurModel
from distill.analysis.probes.judges import DistanceJudge
from distill.analysis.probes.layer_noise import LayerNoise, open_judges, probe_layers
from distill.data.sources import open_cuts
from distill.errors import UsageError, UserError
from distill.hubert import HubertEncoder
from distill.spiral.encoder import SpiralEncoder

LAYERS = ("cnn", "0", "2")


@pytest.fixture(scope="module")
def cuts(mini_data):
    return list(open_cuts(str(mini_data / "speech_test.jsonl.gz")))[:5]


@pytest.fixture(scope="module")
def judge():
    torch.manual_seed(0)
    return DistanceJudge(OurModel(HubertEncoder.from_preset("mini", layers=2), "m"))


def test_noise_has_its_size_and_depends_on_utterance_layer_and_seed(judge):
    states = 3 + torch.zeros(2, 400, 64)

    def drawn(ids, layer="1", seed=0, noise="additive", n_frames=400):
        return LayerNoise(judge.model, ids, layer, seed=seed).change(noise, 0.5)(
            states[: len(ids), :n_frames]
        )

    both = drawn(["a", "b"]) - 3
    assert abs(float(both.mean())) < 0.01 and float(both.std()) == pytest.approx(0.5, rel=0.01)
    assert torch.equal(drawn(["b"])[0] - 3, both[1])
    assert torch.equal(drawn(["b"], n_frames=37)[0] - 3, both[1, :37])  # whatever the padding
    for other in (drawn(["b"], layer="2"), drawn(["b"], seed=1), drawn(["a"])):
        assert not torch.equal(other[0] - 3, both[1])
    torch.testing.assert_close(drawn(["a", "b"], noise="multiplicative"), 3 * (1 + both))


def test_rows_are_the_same_at_any_batch_size(judge, cuts):
    one, four = (
        probe_layers([judge], cuts, layers=LAYERS, sigmas=(0.0, 0.3), batch_size=size) for size in (1, 4)
    )
    assert len(one) == len(four) == 2 * 3 * 2 * 2
    for a, b in zip(one, four, strict=True):
        assert {**a, "value": 0, "low": 0, "high": 0} == {**b, "value": 0, "low": 0, "high": 0}
        assert a["value"] == pytest.approx(b["value"], abs=1e-5) and a["low"] <= a["value"] <= a["high"]


def test_distances_are_those_of_each_utterance_alone(judge, cuts):
    from distill.data.audio import read_audio

    (row,) = [
        row
        for row in probe_layers([judge], cuts, layers=["0"], noises=["additive"], sigmas=[0.3])
        if row["metric"] == "distance"
    ]
    model, found = judge.model, []
    for cut in cuts:
        waveform = read_audio(cut)[None]
        lengths = torch.tensor([waveform.shape[1]])
        clean = model.activations(waveform, lengths, ["2"]).states["2"]
        with model.injected("0", LayerNoise(model, [cut.id], "0").change("additive", 0.3)):
            noisy = model.activations(waveform, lengths, ["2"]).states["2"]
        found.append(float((noisy - clean).norm() / clean.norm()))
    assert row["value"] == pytest.approx(np.mean(found), rel=1e-4)


def test_clean_is_at_distance_0_and_more_noise_is_further(judge, cuts):
    rows = probe_layers([judge], cuts, layers=LAYERS, sigmas=(0.0, 0.1, 0.6))
    values = {(r["metric"], r["noise"], r["layer"], r["sigma"]): r["value"] for r in rows}
    for noise in ("additive", "multiplicative"):
        for layer in LAYERS:
            distances = [values["distance", noise, layer, sigma] for sigma in (0.0, 0.1, 0.6)]
            cosines = [values["cosine", noise, layer, sigma] for sigma in (0.0, 0.1, 0.6)]
            assert distances[0] == 0 < distances[1] < distances[2]
            assert cosines[0] == pytest.approx(1) and cosines[1] > cosines[2]


def test_a_record_is_continued(judge, cuts, tmp_path, monkeypatch):
    rows = probe_layers([judge], cuts, layers=["0"], sigmas=[0.0, 0.2], out=tmp_path)
    more = probe_layers([judge], cuts, layers=["0", "1"], sigmas=[0.0, 0.2], out=tmp_path)
    assert more[: len(rows)] == rows and len(more) == 2 * len(rows)
    assert json.loads((tmp_path / "analysis.json").read_text())["rows"] == more
    monkeypatch.setattr(judge, "scores", None)  # nothing is measured again
    assert probe_layers([judge], cuts, layers=["1"], sigmas=[0.2], out=tmp_path) == more
    other = DistanceJudge(OurModel(HubertEncoder.from_preset("mini", layers=2), "m"))
    with pytest.raises(UserError, match="has another model by the name m"):
        probe_layers([other], cuts, out=tmp_path)
    with pytest.raises(UserError, match="other settings"):
        probe_layers([judge], cuts[:2], out=tmp_path)
    with pytest.raises(UserError, match="other settings .*seed"):
        probe_layers([judge], cuts, seed=1, out=tmp_path)


def test_bad_input(judge, cuts):
    with pytest.raises(UsageError, match="m has no layer '9'; it has conv1, .*cnn, 0, 1, 2"):
        probe_layers([judge], cuts, layers=["0", "9"])
    with pytest.raises(UsageError, match="unknown noise 'pink'; there are additive, multiplicative"):
        probe_layers([judge], cuts, noises=["pink"])
    with pytest.raises(UsageError, match="sigma -1: at least 0"):
        probe_layers([judge], cuts, sigmas=[-1.0])
    with pytest.raises(UsageError, match="a model is given twice: m, m"):
        probe_layers([judge, judge], cuts)


def test_judges_of_models(student, tmp_path):
    (judge,) = open_judges([str(student)])
    assert judge.metrics == ("distance", "cosine")
    (judge,) = open_judges([str(student)], teacher="random:mini")
    assert judge.metrics == ("loss",)
    with pytest.raises(UserError, match="random:mini has no prediction heads"):
        open_judges(["random:mini"], teacher="random:mini")
    with pytest.raises(UsageError, match="has no head, but others have one"):
        open_judges([str(student), f"{student}@{tmp_path}"])


def test_noise_after_layers_of_a_spiral(cuts):
    torch.manual_seed(0)
    judge = DistanceJudge(OurModel(SpiralEncoder.from_preset("mini", layers=2), "m"))
    options = {"layers": ("conv2", "cnn", "1"), "sigmas": (0.0, 0.3)}
    one, four = (probe_layers([judge], cuts, **options, batch_size=size) for size in (1, 4))
    for a, b in zip(one, four, strict=True):
        assert a["value"] == pytest.approx(b["value"], abs=1e-4)
