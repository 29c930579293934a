"""Layers on clean and disturbed speech: distances by hand, noise of the right size, CCA, the record."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from distill.analysis.cca import pwcca
from distill.analysis.invariance import layer_cosines
from distill.analysis.layered import Activations
from distill.analysis.models import OurModel
from distill.analysis.probes import activations
from distill.analysis.probes.activations import Comparison, Disturbance, compare_layers, input_noise
from distill.analysis.probes.activations import probe_activations as probe
from distill.data.audio import read_audio
from distill.data.noise import NoiseReader
from distill.data.sources import open_cuts
from distill.downstream.distorted_sets import DistortedSet
from distill.errors import UsageError, UserError
from distill.hubert import HubertEncoder

LAYERS = ("cnn", "0", "2")


@pytest.fixture(scope="module")
def cuts(mini_data):
    return list(open_cuts(str(mini_data / "speech_test.jsonl.gz")))[:5]


@pytest.fixture(scope="module", params=[False, True], ids=["as-it-is", "normalised"])
def model(request):
    torch.manual_seed(0)
    return OurModel(HubertEncoder.from_preset("mini", layers=2, normalize_input=request.param), "m")


def value(rows, **key):
    (row,) = [row for row in rows if key.items() <= row.items()]
    return row["value"]


def test_distances_are_those_of_each_utterance_alone(model, cuts):
    rows = probe([model], cuts, rhos=[0.3], layers=LAYERS, cca=False, batch_size=3)
    found = {layer: [] for layer in LAYERS}
    for cut in cuts:
        waveform = read_audio(cut)[None]
        lengths = torch.tensor([waveform.shape[1]])
        inputs = (
            F.layer_norm(waveform, waveform.shape[1:]) if model.encoder.config.normalize_input else waveform
        )
        noisy = input_noise(inputs[0], waveform.shape[1], 0.3, cut.id)[None]
        clean = model.activations(waveform, lengths, LAYERS)
        with model.injected("input", lambda _, noisy=noisy: noisy[:, :, None]):
            other = model.activations(waveform, lengths, LAYERS)
        for layer in LAYERS:
            a, b = clean.states[layer][0], other.states[layer][0]
            found[layer].append(((a - b).norm(), a.numel(), a.norm(), F.cosine_similarity(a, b, dim=1)))
    for layer, parts in found.items():
        norms = [(float(d / n**0.5), float(d / size)) for d, n, size, _ in parts]
        expected = dict(zip(("distance", "relative"), np.mean(norms, axis=0), strict=True))
        expected["cosine"] = float(torch.cat([cosines for *_, cosines in parts]).mean())
        for metric, mean in expected.items():
            assert value(rows, layer=layer, metric=metric) == pytest.approx(mean, rel=2e-3, abs=1e-5)


def test_noise_is_as_loud_for_every_model(model, cuts):
    waveform = read_audio(cuts[0])[None]
    lengths = torch.tensor([waveform.shape[1]])
    heard = []
    disturbance = Disturbance("noise 0.5", NoiseReader({}))
    with disturbance._noise(model, ["u"], lengths), model.injected("input", lambda x: heard.append(x) or x):
        model.activations(waveform, lengths)
    with model.injected("input", lambda x: heard.append(x) or x):
        model.activations(waveform, lengths)
    noisy, clean = heard
    assert float((noisy - clean).std() / clean.std()) == pytest.approx(0.5, rel=0.01)


def test_noise_depends_on_utterance_and_seed_only():
    x = torch.randn(9000)
    noise = input_noise(x, 9000, 0.2, "a") - x
    padded = F.pad(x[:500], (0, 100))
    short = input_noise(padded, 500, 0.2, "a")
    torch.testing.assert_close(
        (short - padded)[:500] / x[:500].std(correction=0), noise[:500] / x.std(correction=0)
    )
    assert not short[500:].any()
    assert not torch.allclose(input_noise(x, 9000, 0.2, "b") - x, noise)
    assert not torch.allclose(input_noise(x, 9000, 0.2, "a", seed=1) - x, noise)


def test_more_noise_is_further_away(model, cuts):
    rows = probe([model], cuts, rhos=[0.1, 0.5], cca=False)
    for layer in model.transformer:
        little, much = (
            {
                m: value(rows, layer=layer, metric=m, disturbance=f"noise {rho}")
                for m in ("distance", "cosine")
            }
            for rho in (0.1, 0.5)
        )
        assert little["distance"] < much["distance"] and little["cosine"] > much["cosine"]


def test_conditions_are_the_test_sets(model, cuts, noise_folder):
    reader = NoiseReader({"musan": str(noise_folder)})
    rows = probe([model], cuts, rhos=[], conditions=["musan"], reader=reader, cca=False)
    clean, other = (DistortedSet(open_cuts_of(cuts), c, reader) for c in ("clean", "musan"))
    cosines = layer_cosines({"m": model.encoder}, clean, other)["m"]
    for layer, cosine in zip(("0", "1", "2"), cosines, strict=True):
        assert value(rows, layer=layer, metric="cosine") == pytest.approx(cosine, abs=1e-5)


def open_cuts_of(cuts):
    from lhotse import CutSet

    return CutSet.from_cuts(cuts)


def activations_of(states):
    return Activations({"1": states}, {"1": torch.tensor([states.shape[1]] * len(states))})


def test_cca_is_held_out_both_ways():
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(6, 200, 4, generator=generator)
    mixed = a @ torch.randn(4, 4, generator=generator)
    unrelated = torch.randn(6, 200, 4, generator=generator)
    for other, low, high in ((mixed, 0.999, 1.001), (unrelated, -0.2, 0.2)):
        comparison = Comparison(n_frames=150)
        comparison.add([f"u{n}" for n in range(6)], "1", activations_of(a), activations_of(other))
        assert all(low < found < high for found in comparison.correlations().values())
    one, two = [comparison._frames([f"u{n}" for n in half]) for half in ((0, 1, 2), (3, 4, 5))]
    assert one[0].shape == (450, 4)
    assert -0.2 < pwcca(*one, *two, epsilon_x=1e-6, epsilon_y=1e-6).score < 0.2


def test_too_few_frames_for_cca_are_said(model, cuts, caplog, monkeypatch):
    monkeypatch.setattr(activations, "CCA_FRAMES", 60)
    rows = probe([model], cuts, rhos=[0.1], layers=["2"])
    assert value(rows, metric="pwcca") is None and "no CCA of layer 2: " in caplog.text
    assert value(rows, metric="cosine") > 0


def test_a_record_is_continued(model, cuts, tmp_path, monkeypatch, noise_folder):
    options = {"layers": ["1"], "cca": False, "out": tmp_path}
    rows = probe([model], cuts, rhos=[0.1], **options)
    more = probe([model], cuts, rhos=[0.1, 0.2], **options)
    assert more[: len(rows)] == rows and len(more) == 2 * len(rows) == 6
    assert json.loads((tmp_path / "analysis.json").read_text())["rows"] == more
    reader = NoiseReader({"musan": str(noise_folder)})
    most = probe([model], cuts, rhos=[], conditions=["musan"], reader=reader, **options)
    with monkeypatch.context() as patch:
        patch.setattr(activations, "compare_layers", None)  # nothing is measured again
        assert probe([model], cuts, rhos=[0.1], conditions=["musan"], reader=reader, **options) == most
    with pytest.raises(UserError, match="has musan with other noise recordings"):
        less = NoiseReader({"musan": str(noise_folder / "deep")})
        probe([model], cuts, conditions=["musan"], reader=less, **options)


def test_bad_input(model, cuts):
    with pytest.raises(UsageError, match="m has no layer '7'"):
        probe([model], cuts, layers=["7"])
    with pytest.raises(UsageError, match="rho 0: above 0"):
        probe([model], cuts, rhos=[0.0])
    with pytest.raises(UsageError, match="unknown condition 'rain'"):
        probe([model], cuts, conditions=["rain"])
    with pytest.raises(UserError, match="condition musan needs musan recordings"):
        probe([model], cuts, rhos=[], conditions=["musan"])
    with pytest.raises(UsageError, match="a model is given twice"):
        probe([model, model], cuts)


def test_batches_do_not_matter(model, cuts):
    disturbance = Disturbance("noise 0.2", NoiseReader({}))
    one, four = (compare_layers(model, disturbance, cuts, LAYERS, batch_size=size) for size in (1, 4))
    for layer in LAYERS:
        assert one[layer].mean("relative") == pytest.approx(four[layer].mean("relative"), rel=1e-3)
