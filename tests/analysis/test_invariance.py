"""Cosines between clean and distorted speech, and masked accuracy under distortion."""

import re

import numpy as np
import pytest
import torch

from distill.analysis.invariance import compare, layer_cosines, masked_accuracies
from distill.data.sources import open_cuts
from distill.distortions import DistortionConfig
from distill.downstream.distorted_sets import DistortedSet
from distill.errors import UserError
from distill.hubert import HubertEncoder
from distill.run import run
from distill.spiral.encoder import SpiralEncoder
from tests.distill.training.runs import tiny

GAUSSIAN = {
    snr: DistortionConfig(additive=("gaussian",), non_additive=("none",), snr_db=(snr, snr))
    for snr in (0.0, 20.0)
}


@pytest.fixture(scope="module")
def speech(mini_data):
    return str(mini_data / "speech_test.jsonl.gz")


@pytest.fixture(scope="module")
def teacher(mini_data, tmp_path_factory):
    out = tmp_path_factory.mktemp("teacher") / "t1"
    run(tiny(mini_data, "distort=false", name="mini_teacher", steps=4), out)
    return out


def test_cosines_are_those_of_the_frames(speech):
    torch.manual_seed(0)
    encoder = HubertEncoder.from_preset("mini").eval()
    clean, noisy = DistortedSet(open_cuts(speech), "clean"), DistortedSet(open_cuts(speech), GAUSSIAN[0.0])
    assert np.allclose(layer_cosines({"m": encoder}, clean, clean)["m"], 1.0, atol=1e-5)
    found = layer_cosines({"m": encoder}, clean, noisy)["m"]
    frames: list[list[float]] = [[] for _ in found]
    for (_, a, lengths, _), (_, b, _, _) in zip(
        clean.batches(1), noisy.batches(1), strict=True
    ):  # one by one
        with torch.no_grad():
            pairs = zip(encoder(a, lengths).hidden_states, encoder(b, lengths).hidden_states, strict=True)
        for layer, (one, other) in enumerate(pairs):
            dots = (one[0] * other[0]).sum(1) / (one[0].norm(dim=1) * other[0].norm(dim=1))
            frames[layer] += dots.tolist()
    assert np.allclose(found, [np.mean(values) for values in frames], atol=1e-4)
    assert len(found) == encoder.config.layers + 1


def test_more_noise_is_farther_from_clean(speech):
    torch.manual_seed(0)
    encoder = HubertEncoder.from_preset("mini")
    clean = DistortedSet(open_cuts(speech), "clean")
    near, far = (
        layer_cosines({"m": encoder}, clean, DistortedSet(open_cuts(speech), GAUSSIAN[snr]))["m"].mean()
        for snr in (20.0, 0.0)
    )
    assert 1 > near > far


def test_masked_accuracy_of_a_head_that_is_right(speech, teacher, monkeypatch):
    tests = {"clean": DistortedSet(open_cuts(speech), "clean")}
    assert 0 <= masked_accuracies(teacher, tests)["clean"] < 1

    def perfect(self, hidden):  # looks the targets up
        return torch.nn.functional.one_hot(perfect.targets, self.n_clusters).float()

    from distill.analysis import invariance

    original = invariance._batches

    def batches(test, targets):
        for batch in original(test, targets):
            perfect.targets = batch.targets.clamp(min=0)
            yield batch

    monkeypatch.setattr(invariance, "_batches", batches)
    monkeypatch.setattr("distill.adaptation.masked_prediction.MaskedPrediction.logits", perfect)
    assert masked_accuracies(teacher, tests)["clean"] == 1


def test_tables_and_picture(speech, teacher, tmp_path):
    text = compare([str(teacher)], speech, ["gaussian", "reverb"], {}, out=tmp_path / "cosines.png")
    cosines, accuracies = text.split("\n\n")
    assert len(re.findall(r"\| t1 \| (gaussian|reverb) (\| [01]\.\d{3} ){7}\|", cosines)) == 2
    assert re.search(r"\| t1 (\| \d+\.\d ){3}\|", accuracies)
    assert (tmp_path / "cosines.png").stat().st_size > 5000
    with pytest.raises(UserError, match="must end in .png"):
        compare([str(teacher)], speech, ["gaussian"], {}, out=tmp_path / "cosines.doc")


def test_layers_of_a_spiral_under_noise(speech):
    torch.manual_seed(0)
    encoder = SpiralEncoder.from_preset("mini")
    sets = [DistortedSet(open_cuts(speech), c, encoders=[encoder]) for c in ("clean", GAUSSIAN[0.0])]
    assert sets[0].model is encoder.config
    found = layer_cosines({"m": encoder}, sets[0], sets[1])["m"]
    assert len(found) == 5 and (found < 0.999).all()
