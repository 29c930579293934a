"""Layers by name: read, and changed in the middle of the computation."""

import pytest
import torch

from distill.analysis.models import OurModel
from distill.errors import UsageError
from distill.hubert import HubertEncoder
from distill.spiral.encoder import SpiralEncoder
from distill.student import Student

WAVEFORMS = torch.randn(2, 16_000, generator=torch.Generator().manual_seed(0))
LENGTHS = torch.tensor([16_000, 12_000])


@pytest.fixture(scope="module", params=[False, True], ids=["post-norm", "pre-norm"])
def model(request):
    torch.manual_seed(7)
    return OurModel(HubertEncoder.from_preset("mini", pre_norm=request.param), "m")


def test_layers_are_those_of_the_encoder(model):
    out = model.encoder(WAVEFORMS, LENGTHS, return_cnn=True)
    found = model.activations(WAVEFORMS, LENGTHS)
    assert list(found.states) == ["cnn", *map(str, range(7))] == list(model.transformer)
    for number, state in enumerate(out.features):
        assert torch.equal(found.states[str(number)], state)
    assert torch.equal(found.states["cnn"], out.cnn)
    assert all(lengths.tolist() == [49, 37] for lengths in found.lengths.values())
    assert [len(rows) for rows in found.valid("3")] == [49, 37]


def test_convolutions_have_their_own_frames(model):
    found = model.activations(WAVEFORMS, LENGTHS, ["conv1", "conv3"])
    assert {name: tuple(state.shape) for name, state in found.states.items()} == {
        "conv1": (2, 3199, 32),
        "conv3": (2, 799, 32),
    }
    assert found.lengths["conv3"].tolist() == [799, 599]
    assert [model.hop(layer) for layer in ("conv1", "conv3", "cnn", "0", "6")] == [5, 20, 320, 320, 320]


def test_a_change_reaches_its_layer_and_those_above(model):
    before = model.activations(WAVEFORMS, LENGTHS, model.layers)
    for number, layer in enumerate(model.layers):
        with model.injected(layer, lambda states: states + 1.0):
            after = model.activations(WAVEFORMS, LENGTHS, model.layers)
        changed = [name for name in model.layers if not torch.equal(before.states[name], after.states[name])]
        assert changed == list(model.layers[number:])
        if layer in ("conv2", "cnn", "0", "3"):
            assert torch.allclose(after.states[layer], before.states[layer] + 1.0)
    again = model.activations(WAVEFORMS, LENGTHS, model.layers)
    assert all(torch.equal(again.states[name], state) for name, state in before.states.items())


def test_a_change_in_a_layer_that_hands_on_its_map():
    torch.manual_seed(7)
    shape = {"layers": 2, "reuse_attention": True}
    model = OurModel(HubertEncoder.from_preset("wavlm_mini", **shape), "m")
    before = model.activations(WAVEFORMS, LENGTHS, model.layers)
    with model.injected("1", lambda states: states + 1.0):
        after = model.activations(WAVEFORMS, LENGTHS, model.layers)
    assert torch.allclose(after.states["1"], before.states["1"] + 1.0)
    assert not torch.equal(after.states["2"], before.states["2"])


def test_the_input_is_what_the_first_convolution_gets():
    torch.manual_seed(7)
    model = OurModel(HubertEncoder.from_preset("mini", conv_norm="layer", normalize_input=True), "m")
    heard = []
    with model.injected("input", lambda x: heard.append(x) or x + 1.0):
        after = model.activations(WAVEFORMS, LENGTHS, ["conv1", "6"])
    (x,) = heard
    assert x.shape == (2, 16_000, 1) and not x[1, 12_000:].any()
    assert torch.allclose(x[1, :12_000].std(), torch.tensor(1.0), atol=1e-3)
    before = model.activations(WAVEFORMS, LENGTHS, ["conv1", "6"])
    assert not torch.allclose(after.states["6"], before.states["6"])
    with model.injected("input", lambda x: 0 * x):
        zero = model.activations(WAVEFORMS, LENGTHS, ["conv1"]).states["conv1"]
    assert torch.allclose(zero, zero[:, :1])


def test_layers_of_a_mel_front():
    torch.manual_seed(7)
    teacher = HubertEncoder.from_preset("mini")
    model = OurModel(Student.from_teacher(teacher, targets=(2,), front="mel"), "m")
    assert model.layers == ("conv1", "cnn", "0", "1", "2")
    found = model.activations(WAVEFORMS, LENGTHS, model.layers)
    assert found.states["conv1"].shape == (2, 100, 32) and found.lengths["conv1"].tolist() == [100, 75]
    out = model.encoder(WAVEFORMS, LENGTHS, return_cnn=True)
    assert torch.equal(found.states["cnn"], out.cnn) and torch.equal(found.states["2"], out.features[2])
    assert [model.hop(layer) for layer in model.layers] == [160, 320, 320, 320, 320]
    with model.injected("input", lambda x: 0 * x):
        assert not torch.allclose(model.activations(WAVEFORMS, LENGTHS, ["2"]).states["2"], out.features[2])


def test_a_layer_that_does_not_exist_is_refused(model):
    with pytest.raises(UsageError, match="m has no layer '7'; it has conv1, .*, cnn, 0, .*, 6"):
        model.activations(WAVEFORMS, LENGTHS, ["7"])
    with pytest.raises(UsageError, match="no layer 'x'"):
        model.injected("x", lambda states: states)


def test_a_random_twin_has_the_shape_but_not_the_weights(model):
    twin, same, other = (model.random_twin(seed) for seed in (0, 0, 1))
    assert twin.layers == model.layers and twin.identity == same.identity != other.identity
    assert twin.identity != model.identity and twin.name == "m (random weights)"


def test_gradients_reach_the_waveforms(model):
    waveforms = WAVEFORMS.clone().requires_grad_()
    model.activations(waveforms, LENGTHS, ["6"]).states["6"].sum().backward()
    assert waveforms.grad is not None and waveforms.grad.abs().sum() > 0


def test_of_a_student_the_encoder_is_analysed():
    student = Student.from_teacher(HubertEncoder.from_preset("mini"), layers=2, targets=(2, 4, 6))
    model = OurModel(student, "s")
    assert model.transformer == ("cnn", "0", "1", "2") and model.student is student


@pytest.fixture(scope="module")
def spiral():
    torch.manual_seed(7)
    return OurModel(SpiralEncoder.from_preset("mini"), "m")


def test_layers_of_a_spiral(spiral):
    assert spiral.layers == ("conv1", "conv2", "conv3", "conv4", "cnn", "0", "1", "2", "3", "4")
    assert [spiral.hop(layer) for layer in spiral.layers] == [320, 640, 640, 1280, 1280, *[1280] * 5]
    assert spiral.local == "conv3" and spiral.receptive_field == spiral.encoder.config.min_samples
    out = spiral.encoder(WAVEFORMS, LENGTHS, return_cnn=True)
    found = spiral.activations(WAVEFORMS, LENGTHS, spiral.layers)
    for number, state in enumerate(out.features):
        assert torch.equal(found.states[str(number)], state)
    assert torch.equal(found.states["cnn"], out.cnn)
    frames = [found.lengths[layer].tolist() for layer in ("conv1", "conv2", "conv3", "cnn", "0", "4")]
    assert frames == [[50, 38], [25, 19], [25, 19], [13, 10], [13, 10], [13, 10]]
    alone = spiral.activations(WAVEFORMS[1:, :12_000], LENGTHS[1:], spiral.layers)
    for layer in spiral.layers:  # frames that count are the same alone
        rows, again = found.valid(layer)[1], alone.valid(layer)[0]
        torch.testing.assert_close(rows, again, atol=2e-5, rtol=1e-4)


def test_a_change_in_a_spiral_reaches_its_layer_and_those_above(spiral):
    before = spiral.activations(WAVEFORMS, LENGTHS, spiral.layers)
    generator = torch.Generator().manual_seed(1)
    for number, layer in enumerate(("input", *spiral.layers)):
        with spiral.injected(layer, lambda x: x + 0.1 * torch.randn(x.shape, generator=generator)):
            after = spiral.activations(WAVEFORMS, LENGTHS, spiral.layers)
        changed = [name for name in spiral.layers if not torch.equal(before.states[name], after.states[name])]
        assert changed == list(spiral.layers[max(0, number - 1) :])
    again = spiral.activations(WAVEFORMS, LENGTHS, spiral.layers)
    assert all(torch.equal(again.states[name], state) for name, state in before.states.items())
    assert spiral.random_twin(0).identity != spiral.identity
    assert spiral.random_twin(0).layers == spiral.layers
