"""Upstreams of s3prl as models whose layers can be read."""

import pytest
import torch

from distill.analysis.models import open_models
from distill.errors import CheckpointError, UserError

pytest.importorskip("s3prl")
WAVEFORMS = 0.1 * torch.randn(2, 16_000, generator=torch.Generator().manual_seed(0))
LENGTHS = torch.tensor([16_000, 9_000])


@pytest.fixture(scope="module")
def model():
    return open_models(["s3prl:fbank"])[0]


def test_layers_are_the_hidden_states_of_each_utterance_alone(model):
    assert model.layers == model.transformer == ("0",) and model.hop("0") == 160
    found = model.activations(WAVEFORMS, LENGTHS)
    assert found.lengths["0"].tolist() == [98, 54] and found.states["0"].shape == (2, 98, 240)
    (alone,) = model.network([WAVEFORMS[1, :9000]])["hidden_states"]
    assert torch.equal(found.valid("0")[1], alone[0])


def test_waveforms_can_be_disturbed_but_not_layers(model):
    found = model.activations(WAVEFORMS, LENGTHS)
    noise = torch.randn(2, 16_000, 1, generator=torch.Generator().manual_seed(1))
    with model.injected("input", lambda x: x + noise[model.rows, : x.shape[1]]):
        disturbed = model.activations(WAVEFORMS, LENGTHS)
    expected = model.activations(WAVEFORMS + noise[:, :, 0], LENGTHS)
    assert torch.equal(disturbed.valid("0")[1], expected.valid("0")[1])
    assert not torch.allclose(disturbed.valid("0")[1], found.valid("0")[1])
    with pytest.raises(UserError, match="fbank: the layers of an upstream of s3prl can be read but not"):
        model.injected("0", lambda x: x)
    with pytest.raises(UserError, match="s3prl cannot make an upstream with random weights"):
        model.random_twin(0)


def test_upstreams_that_do_not_exist():
    with pytest.raises(CheckpointError, match="s3prl:nosuch: s3prl has no upstream 'nosuch'"):
        open_models(["s3prl:nosuch"])
    with pytest.raises(CheckpointError, match="s3prl:hubert_local: s3prl cannot load it"):
        open_models(["s3prl:hubert_local"])
