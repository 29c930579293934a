"""SPIRAL's encoder against the reference's activations, and an utterance alone against itself in a batch."""

import zlib

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from distill.spiral import SpiralConfig, SpiralEncoder
from distill.spiral.heads import Predictor, Projection
from tests.distill.spiral.reference import close, encoder_of, encoder_state, golden


def parameters(module):
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    ("preset", "encoder", "width", "student"),
    [("base", 90_617_216, 256, 91_536_256), ("large", 283_869_056, 512, 287_280_000)],
)
def test_full_sizes(preset, encoder, width, student):
    with torch.device("meta"):
        model = SpiralEncoder.from_preset(preset)
        heads = Projection(model.config.dim, width), Predictor(width)
    assert parameters(model) == encoder
    assert sum(map(parameters, (model, *heads))) == student
    assert model.config.hop == 1280 and model.config.frames(160_000) == 125


def test_every_activation_is_the_reference_s():
    found = golden("encoder")
    encoder = encoder_of(found)
    features = F.pad(found["features"], (0, -found["features"].shape[2] % 8)).transpose(1, 2)
    seen = {}
    for name, module in encoder.named_modules():
        if name.startswith("block") and name.count(".") in (0, 2):
            module.register_forward_hook(lambda _, __, out, name=name: seen.update({name: out}))
    with torch.no_grad():
        out = encoder.encode(features, found["lengths"], return_cnn=True)
    assert out.lengths.tolist() == found["out_lengths"].tolist()
    places = ["block1.convs.0", "block1.convs.1", "block1.convs.2", None]
    places += ["block2.convs.0", "block2.convs.1", None]
    for place, theirs, lengths in zip(places, found["blocks"], found["block_lengths"], strict=True):
        for row, n in enumerate(lengths.tolist()):
            if place is not None:
                close(seen[place][row, :n], theirs[row, :, :n].T)
    for row, n in enumerate(out.lengths.tolist()):
        close(out.last_hidden_state[row, :n], found["encoder_out"][row, :, :n].T)
        for ours, theirs in zip(out.hidden_states, found["transformer_layers"][1], strict=True):
            close(ours[row, :n], theirs[row, :n])


def test_full_size_equals_the_reference():
    found = golden("full_size")

    def drawn(name, shape, seed=None):
        seed = zlib.crc32(name.encode()) if seed is None else seed
        z = np.random.RandomState(seed).standard_normal(int(np.prod(shape))).astype(np.float32)
        return torch.from_numpy(z).reshape(tuple(shape))

    def value(name, shape):
        z = drawn(name, shape)
        if name.endswith(("weight_g", "norm.weight")):
            return 1 + 0.1 * z
        return 0.02 * z if len(shape) == 1 else z / float(np.sqrt(np.prod(shape[1:])))

    shapes = {name: tuple(shape) for name, shape in found["names_and_shapes"]}
    wanted = [name for name in shapes if name.startswith("feature_encoder.")]
    state = {name: value(name, shapes[name]) for name in wanted}
    state["mask_emb"] = torch.zeros(128)
    features = drawn("", found["features_shape"], found["features_seed"])
    features[1, :, found["lengths"][1] :] = 0
    with torch.device("meta"):
        encoder = SpiralEncoder.from_preset("base")
    encoder.load_state_dict(encoder_state(state), assign=True)
    encoder.eval()
    with torch.no_grad():
        out = encoder.encode(F.pad(features, (0, -features.shape[2] % 8)).transpose(1, 2), found["lengths"])
    for row, n in enumerate(found["out_lengths"].tolist()):
        close(out.last_hidden_state[row, :n], found["encoder_out"][row, :, :n].T)


@pytest.mark.parametrize("longest", [24_001, 24_080, 24_159])
def test_alone_equals_in_a_batch(longest):
    torch.manual_seed(0)
    encoder = SpiralEncoder.from_preset("mini").eval()
    lengths = torch.tensor([longest, 17_000, 1_000])
    waves = torch.randn(3, longest) * 0.1
    with torch.no_grad():
        batch = encoder(waves, lengths)
        for row, n in enumerate(lengths.tolist()):
            alone = encoder(waves[row : row + 1, :n])
            frames = encoder.config.frames(n)
            assert batch.lengths[row] == alone.lengths[0] == alone.last_hidden_state.shape[1] == frames
            for ours, theirs in zip(alone.features, batch.features, strict=True):
                torch.testing.assert_close(ours[0], theirs[row, :frames], atol=3e-5, rtol=1e-4)


@torch.no_grad()
def test_the_transformer_s_input_is_without_dropout():
    block = SpiralEncoder.from_preset("mini", dropout=0.5).block2.eval()
    x = torch.randn(1, 9, block.config.dim, generator=torch.Generator().manual_seed(0))
    expected, found = block.transform(x, None)[0], block.train().transform(x, None)[0]
    assert torch.equal(found[0], expected[0]) and not torch.equal(found[1], expected[1])


def test_masks_hide_time_then_channels():
    encoder = SpiralEncoder.from_preset("mini").eval()
    waves = torch.randn(1, 16_000)
    m, c = encoder.config.mask_shape(16_000)
    features, _ = encoder.features(waves)
    assert features.shape == (1, m, c) == (1, 104, 128)
    time, channels = torch.zeros(1, m, dtype=torch.bool), torch.zeros(1, c, dtype=torch.bool)
    time[0, 10:30], channels[0, :5] = True, True
    masked = encoder.masked(features, time, channels)
    assert torch.equal(masked[0, 20, 5:], encoder.mask_embedding[5:]) and not masked[..., :5].any()
    assert torch.equal(masked[0, 40:, 5:], features[0, 40:, 5:])
    with torch.no_grad():
        out = encoder(waves, mask=time, mask_channels=channels)
        assert torch.equal(
            out.last_hidden_state, encoder.encode(masked, torch.tensor([100])).last_hidden_state
        )


def test_the_mask_embedding_is_the_same_in_every_model():
    one, two = (SpiralEncoder.from_preset("mini") for _ in range(2))
    assert torch.equal(one.mask_embedding, two.mask_embedding)
    assert float(one.mask_embedding.std()) == pytest.approx(0.0086, rel=0.15)
    assert "mask_embedding" in one.state_dict()


def test_first_layers_are_the_teacher_s():
    teacher = SpiralEncoder.from_preset("mini").eval()
    student = teacher.first_layers(2, dropout=0.0, attention_dropout=0.0, cnn_grad_scale=0.1).eval()
    waves = torch.randn(2, 8_000)
    with torch.no_grad():
        ours, theirs = student(waves).hidden_states, teacher(waves).hidden_states
    assert len(ours) == 3
    for one, other in zip(ours, theirs, strict=False):
        assert torch.equal(one, other)
    with pytest.raises(ValueError, match="projection_dropout must be 0"):
        teacher.first_layers(1, projection_dropout=0.1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heads": 5}, r"dim \(768\) must be a multiple of heads \(5\)"),
        ({"layers": 0}, "layers must be 1 to 1000"),
        ({"conv_layers": ()}, "conv_layers must be 1 to 100 convolutions"),
        ({"conv_layers": ((4, 3, 2),)}, "conv_layers must have kernels"),
        ({"dropout": 1.0}, "dropout must be in"),
    ],
)
def test_impossible_models(changes, message):
    with pytest.raises(ValueError, match=message):
        SpiralConfig(**changes)


def test_what_is_too_short_is_refused():
    encoder = SpiralEncoder.from_preset("mini")
    with pytest.raises(ValueError, match="160 samples is too short: a frame needs 161"):
        encoder(torch.randn(1, 160))
    assert encoder.eval()(torch.randn(1, 161)).lengths.tolist() == [1]
