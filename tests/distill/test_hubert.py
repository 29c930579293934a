"""The encoder: an utterance is the same alone and in any padded batch, and training behaves as configured."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torchaudio
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from distill.convolution import masked_instance_norm
from distill.hubert import PRESETS, HubertConfig, HubertEncoder
from distill.waveforms import frame_mask

SMALL = replace(
    PRESETS["mini"],
    conv_layers=tuple((24, kernel, stride) for _, kernel, stride in PRESETS["mini"].conv_layers),
    dim=32,
    layers=3,
    ffn_dim=64,
    position_kernel=16,
    position_groups=4,
    dropout=0.0,
    attention_dropout=0.0,
)
CONFIGS: dict[str, HubertConfig] = {
    "mini": PRESETS["mini"],
    "base": SMALL,
    "large": replace(SMALL, conv_norm="layer", conv_bias=True, normalize_input=True, pre_norm=True),
    "student": replace(SMALL, projection_norm=False, layers=1),
    "wavlm": replace(SMALL, relative_buckets=32, relative_distance=40, reuse_attention=True, pre_norm=True),
}
TOLERANCE = 2e-5  # 1e-4 is promised


def encoder(config: HubertConfig, **changes) -> HubertEncoder:
    """Random weights, norms included: at their initial ones and zeros a missing norm might not show."""
    torch.manual_seed(0)
    model = HubertEncoder(replace(config, **changes)).eval()
    for name, parameter in model.named_parameters():
        if "norm" in name:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    return model


def speech(*lengths: int) -> tuple[Tensor, Tensor]:
    """Random waveforms with an offset, loud noise (not zeros) in the padding."""
    generator = torch.Generator().manual_seed(len(lengths))
    waves = torch.randn(len(lengths), max(lengths), generator=generator) * 0.3 + 0.1
    for row, length in enumerate(lengths):
        waves[row, length:] = 5.0 * torch.randn(max(lengths) - length, generator=generator)
    return waves, torch.tensor(lengths)


@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_alone_as_in_a_padded_batch(name):
    model = encoder(CONFIGS[name])
    waves, lengths = speech(9000, 16_000, 400, 5333)
    batch = model(waves, lengths, return_cnn=True)
    for row, length in enumerate(lengths.tolist()):
        alone = model(waves[row : row + 1, :length], return_cnn=True)
        frames = alone.lengths.item()
        assert batch.lengths[row] == frames == alone.last_hidden_state.shape[1]
        pairs = [
            *zip(batch.hidden_states, alone.hidden_states, strict=True),
            (batch.last_hidden_state, alone.last_hidden_state),
            (batch.cnn, alone.cnn),
        ]
        for padded, expected in pairs:
            assert (padded[row, :frames] - expected[0]).abs().max() <= TOLERANCE


@pytest.mark.parametrize("name", CONFIGS)
def test_gradients_alone_as_in_a_padded_batch(name):
    model = encoder(CONFIGS[name])
    waves, lengths = speech(9000, 16_000, 400)
    gradients = []
    for inputs in (waves, waves[1:2]):
        model.zero_grad()
        out = model(inputs, lengths if len(inputs) > 1 else None)
        # hidden_states[0]: the post-norm last one has a layer norm over it, whose mean square is constant
        (out.hidden_states[0] if len(inputs) == 1 else out.hidden_states[0][1:2]).pow(3).mean().backward()
        gradients.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for key, gradient in gradients[0].items():
        scale = gradients[1][key].abs().max() + 1e-6
        assert ((gradient - gradients[1][key]).abs().max() / scale) < 1e-3, key


@pytest.mark.parametrize("name", CONFIGS)
def test_gradients_are_finite_and_reach_everything(name):
    model = encoder(CONFIGS[name]).train()
    waves, lengths = speech(9000, 400)
    waves[1] = 0.0  # silence, and an utterance of a single frame, whose variances are zero
    out = model(waves, lengths)
    out.last_hidden_state[frame_mask(out.lengths, out.last_hidden_state.shape[1])].pow(3).sum().backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), key


@torch.no_grad()
def test_full_lengths_equal_no_lengths():
    for config in CONFIGS.values():
        model = encoder(config)
        waves, lengths = speech(8000, 8000)
        with_lengths, without = model(waves, lengths), model(waves)
        assert torch.equal(with_lengths.lengths, without.lengths)
        assert (with_lengths.last_hidden_state - without.last_hidden_state).abs().max() <= TOLERANCE


def test_hidden_states():
    """L + 1 of them; the last one is normalised once more in pre-norm models only."""
    for config in CONFIGS.values():
        model = encoder(config)
        out = model(speech(4000)[0])
        assert len(out.hidden_states) == config.layers + 1 and out.cnn is None
        assert {state.shape for state in out.hidden_states} == {(1, 12, config.dim)}
        last = out.hidden_states[-1]
        expected = model.norm(last) if config.pre_norm else last
        assert torch.equal(out.last_hidden_state, expected)
        assert len(out.features) == len(out.hidden_states) and out.features[-1] is out.last_hidden_state
        assert all(a is b for a, b in zip(out.features[:-1], out.hidden_states[:-1], strict=True))


def test_presets():
    """As large as the models of torchaudio, whose released weights load into them."""
    with torch.device("meta"):
        for name, theirs in (
            ("base", torchaudio.models.hubert_base()),
            ("large", torchaudio.models.hubert_large()),
            ("wavlm_base", torchaudio.models.wavlm_base()),
            ("wavlm_large", torchaudio.models.wavlm_large()),
        ):
            found = sum(p.numel() for p in HubertEncoder.from_preset(name).parameters())
            assert found == sum(p.numel() for p in theirs.parameters())
    with pytest.raises(
        ValueError,
        match="unknown preset 'huge'; there are base, large, mini, wavlm_base, wavlm_large, wavlm_mini",
    ):
        HubertEncoder.from_preset("huge")


@given(samples=st.integers(400, 40_000))
@settings(max_examples=50, deadline=None)
def test_frames(samples):
    """Seven convolutions see 400 samples and hop 320: the closed form, on ints, tensors and arrays."""
    for config in PRESETS.values():
        assert config.receptive_field == 400 and config.hop == 320
        assert config.frames(samples) == (samples - 400) // 320 + 1
        for several in (torch.tensor([samples]), np.array([samples])):
            assert config.frames(several).item() == (samples - 400) // 320 + 1


@pytest.mark.parametrize("samples", [400, 719, 720, 721, 16_000])
def test_frames_are_what_comes_out(samples):
    model = encoder(SMALL)
    out = model(torch.randn(1, samples))
    assert out.last_hidden_state.shape[1] == out.lengths.item() == SMALL.frames(samples)


def test_a_frame_sees_its_receptive_field_and_no_more():
    """Layer norm in the convolutions: nothing there runs over time, so the CNN is local."""
    model = encoder(CONFIGS["large"], normalize_input=False)
    waves = torch.randn(1, 4000, requires_grad=True)
    cnn = model(waves, return_cnn=True).cnn
    assert cnn is not None
    cnn[0, 3].sum().backward()
    assert waves.grad is not None
    seen = waves.grad[0].nonzero().flatten()
    assert (seen.min().item(), seen.max().item()) == (3 * 320, 3 * 320 + 399)


@pytest.mark.parametrize(
    ("waves", "lengths", "message"),
    [
        (torch.zeros(1, 399), None, "of 399 samples is too short: a frame needs 400 samples"),
        (torch.zeros(2, 800), torch.tensor([800, 399]), "of 399 samples is too short"),
        (torch.zeros(800), None, r"waveforms must be \(B, T\), not \(800,\)"),
        (torch.zeros(1, 1, 800), None, r"waveforms must be \(B, T\)"),
        (torch.zeros(2, 800), torch.tensor([801, 800]), "lengths go up to 801, waveforms have 800 samples"),
        (torch.zeros(2, 800), torch.tensor([800]), r"lengths must be \(2,\)"),
    ],
)
def test_wrong_inputs(waves, lengths, message):
    with pytest.raises(ValueError, match=message):
        encoder(SMALL)(waves, lengths)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"conv_norm": "batch"}, "conv_norm"),
        ({"heads": 5}, r"dim \(32\) must be a multiple of heads \(5\)"),
        ({"position_groups": 5}, "position_groups"),
        ({"layers": 0}, "layers must be 1 to 1000"),
        ({"layers": 10**9}, "layers must be 1 to 1000"),
        ({"conv_layers": ((8, 3, 2),) * 101}, "1 to 100 convolutions"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\)"),
        ({"layerdrop": -0.1}, "layerdrop"),
    ],
)
def test_wrong_configurations(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(SMALL, **changes)


def test_dictionary_round_trip():
    for config in CONFIGS.values():
        assert HubertConfig(**config.to_dict()) == config


def gradients_of(model: HubertEncoder, waves: Tensor, lengths: Tensor) -> dict[str, Tensor]:
    torch.manual_seed(7)
    model.zero_grad()
    model(waves, lengths).last_hidden_state.pow(3).mean().backward()
    return {key: p.grad.clone() for key, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", ["base", "large"])
def test_activation_checkpointing_changes_no_gradient(name):
    """With dropout on: the recomputation must draw the same masks."""
    waves, lengths = speech(6000, 4000)
    plain = encoder(CONFIGS[name], dropout=0.2, attention_dropout=0.2, activation_dropout=0.2).train()
    spared = encoder(
        CONFIGS[name],
        dropout=0.2,
        attention_dropout=0.2,
        activation_dropout=0.2,
        activation_checkpointing=True,
    ).train()
    first, second = gradients_of(plain, waves, lengths), gradients_of(spared, waves, lengths)
    assert first.keys() == second.keys()
    for key, gradient in first.items():
        torch.testing.assert_close(gradient, second[key], rtol=1e-5, atol=1e-8)


def test_eval_has_no_dropout_and_drops_no_layer():
    noisy = dict.fromkeys(
        ("dropout", "attention_dropout", "activation_dropout", "projection_dropout", "layerdrop"), 0.9
    )
    model, quiet = encoder(SMALL, **noisy), encoder(SMALL)
    waves, lengths = speech(6000, 4000)
    with torch.no_grad():
        expected = quiet(waves, lengths).last_hidden_state
        assert torch.equal(model(waves, lengths).last_hidden_state, expected)
        assert not torch.equal(model.train()(waves, lengths).last_hidden_state, expected)


@pytest.mark.parametrize(
    "name", ["dropout", "attention_dropout", "activation_dropout", "projection_dropout", "layerdrop"]
)
def test_each_kind_of_dropout_does_something(name):
    model = encoder(SMALL, **{name: 0.9}).train()
    waves, _ = speech(6000)
    torch.manual_seed(0)
    with torch.no_grad():
        assert not torch.equal(model(waves).last_hidden_state, encoder(SMALL)(waves).last_hidden_state)


@torch.no_grad()
def test_the_transformer_s_input_is_without_dropout():
    """Where it is a target, a student would otherwise learn 0.9 of it (at a dropout of 0.1)."""
    model, (waves, _) = encoder(SMALL, dropout=0.5), speech(6000)
    expected, found = model(waves).hidden_states, model.train()(waves).hidden_states
    assert torch.equal(found[0], expected[0]) and not torch.equal(found[1], expected[1])


def test_a_dropped_layer_hands_on_its_input():
    torch.manual_seed(0)
    model = encoder(SMALL, layerdrop=0.999).train()
    states = model(speech(6000)[0]).hidden_states
    assert len(states) == 4 and all(torch.equal(state, states[0]) for state in states)
    states[-1].sum().backward()  # DDP waits for the gradient of every parameter
    assert all(p.grad is not None and not p.grad.any() for p in model.layers.parameters())


@pytest.mark.parametrize("name", ["base", "large"])
@pytest.mark.parametrize("padded", [True, False])
@torch.no_grad()
def test_compiles_without_a_graph_break(name, padded):
    """To convolutions as torch has them, while the model itself computes with matrix products on a CPU."""
    model = encoder(CONFIGS[name])
    waves, lengths = speech(6000, 4000)
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    given_lengths = lengths if padded else None
    found, expected = compiled(waves, given_lengths), model(waves, given_lengths)
    assert torch.equal(found.lengths, expected.lengths)
    valid = frame_mask(expected.lengths, expected.last_hidden_state.shape[1])
    difference = (found.last_hidden_state - expected.last_hidden_state)[valid].abs().max()
    assert difference <= TOLERANCE


def test_the_gradient_of_the_cnn_is_scaled():
    """By `cnn_grad_scale`, and only the CNN's; values stay."""
    waves, lengths = speech(6000, 4000)
    whole, tenth = encoder(SMALL), encoder(SMALL, cnn_grad_scale=0.1)
    with torch.no_grad():
        difference = whole(waves, lengths).last_hidden_state - tenth(waves, lengths).last_hidden_state
        assert difference.abs().max() <= TOLERANCE
    first, second = gradients_of(whole, waves, lengths), gradients_of(tenth, waves, lengths)
    for key, gradient in first.items():
        factor = 0.1 if key.startswith("cnn.") else 1.0
        scale = gradient.abs().max().item()
        torch.testing.assert_close(second[key], gradient * factor, rtol=0, atol=1e-4 * scale + 1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_scaling_the_gradient_leaves_the_values_alone(dtype):
    """To the last bit, also where a gradient is wanted, as in training."""
    waves, lengths = speech(6000, 3000)
    states = [
        encoder(SMALL, cnn_grad_scale=scale).to(dtype)(waves, lengths).last_hidden_state
        for scale in (1.0, 0.1)
    ]
    assert states[0].requires_grad and torch.equal(states[0][0], states[1][0])


def test_masked_frames_are_replaced():
    """A mask over everything leaves nothing of the input."""
    model = encoder(SMALL)
    first, _ = speech(6000)
    embedding = torch.randn(32)
    mask = torch.ones(1, 18, dtype=torch.bool)
    with torch.no_grad():
        a = model(first, mask=mask, mask_embedding=embedding).last_hidden_state
        b = model(first.flip(1), mask=mask, mask_embedding=embedding).last_hidden_state
        mask[0, 9:] = False
        c = model(first, mask=mask, mask_embedding=embedding).last_hidden_state
    assert torch.equal(a, b) and not torch.equal(a, c)


def test_group_norm_in_half_precision_keeps_its_statistics():
    """Long rows of large values overflow float16 sums: the statistics are float32."""
    norm = torch.nn.GroupNorm(4, 4)
    x = torch.randn(2, 4, 3000, generator=torch.Generator().manual_seed(0)) * 50 + 300
    expected = masked_instance_norm(x, torch.tensor([3000, 2000]), norm)
    found = masked_instance_norm(x.half(), torch.tensor([3000, 2000]), norm)
    assert found.dtype == torch.float16
    assert (found.float() - expected)[0].abs().max() < 0.01
    reference = torch.nn.functional.group_norm(x[1:, :, :2000], 4)
    torch.testing.assert_close(expected[1:, :, :2000], reference, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["base", "large"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
@torch.no_grad()
def test_waveforms_of_another_precision_are_converted(name, dtype):
    """float64 is what soundfile reads unless told otherwise."""
    model = encoder(CONFIGS[name])
    waves, lengths = speech(3000, 2000)
    waves = waves.to(dtype)
    expected, found = model(waves.float(), lengths), model(waves, lengths)
    assert found.last_hidden_state.dtype == torch.float32
    valid = frame_mask(found.lengths, found.last_hidden_state.shape[1])
    difference = (found.last_hidden_state - expected.last_hidden_state)[valid]
    assert difference.abs().max() <= TOLERANCE


@pytest.mark.parametrize("name", ["base", "large"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@torch.no_grad()
def test_a_model_in_half_precision(name, dtype):
    """With and without lengths, of loud and quiet speech: the features of float32 but for rounding."""
    whole, half = encoder(CONFIGS[name]), encoder(CONFIGS[name]).to(dtype)
    waves, lengths = speech(4000, 4000)
    for scale in (1.0, 1e-4) if CONFIGS[name].normalize_input else (1.0,):
        expected = whole(scale * waves).last_hidden_state
        for valid in (None, lengths):
            found = half(scale * waves, valid).last_hidden_state
            assert found.dtype == dtype
            error = (found.float() - expected).norm() / expected.norm()
            assert error < (0.03 if dtype == torch.bfloat16 else 0.01)


@pytest.mark.parametrize("name", ["base", "large"])
def test_padding_that_is_not_finite_counts_as_little_as_any(name):
    model = encoder(CONFIGS[name], cnn_grad_scale=0.1).train()
    waves, lengths = speech(3000, 2000)
    gradients = []
    for value in (0.0, float("nan")):
        waves[1, 2000:] = value
        model.zero_grad()
        out = model(waves, lengths)
        mask = frame_mask(out.lengths, out.last_hidden_state.shape[1])
        out.last_hidden_state[mask].pow(3).mean().backward()
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


@pytest.mark.parametrize("waves", [torch.zeros(1, 800, dtype=torch.int16), np.zeros((1, 800))])
def test_what_is_no_tensor_of_floating_point_is_refused(waves):
    with pytest.raises(
        ValueError, match="^waveforms must (hold floating-point samples|be a torch tensor)"
    ) as error:
        encoder(SMALL)(waves)
    assert "\n" not in str(error.value)
