"""Thin and deep students, and heads that predict layer from layer."""

import json

import pytest
import torch
from torch import nn

from distill.hubert import HubertEncoder
from distill.objective import distillation_loss
from distill.student import LayerHeads, Student, check_targets


@pytest.fixture(scope="module")
def mini() -> HubertEncoder:
    torch.manual_seed(0)
    return HubertEncoder.from_preset("mini").eval()


def test_heads_are_a_linear_each():
    torch.manual_seed(1)
    heads, layers = LayerHeads(6, 10, 3), torch.randn(2, 3, 5, 6)
    for index in range(3):
        linear = nn.Linear(6, 10)
        linear.weight.data, linear.bias.data = heads.weight[index].T, heads.bias[index, 0]
        torch.testing.assert_close(heads(layers)[:, index], linear(layers[:, index]))


@pytest.mark.parametrize(
    ("layers", "targets", "sources"),
    [
        (6, "all", (1, 2, 3, 4, 5, 6)),
        (3, (2, 6), (1, 3)),
        (2, (0, 3, 6), (0, 1, 2)),  # with the transformer's input
        (4, (3, 6), (2, 4)),
        (1, (6,), (1,)),
    ],
)
def test_each_target_is_predicted_from_the_same_relative_depth(mini, layers, targets, sources):
    student = Student.from_teacher(mini, layers=layers, targets=targets, layer_to_layer=True).eval()
    assert student.sources == sources
    out = student(torch.randn(2, 4000), torch.tensor([4000, 3000]))
    assert out.predictions.shape == (2, len(sources), 12, 128)
    for index, source in enumerate(sources):
        expected = out.hidden_states[source] @ student.heads.weight[index] + student.heads.bias[index]
        torch.testing.assert_close(out.predictions[:, index], expected)


def test_of_a_pre_norm_student_the_last_source_is_behind_the_final_norm():
    teacher = HubertEncoder.from_preset("mini", pre_norm=True, conv_norm="layer", normalize_input=True)
    student = Student.from_teacher(teacher, layers=6, targets="all").eval()
    out = student(torch.randn(1, 4000))
    expected = out.z @ student.heads.weight[5] + student.heads.bias[5]
    torch.testing.assert_close(out.predictions[:, 5], expected)


def test_a_thin_student_predicts_the_teachers_width_and_learns(mini):
    torch.manual_seed(2)
    student = Student.from_teacher(mini, layers=6, targets="all", dim=48, dropout=0.0)
    assert student.random_parts == ("layers", "norm", "position", "projection")
    config = student.encoder.config
    assert (config.dim, config.heads, config.ffn_dim) == (48, 4, 192)  # 48 is no multiple of heads of 32
    waves = torch.randn(2, 8000)
    with torch.no_grad():
        targets = torch.stack(mini(waves).features[1:], dim=1)
    optimizer = torch.optim.Adam(student.parameters(), 1e-3)
    losses = []
    for _ in range(6):
        out = student(waves)
        assert out.predictions.shape == targets.shape
        loss = distillation_loss(out.predictions, targets, out.lengths, cosine_weight=1.0).total
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss))
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(
    ("options", "heads", "ffn_dim", "random"),
    [
        ({"dim": 64}, 2, 256, ("layers", "norm", "position", "projection")),
        ({"dim": 48}, 4, 192, ("layers", "norm", "position", "projection")),
        ({"dim": 128}, 4, 512, ()),  # the teacher's own
        ({"heads": 8}, 8, 512, ("layers",)),  # weights of this shape would be of other heads
        ({"ffn_dim": 96}, 4, 96, ("layers",)),
    ],
)
def test_shapes_and_what_is_inherited(mini, options, heads, ffn_dim, random):
    student = Student.from_teacher(mini, targets=(2,), **options)
    config = student.encoder.config
    assert (config.heads, config.ffn_dim, student.random_parts) == (heads, ffn_dim, random)
    theirs, ours = mini.state_dict(), student.encoder.state_dict()
    for name, value in ours.items():
        if name.partition(".")[0] not in random:
            assert torch.equal(value, theirs[name])
    if "layers" in random:
        assert not torch.equal(ours["layers.0.query.weight"], theirs["layers.0.query.weight"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"targets": "all"}, "a student of 2 layers has none for each of the teacher's 6: set layers=6"),
        ({"targets": (2, 6), "layer_to_layer": True}, "at the depth of the teacher's 2: choose from 0, 3, 6"),
        ({"targets": (7,), "layer_to_layer": True}, "the teacher has layers 1 to 6, not 7"),
        ({"targets": (0, 3), "layer_to_layer": True}, "would learn nothing: add the teacher's last layer, 6"),
        ({"targets": (2,), "dim": 50}, "neither a multiple of the teacher's 4 heads nor of their size 32"),
        ({"targets": (2,), "dim": 50, "heads": 5}, "must be a multiple of position_groups"),
        ({"targets": (2,), "heads": 3}, "must be a multiple of heads"),
    ],
)  # fmt: skip
def test_what_is_refused(mini, options, message):
    with pytest.raises(ValueError, match=message) as error:
        Student.from_teacher(mini, **options)
    assert "\n" not in str(error.value)


def test_every_pair_of_depths():
    for depth in range(1, 13):
        for layers in range(1, depth + 1):
            for target in range(1, depth + 1):
                whole = target * layers % depth == 0
                try:
                    check_targets(tuple({target, depth}), layers, depth, layer_to_layer=True)
                except ValueError:
                    assert not whole
                else:
                    assert whole and target * layers // depth >= 1


def test_dictionary_round_trip(mini):
    student = Student.from_teacher(mini, layers=3, targets=(2, 6), layer_to_layer=True, dim=64).eval()
    again = Student.from_dict(json.loads(json.dumps(student.to_dict()))).eval()
    again.load_state_dict(student.state_dict())
    waves = torch.randn(1, 4000)
    assert torch.equal(again(waves).predictions, student(waves).predictions)
    assert "sources" not in Student.from_teacher(mini, targets=(2,)).to_dict()  # as earlier versions read it
