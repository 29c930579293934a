"""Front ends of students: slim convolutions, and two over log-mel features in place of HuBERT's seven."""

import math

import pytest
import torch
import torch.nn.functional as F

from distill.hubert import HubertConfig, HubertEncoder, beyond_weights
from distill.spiral import SpiralEncoder
from distill.student import Student, front_fields
from distill.waveforms.logmel import LogMel


@pytest.fixture(scope="module")
def teacher() -> HubertEncoder:
    torch.manual_seed(0)
    return HubertEncoder.from_preset("mini").eval()


@pytest.fixture(scope="module")
def mel(teacher) -> Student:
    torch.manual_seed(1)
    return Student.from_teacher(teacher, targets=(2, 4, 6), front="mel").eval()


def test_slim_is_that_of_armhubert():
    """`conv_feature_layers` of its armhubert-s-960.yaml, written out."""
    layers = front_fields(HubertConfig(), "slim")["conv_layers"]
    assert layers == (
        *((128, 10, 5), (256, 1, 1)),
        *[(256, 3, 2)] * 4,
        (432, 1, 1),
        *[(432, 2, 2)] * 2,
    )
    slim = HubertConfig(conv_layers=layers)
    lengths = torch.arange(400, 3000)
    assert torch.equal(slim.frames(lengths), HubertConfig().frames(lengths))
    assert (slim.hop, slim.min_samples) == (320, 400)


def test_the_mel_front_is_two_convolutions_over_log_mels(mel):
    """In the words of torch: padded, layer norm over channels, GELU, with stride 2 the second time."""
    waves = torch.randn(2, 5000)
    x = LogMel(1, 80, per_band=False)(waves)[0].transpose(1, 2)  # (B, 80, M)
    for layer, stride, padding in zip(mel.encoder.cnn, (1, 2), (1, 0), strict=True):
        x = F.conv1d(x, layer.conv.weight, layer.conv.bias, stride, padding)
        x = F.layer_norm(x.transpose(1, 2), x.shape[1:2], layer.norm.weight, layer.norm.bias)
        x = F.gelu(x).transpose(1, 2)
    n_frames = (5000 - 400) // 320 + 1
    out = mel.encoder(waves, return_cnn=True)
    torch.testing.assert_close(out.cnn, x.transpose(1, 2)[:, :n_frames], rtol=1e-5, atol=1e-5)


def test_its_frames_are_the_teachers_and_always_exist(mel, teacher):
    for n_samples in range(400, 2001):
        n_frames = (n_samples - 400) // 320 + 1
        n_mels = math.ceil(n_samples / 160)
        last = 2 * (n_frames - 1) + 1  # the mel frame at the middle of the last frame: it and its neighbours
        assert last + 1 <= n_mels - 1, "the last frame sees no zeros but those of the first convolution"
        assert mel.encoder.config.frames(n_samples) == teacher.config.frames(n_samples) == n_frames
        if n_samples % 7 == 0 or n_samples in (400, 719, 720, 721, 1039, 1040):
            out = mel(torch.randn(1, n_samples))
            assert out.predictions.shape[2] == n_frames == int(out.lengths)
    config = mel.encoder.config
    assert (config.hop, config.min_samples, config.receptive_field) == (320, 400, 400)
    with pytest.raises(ValueError, match="an utterance of 399 samples is too short"):
        mel(torch.randn(1, 399))


def test_a_frame_is_centred_on_the_samples_of_the_teachers(mel):
    """Frame j hears mel frames 2 j - 1 to 2 j + 3, whose middle is at sample 320 j + 160: 2.5 ms beside."""
    encoder = mel.encoder
    waves = torch.full((1, 16_000), 1e-3)
    waves[0, 160 * 21] = 1.0
    energy = LogMel(1, 80, per_band=False)(waves)[0][0].sum(1)  # (M,)
    assert energy.argmax() == 21
    heard = []
    handle = encoder.logmel.register_forward_hook(
        lambda _module, _inputs, out: heard.append(out[0].requires_grad_())
    )
    out = encoder(torch.randn(1, 16_000), return_cnn=True)
    handle.remove()
    for j in (0, 10, 48):
        (gradient,) = torch.autograd.grad(out.cnn[0, j].square().sum(), heard[0], retain_graph=True)
        frames = gradient[0].abs().sum(1).nonzero().flatten().tolist()
        assert frames == [frame for frame in range(2 * j - 1, 2 * j + 4) if 0 <= frame < 100]


@pytest.mark.parametrize("front", ["slim", "mel"])
@torch.no_grad()
def test_alone_as_in_a_padded_batch(teacher, front):
    student = Student.from_teacher(teacher, targets=(2,), front=front).eval()
    lengths = torch.tensor([16_000, 400, 719, 9_123, 720, 15_999])
    waves = torch.randn(len(lengths), 16_000)
    for row, n_samples in enumerate(lengths.tolist()):
        waves[row, n_samples:] = float("nan")
    together = student(waves, lengths)
    for row, n_samples in enumerate(lengths.tolist()):
        alone = student(waves[row : row + 1, :n_samples])
        n_frames = alone.z.shape[1]
        assert int(together.lengths[row]) == n_frames
        torch.testing.assert_close(together.z[row, :n_frames], alone.z[0], rtol=1e-5, atol=1e-5)


def test_what_starts_with_the_teachers_weights(teacher, mel):
    theirs, ours = teacher.state_dict(), mel.encoder.state_dict()
    assert all(
        torch.equal(value, theirs[name]) for name, value in ours.items() if not name.startswith("cnn.")
    )
    assert mel.random_parts == ("cnn",)
    narrow = Student.from_teacher(teacher, targets=(2,), front="mel", front_channels=24)
    assert narrow.random_parts == ("cnn", "projection")
    assert narrow.encoder.projection.in_features == 24
    slim = Student.from_teacher(teacher, targets=(2,), front="slim")
    assert slim.random_parts == ("cnn", "projection")
    assert Student.from_teacher(teacher, targets=(2,)).random_parts == ()


def test_a_convolution_of_the_teachers_shape_is_not_taken_for_his():
    """The second one over log-mels is as large as the second one over samples."""
    teacher = HubertEncoder.from_preset("mini", conv_norm="layer", conv_bias=True)
    student = Student.from_teacher(teacher, targets=(2,), front="mel")
    theirs, ours = (model.state_dict()["cnn.1.conv.weight"] for model in (teacher, student.encoder))
    assert theirs.shape == ours.shape and not torch.equal(theirs, ours)


def test_every_weight_learns(mel):
    student = Student.from_dict(mel.to_dict())
    student(torch.randn(2, 4000), torch.tensor([4000, 3000])).predictions.square().mean().backward()
    silent = {name for name, p in student.named_parameters() if p.grad is None or not p.grad.abs().max()}
    assert not {name for name in silent if not name.endswith("key.bias")}  # which softmax cannot hear


def test_a_student_of_a_student_keeps_the_front(mel):
    again = Student.from_teacher(mel.encoder, layers=1, targets=(2,))
    assert again.encoder.config.front == "mel" and again.random_parts == ()


def test_descriptions(mel, teacher):
    assert "front" not in teacher.config.to_dict()  # as earlier versions wrote and read it
    described = mel.to_dict()
    assert described["encoder"]["front"] == "mel"
    assert Student.from_dict(described).encoder.config == mel.encoder.config
    assert "front=mel" in beyond_weights(mel.encoder.config) and "front" not in beyond_weights(teacher.config)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"front": "fbank"}, "front must be one of cnn, slim, mel, not 'fbank'"),
        ({"front": "slim", "front_channels": 8}, "front_channels is for front mel, not slim"),
    ],
)
def test_what_is_refused(teacher, options, message):
    with pytest.raises(ValueError, match=message):
        Student.from_teacher(teacher, targets=(2,), **options)


def test_teachers_without_hubert_s_frames_are_refused():
    other = HubertEncoder.from_preset("mini", conv_layers=((16, 10, 5), (16, 3, 4)))
    for front in ("slim", "mel"):
        with pytest.raises(ValueError, match=f"front {front} is for teachers with HuBERT's seven"):
            Student.from_teacher(other, targets=(2,), front=front)
        with pytest.raises(ValueError, match=f"front {front} is for students of HuBERT"):
            Student.from_teacher(SpiralEncoder.from_preset("mini"), targets=(2,), front=front)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"front": "wave"}, "front must be 'cnn' or 'mel'"),
        ({"front": "mel"}, r"front 'mel' has two convolutions, \(C, 3, 1\) and \(C, 3, 2\)"),
        ({"front": "mel", "conv_layers": ((8, 3, 1), (8, 3, 1))}, "front 'mel' has two convolutions"),
        ({"front": "mel", "conv_layers": ((8, 3, 1), (8, 3, 2)), "normalize_input": True}, "must be false"),
        (
            {"front": "mel", "conv_layers": ((8, 3, 1), (8, 3, 2)), "mel_bands": 0},
            "mel_bands must be 1 to 256",
        ),
        ({"front": "mel", "conv_layers": ((8, 3, 1), (8, 3, 2)), "mel_bands": 300}, "mel_bands must be"),
    ],
)
def test_configurations_that_no_model_has(changes, message):
    with pytest.raises(ValueError, match=message):
        HubertConfig(**changes)
