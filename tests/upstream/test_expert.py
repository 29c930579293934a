"""s3prl's contract, without s3prl: shapes, values, batches, gradients."""

import pytest
import torch

from distill import load_student
from distill.checkpoints import export
from distill.errors import CheckpointError
from distill.hubert import HubertEncoder
from distill.spiral.encoder import SpiralEncoder
from distill.student import Student
from distill.upstream.expert import UpstreamExpert
from tests.paths import GOLDEN


@pytest.fixture
def expert(student_folder) -> UpstreamExpert:
    return UpstreamExpert(student_folder).eval()


def noise(*n_samples: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(n, generator=generator) for n in n_samples]


def test_keys_and_shapes(expert):
    out = expert(noise(16_000, 9_000))
    assert set(out) == {"hidden_states", "last_hidden_state", "paper"}
    assert [tuple(h.shape) for h in out["hidden_states"]] == [(2, 49, 128)] * 3
    assert out["last_hidden_state"] is out["hidden_states"][-1] is out["paper"]
    assert expert.get_downsample_rates("hidden_states") == 320


def test_the_frame_rate_is_the_models(tmp_path):
    conv_layers = (*HubertEncoder.from_preset("mini").config.conv_layers, (32, 2, 2))
    slow = HubertEncoder.from_preset("mini", layers=1, conv_layers=conv_layers)
    expert = UpstreamExpert(export(slow, "native", tmp_path))
    assert expert.get_downsample_rates("hidden_states") == 640
    assert expert(noise(16_000))["last_hidden_state"].shape == (1, 24, 128)


def test_a_student_of_wavlm_that_uses_its_maps_twice(tmp_path):
    teacher = HubertEncoder.from_preset("wavlm_mini", layers=2)
    student = Student.from_teacher(teacher, layers=2, targets=(2,), reuse_attention=True)
    expert = UpstreamExpert(export(student, "native", tmp_path))
    wavs = noise(16_000, 9_000)
    together, alone = expert(wavs)["paper"], expert(wavs[1:])["paper"]
    torch.testing.assert_close(together[1, : alone.shape[1]], alone[0], atol=1e-5, rtol=0)


def test_a_student_is_its_encoder_without_heads(expert, student_folder):
    student = load_student(student_folder)
    wavs = noise(16_000)
    out = student(wavs[0][None])
    for ours, theirs in zip(expert(wavs)["hidden_states"], out.hidden_states, strict=True):
        torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(expert(wavs)["paper"], out.z)
    parameters = sum(p.numel() for p in expert.parameters())
    assert parameters == sum(p.numel() for p in student.encoder.parameters())
    assert not any("head" in name for name in expert.state_dict())


def test_the_last_state_of_a_pre_norm_model_is_behind_its_final_norm():
    expert = UpstreamExpert(GOLDEN / "hubert_large_fairseq.pt")
    wave = noise(16_000)
    out, raw = expert(wave), expert.model(wave[0][None])
    assert out["last_hidden_state"] is out["paper"] is out["hidden_states"][-1]
    torch.testing.assert_close(out["paper"], expert.model.norm(raw.hidden_states[-1]))


@pytest.mark.parametrize("size", ["base", "large"])
def test_a_fairseq_teacher_gives_fairseq_layers(size):
    expert = UpstreamExpert(GOLDEN / f"hubert_{size}_fairseq.pt")
    expected = torch.load(GOLDEN / f"hubert_{size}_expected.pt", weights_only=True)
    hidden_states = expert([expected["wave"][0], expected["wave"][1, :26_000]])["hidden_states"]
    assert len(hidden_states) == {"base": 5, "large": 6}[size]
    if size == "large":  # the last one comes after the final norm, see test_s3prl.py
        hidden_states = hidden_states[:-1]
    for layer, ours in enumerate(hidden_states[1:], 1):
        torch.testing.assert_close(ours[:1], expected[f"layer{layer}"][:1], atol=1e-4, rtol=1e-4)
        alone = expected[f"short_alone_layer{layer}"]  # fairseq's padded batch is another thing
        torch.testing.assert_close(ours[1:, : alone.shape[1]], alone, atol=1e-4, rtol=1e-4)


def test_alone_and_in_a_batch(expert):
    wavs = noise(16_000, 9_000, 5_500)
    batch = expert(wavs)["hidden_states"]
    for i, wav in enumerate(wavs):
        for together, alone in zip(batch, expert([wav])["hidden_states"], strict=True):
            frames = alone.shape[1]
            torch.testing.assert_close(together[i, :frames], alone[0], atol=1e-4, rtol=1e-4)
            rest = together[i, frames:]
            torch.testing.assert_close(rest, together[i, frames - 1].expand_as(rest), atol=0, rtol=0)


@pytest.mark.parametrize(
    ("wavs", "message"),
    [
        ([torch.zeros(800), torch.zeros(1, 900)], r"^wavs\[1\] is \(1, 900\), expected \(T,\)"),
        ([torch.zeros(800, dtype=torch.int16)], r"^wavs\[0\] must hold floating-point samples .* not int16"),
        ([], "^wavs is empty"),
    ],
)
def test_what_cannot_be_heard_is_named_as_it_was_given(expert, wavs, message):
    with pytest.raises(ValueError, match=message):
        expert(wavs)


def test_double_precision_is_converted(expert):
    (wav,) = noise(4000)
    torch.testing.assert_close(expert([wav.double()])["paper"], expert([wav])["paper"])


def test_utterances_shorter_than_a_frame(expert):
    out = expert(noise(100, 16_000))["hidden_states"]
    padded = torch.nn.functional.pad(noise(100, 16_000)[0], (0, 300))
    torch.testing.assert_close(out[-1][0, :1], expert([padded])["paper"][0], atol=1e-4, rtol=1e-4)
    assert expert(noise(100))["paper"].shape == (1, 1, 128)


def test_frozen_and_trainable(expert):
    wavs = noise(4_000, 3_000)
    with torch.no_grad():
        first, second = expert(wavs)["paper"], expert(wavs)["paper"]
    assert torch.equal(first, second)
    assert not first.requires_grad
    expert.train()
    out = expert(wavs)["hidden_states"]
    assert not torch.equal(out[-1], expert(wavs)["paper"])  # dropout
    torch.stack(out).square().mean().backward()
    for name, parameter in expert.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


def test_it_loads_in_eval_mode_and_ignores_what_s3prl_adds(student_folder):
    expert = UpstreamExpert(ckpt=str(student_folder), model_config=None, refresh=False)
    assert not any(module.training for module in expert.modules())


def test_an_exported_student_without_heads(student_folder, tmp_path, expert):
    export(load_student(student_folder), "huggingface", tmp_path / "hf")
    wavs = noise(8_000)
    torch.testing.assert_close(UpstreamExpert(tmp_path / "hf")(wavs)["paper"], expert(wavs)["paper"])


def test_a_missing_checkpoint(tmp_path):
    with pytest.raises(CheckpointError, match="does not exist"):
        UpstreamExpert(tmp_path / "nothing")


@torch.no_grad()
def test_a_spiral_has_a_frame_every_80_ms_alone_and_in_a_batch(tmp_path):
    torch.manual_seed(0)
    encoder = SpiralEncoder.from_preset("mini").eval()
    expert = UpstreamExpert(export(encoder, "native", tmp_path)).eval()
    assert expert.get_downsample_rates("hidden_states") == 1280
    wavs = noise(24_080, 9_000, 1)
    out = expert(wavs)
    assert [tuple(h.shape) for h in out["hidden_states"]] == [(3, 19, 128)] * 5
    assert out["paper"] is out["last_hidden_state"] is out["hidden_states"][-1]
    for row, wav in enumerate(wavs):
        alone = expert([wav])["last_hidden_state"][0]
        torch.testing.assert_close(out["paper"][row, : len(alone)], alone, atol=2e-4, rtol=0)
    torch.testing.assert_close(
        out["paper"][0], encoder(wavs[0][None]).last_hidden_state[0], atol=2e-4, rtol=0
    )
    assert torch.equal(out["paper"][2, 1:], out["paper"][2, :1].expand(18, -1))  # the last frame is repeated
