"""The spectral mask: its frames are the student's, its error is the formula's, padding changes nothing."""

import numpy as np
import pytest
import scipy.signal
import torch

from distill.hubert import HubertEncoder
from distill.objective.enhancement import Enhancement
from distill.options import EnhancementConfig
from distill.spiral import SpiralEncoder
from distill.student import Student
from tests.distill.ddp_worker import SMALL, SPIRAL

LENGTHS = torch.tensor([4000, 2500, 900])
HUBERT = HubertEncoder.from_preset("mini", **SMALL).config
CONFIGS = {"hubert": HUBERT, "spiral": SpiralEncoder.from_preset("mini", **SPIRAL).config}
MIDDLES = {"hubert": 200, "spiral": 160 * 7}  # of the first frame: test_the_middle_of_a_frame
NONE_LEFT_OUT = torch.zeros(3, dtype=torch.bool)


def head(config=HUBERT, **changes) -> Enhancement:
    torch.manual_seed(0)
    return Enhancement(EnhancementConfig(**{"dim": 4, "layers": 2, **changes}), config)


def inputs(config=HUBERT) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Features (B, F, D), what is heard and clean speech (B, T)."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(3, config.frames(4000), config.dim, generator=generator)
    heard, clean = (0.1 * torch.randn(3, 4000, generator=generator) for _ in range(2))
    return features, heard, clean


@pytest.mark.parametrize("family", CONFIGS)
def test_spectra_are_those_of_windows_around_the_frames(family):
    config = CONFIGS[family]
    module, (_, heard, _) = head(config), inputs(config)
    found = module.spectrogram(heard, LENGTHS, config.frames(4000))
    size = 2 * config.hop
    window = scipy.signal.get_window("hann", size)
    assert found.shape == (3, config.frames(4000), size // 2 + 1)
    for row, length in enumerate(LENGTHS.tolist()):
        samples = np.concatenate([np.zeros(size), heard[row, :length].double().numpy(), np.zeros(2 * size)])
        for frame in range(config.frames(length)):
            start = size + frame * config.hop + MIDDLES[family] - config.hop
            expected = np.abs(np.fft.rfft(samples[start : start + size] * window))
            np.testing.assert_allclose(found[row, frame].numpy(), expected, atol=1e-4)


@pytest.mark.parametrize("front", ["cnn", "slim", "mel"])
def test_the_middle_of_a_frame_of_hubert(front):
    """As gradients show it."""
    teacher = HubertEncoder.from_preset("mini", layers=1, conv_norm="layer", conv_bias=True)
    encoder = Student.from_teacher(teacher, layers=1, targets=(1,), front=front).encoder.eval()
    waves = torch.randn(1, 6400, generator=torch.Generator().manual_seed(0)).requires_grad_()
    heard = waves if front != "mel" else torch.zeros(0)
    if front == "mel":  # normalised over the utterance: the convolutions alone
        heard = torch.randn(1, 40, 80, requires_grad=True)
        features = encoder._convolved_mels(lambda *_: (heard, None), waves, None)
    else:
        features = encoder(waves, return_cnn=True).cnn
    features[0, 9].sum().backward()
    reached = heard.grad.reshape(heard.shape[1], -1).abs().sum(1).nonzero()
    middle = float(reached.min() + reached.max()) / 2
    middle = middle * 160 if front == "mel" else middle + 0.5
    assert middle == pytest.approx(9 * encoder.config.hop + encoder.config.middle, abs=0.5)


def test_the_middle_of_a_frame_of_spiral():
    encoder = SpiralEncoder.from_preset("mini").eval()
    mels = torch.randn(1, 80, encoder.config.bands, requires_grad=True)
    features = encoder.block2.convolve(encoder.block1.convolve(mels, None)[0], None)[0]
    features[0, 5].sum().backward()
    reached = mels.grad[0].abs().sum(1).nonzero()
    middle = int(reached.min() + reached.max()) // 2  # the mel frame around this times 160 samples
    assert encoder.config.middle == MIDDLES["spiral"] and 160 * middle == 5 * 1280 + MIDDLES["spiral"]


def test_the_loss_is_the_relative_distance_written_out():
    module, (features, heard, clean) = head(), inputs()
    noisy, target = (module.spectrogram(x, LENGTHS, features.shape[1]) for x in (heard, clean))
    total = 0.0
    with torch.no_grad():
        for row, length in enumerate(LENGTHS.tolist()):
            frames = HUBERT.frames(length)
            hidden, _ = module.rnn(features[row : row + 1, :frames])
            mask = torch.sigmoid(module.mask(hidden))[0]
            error = sum(float((mask[f] * noisy[row, f] - target[row, f]).abs().mean()) for f in range(frames))
            total += error / float(target[row, :frames].mean())
        found = module(features, heard, clean, LENGTHS, NONE_LEFT_OUT, 7.0)
    assert float(found) == pytest.approx(total / 7.0, rel=1e-4)


def test_utterances_that_are_left_out_count_zero():
    module, given = head(), inputs()
    left_out = torch.tensor([False, True, False])
    with torch.no_grad():
        every = module(*given, LENGTHS, NONE_LEFT_OUT, 1.0)
        some = module(*given, LENGTHS, left_out, 1.0)
        other = module(*(x[1:2, :] for x in given), LENGTHS[1:2], NONE_LEFT_OUT[:1], 1.0)
    torch.testing.assert_close(some + other, every)


@pytest.mark.parametrize("value", [1e3, float("nan")])
def test_the_padding_changes_neither_loss_nor_gradient(value):
    def gradient(spoilt: bool):
        module, (features, heard, clean) = head(), inputs()
        if spoilt:
            for row, length in enumerate(LENGTHS.tolist()):
                heard[row, length:], clean[row, length:] = value, value
                features[row, HUBERT.frames(length) :] = value
        features.requires_grad_()
        loss = module(features, heard, clean, LENGTHS, NONE_LEFT_OUT, 3.0)
        loss.backward()
        return [loss.detach(), features.grad, *(p.grad for p in module.parameters())]

    torch.testing.assert_close(gradient(True), gradient(False))


def test_the_level_of_the_speech_does_not_matter():
    module, (features, heard, clean) = head(), inputs()
    with torch.no_grad():
        loud, quiet = (
            module(features, gain * heard, gain * clean, LENGTHS, NONE_LEFT_OUT, 1.0) for gain in (1.0, 0.1)
        )
    torch.testing.assert_close(loud, quiet, rtol=1e-3, atol=0.0)


def test_its_place_decides_its_width_and_a_spiral_has_no_cnn():
    assert head().rnn.input_size == HUBERT.dim
    assert head(place="cnn").rnn.input_size == HUBERT.conv_layers[-1][0]
    with pytest.raises(ValueError, match="objective.enhancement.place: .* set it to last"):
        head(CONFIGS["spiral"], place="cnn")
