"""The student: its size, what it inherits, its heads, and what is refused."""

import json

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from distill.hubert import INHERITED, HubertConfig, HubertEncoder
from distill.spiral import SpiralEncoder
from distill.student import PredictionHeads, Student


@pytest.fixture(scope="module")
def base() -> HubertEncoder:
    return HubertEncoder.from_preset("base")


@pytest.fixture(scope="module")
def mini() -> HubertEncoder:
    torch.manual_seed(0)
    return HubertEncoder.from_preset("mini").eval()


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(("layers", "millions"), [(1, 19.9), (2, 27.0), (3, 34.1)])
def test_parameters_of_the_papers_students(base, layers, millions):
    student = Student.from_teacher(base, layers=layers)
    assert round(count(student) / 1e6, 1) == millions
    # By the arithmetic of the architecture: CNN, projection, positional convolution, norm, layers, heads.
    cnn = 512 * 10 + 2 * 512 + 4 * 512 * 512 * 3 + 2 * 512 * 512 * 2
    front = cnn + (512 * 768 + 768) + (768 * 48 * 128 + 128 + 768) + 2 * 768
    layer = 4 * (768 * 768 + 768) + (768 * 3072 + 3072) + (3072 * 768 + 768) + 4 * 768
    heads = (768 * 3 * 768 + 3 * 768) + 3 * (768 * 768 + 768)
    assert count(student.encoder) == front + layers * layer
    assert count(student.heads) == heads
    if layers == 2:
        assert round(count(student.encoder) / 1e6, 1) == 23.5


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_it_starts_as_the_teachers_first_layers_bit_for_bit(mini, layers):
    student = Student.from_teacher(mini, layers=layers, targets=(2, 4, 6))
    theirs, ours = mini.state_dict(), student.encoder.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    left_out = theirs.keys() - ours.keys()
    deeper = tuple(f"layers.{index}." for index in range(layers, 6))
    assert {name for name in left_out if not name.startswith(deeper)} == {
        "projection_norm.weight",
        "projection_norm.bias",
    }
    assert not any(name.startswith(deeper) for name in ours)


def test_it_shares_no_memory_with_the_teacher(mini):
    student = Student.from_teacher(mini, targets=(2,))
    theirs = {p.data_ptr() for p in mini.parameters()}
    assert not theirs & {p.data_ptr() for p in student.parameters()}


def test_there_is_no_norm_before_the_projection(mini):
    student = Student.from_teacher(mini, targets=(2,)).eval()
    assert student.encoder.projection_norm is None
    out = student.encoder(torch.randn(1, 4000), return_cnn=True)
    # The transformer's input, rebuilt by hand from the CNN's output.
    x = student.encoder.projection(out.cnn)
    x = student.encoder.norm(x + student.encoder.position(x))
    torch.testing.assert_close(x, out.hidden_states[0])


def test_masks_and_the_cnns_output_are_those_of_the_encoder(mini):
    student = Student.from_teacher(mini, targets=(2,)).eval()
    waves = torch.randn(2, 4000)
    mask, embedding = torch.zeros(2, 12, dtype=torch.bool), torch.randn(128)
    mask[0, 3:7] = True
    made = student(waves, return_cnn=True, mask=mask, mask_embedding=embedding)
    expected = student.encoder(waves, return_cnn=True, mask=mask, mask_embedding=embedding)
    assert torch.equal(made.cnn, expected.cnn)
    assert torch.equal(made.z, expected.last_hidden_state)
    plain = student(waves)
    assert plain.cnn is None
    assert not torch.allclose(plain.z[0], made.z[0])
    torch.testing.assert_close(plain.z[1], made.z[1])


def test_regularisation_is_the_students_own(mini):
    student = Student.from_teacher(
        mini,
        targets=(2,),
        dropout=0.2,
        attention_dropout=0.3,
        activation_dropout=0.4,
        projection_dropout=0.6,
        cnn_grad_scale=0.5,
        activation_checkpointing=True,
    )
    config = student.encoder.config
    assert (config.dropout, config.attention_dropout, config.activation_dropout) == (0.2, 0.3, 0.4)
    assert config.projection_dropout == 0.6
    assert (config.layerdrop, config.cnn_grad_scale, config.activation_checkpointing) == (0.0, 0.5, True)


def test_nothing_is_inherited_but_what_weights_need(mini):
    """From a teacher that differs from the defaults in every field but the front end (`test_front`)."""
    config = HubertConfig(
        conv_layers=((16, 10, 5), (16, 3, 4)),
        conv_norm="layer",
        conv_bias=True,
        normalize_input=True,
        projection_norm=False,
        dim=32,
        layers=5,
        heads=4,
        ffn_dim=48,
        pre_norm=True,
        position_kernel=16,
        position_groups=4,
        dropout=0.31,
        attention_dropout=0.32,
        activation_dropout=0.33,
        projection_dropout=0.34,
        layerdrop=0.35,
        cnn_grad_scale=0.36,
        activation_checkpointing=True,
        reuse_attention=True,
        relative_buckets=32,
        relative_distance=80,
    )
    usual, given = vars(HubertConfig()), vars(config)
    assert [name for name in usual if given[name] == usual[name]] == ["front", "mel_bands"]
    made = Student.from_teacher(HubertEncoder(config), layers=2, targets=(5,), reuse_attention=True)
    student = vars(made.encoder.config)
    own = {
        "layers": 2,
        "projection_norm": False,
        "dropout": 0.1,
        "attention_dropout": 0.1,
        "activation_dropout": 0.1,
        "projection_dropout": 0.0,
        "layerdrop": 0.0,
        "cnn_grad_scale": 0.1,
        "activation_checkpointing": False,
        "reuse_attention": True,  # as asked for
    }
    assert student == {name: own.get(name, given[name]) for name in given}
    assert own.keys().isdisjoint(INHERITED) and own.keys() | set(INHERITED) == given.keys()


def test_output(mini):
    student = Student.from_teacher(mini, layers=2, targets=(6, 1)).eval()
    out = student(torch.randn(2, 8000), torch.tensor([8000, 5000]))
    assert out.predictions.shape == (2, 2, 24, 128)
    assert len(out.hidden_states) == 3 and out.z is out.hidden_states[2]
    assert out.lengths.tolist() == [24, 15]
    torch.testing.assert_close(out.predictions, student.heads(out.z))


def test_heads_are_a_shared_expansion_and_a_linear_each():
    torch.manual_seed(1)
    heads = PredictionHeads(6, 10, 3)
    z = torch.randn(2, 5, 6)
    hidden = F.gelu(heads.expand(z))  # (B, F, 3 * 10)
    for index in range(3):
        linear = nn.Linear(10, 10)
        linear.weight.data, linear.bias.data = heads.weight[index].T, heads.bias[index, 0]
        expected = linear(hidden[:, :, 10 * index : 10 * (index + 1)])
        torch.testing.assert_close(heads(z)[:, index], expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"targets": (4, 8, 12)}, "the teacher has layers 1 to 6, not 8, 12"),
        ({"targets": (0, 2)}, "the teacher has layers 1 to 6, not 0"),
        ({"targets": ()}, "targets is empty"),
        ({"targets": (6, 2, 2)}, "2 is there twice"),
        ({"targets": (2,), "layers": 7}, "layers is 7, but the teacher has 6"),
        ({"targets": (2,), "layers": 0}, "layers is 0"),
        ({"targets": (2,), "dropout": 1.0}, "dropout must be in"),
    ],
)
def test_what_the_teacher_cannot_give_is_refused(mini, options, message):
    with pytest.raises(ValueError, match=message):
        Student.from_teacher(mini, **options)


def test_attention_maps_used_twice(mini):
    """Layers 2, 4, ... have no query and key; everything else is the teacher's."""
    student = Student.from_teacher(mini, layers=4, targets=(6,), reuse_attention=True)
    theirs, ours = mini.state_dict(), student.encoder.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    whole = Student.from_teacher(mini, layers=4, targets=(6,)).encoder.state_dict()
    parts = [f"{name}.{leaf}" for name in ("query", "key") for leaf in ("weight", "bias")]
    assert whole.keys() - ours.keys() == {f"layers.{index}.{part}" for index in (1, 3) for part in parts}
    student.eval()
    waves, lengths = torch.randn(3, 9_000), torch.tensor([9_000, 6_000, 3_000])
    together = student(waves, lengths)
    for row, length in enumerate(lengths.tolist()):
        alone = student(waves[row : row + 1, :length]).z[0]
        torch.testing.assert_close(together.z[row, : len(alone)], alone, atol=1e-5, rtol=0)
    again = Student.from_dict(json.loads(json.dumps(student.to_dict())))
    assert again.encoder.config == student.encoder.config
    with pytest.raises(ValueError, match="no query and key projections to start from"):
        Student.from_teacher(student.encoder, layers=2, targets=(4,))
    with pytest.raises(ValueError, match="this is a SPIRAL"):
        Student.from_teacher(SpiralEncoder.from_preset("mini"), targets=(4,), reuse_attention=True)


def test_dictionary_round_trip(mini):
    student = Student.from_teacher(mini, layers=2, targets=(2, 6)).eval()
    again = Student.from_dict(json.loads(json.dumps(student.to_dict()))).eval()
    assert again.to_dict() == student.to_dict()
    assert again.encoder.config == student.encoder.config and again.targets == (2, 6)
    again.load_state_dict(student.state_dict())
    waves = torch.randn(1, 4000)
    assert torch.equal(again(waves).predictions, student(waves).predictions)


def test_a_pre_norm_teacher_gives_a_student_too():
    teacher = HubertEncoder.from_preset("mini", pre_norm=True, conv_norm="layer", normalize_input=True)
    student = Student.from_teacher(teacher, layers=1, targets=(6,))
    out = student(torch.randn(1, 4000))
    assert out.predictions.shape == (1, 1, 12, 128)
    torch.testing.assert_close(out.z, student.encoder.norm(out.hidden_states[-1]))
    torch.testing.assert_close(out.predictions, student.heads(out.z))
    out.predictions.square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in student.encoder.norm.parameters())


def test_a_spiral_student_is_block_1_and_the_first_layers_of_block_2():
    torch.manual_seed(0)
    teacher = SpiralEncoder.from_preset("mini").eval()
    student = Student.from_teacher(teacher, layers=2, targets=(2, 4), cnn_grad_scale=1.0)
    theirs, ours = teacher.state_dict(), student.encoder.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    assert {name.split(".")[2] for name in theirs.keys() - ours.keys()} == {"2", "3"}
    out = student.eval()(torch.randn(2, 16_000), torch.tensor([16_000, 9_000]))
    assert out.predictions.shape == (2, 2, 13, 128) and out.lengths.tolist() == [13, 8]
    again = Student.from_dict(json.loads(json.dumps(student.to_dict())))
    again.load_state_dict(student.state_dict())
    assert again.to_dict() == student.to_dict() and again.encoder.config == student.encoder.config
