"""What docs/experiments.md says about how s3prl trains DistilHuBERT, read off s3prl itself."""

import pytest
import torch

import distill.upstream.s3prl_compat

pytest.importorskip("s3prl", reason="s3prl is not installed: pip install 'robust-distilhubert[s3prl]'")

ADAMW = {
    "name": "AdamW_with_schedule",
    "lr": 2e-4,
    "warmup_proportion": 0.07,
    "betas": [0.9, 0.98],
    "eps": 1e-6,
    "weight_decay": 1e-6,
}
"""Of DistilHuBERT's yaml."""


@pytest.fixture
def s3prl():
    distill.upstream.s3prl_compat.apply()
    import s3prl.optimizers
    from s3prl.upstream.distiller import model

    return s3prl.optimizers, model


def test_which_weights_decay_and_by_how_much(s3prl):
    """Groups of parameters have decays of their own: the yaml's is not used."""
    optimizers, model = s3prl
    config = {"encoder_layers": 2, "n_tasks": 3, "pred_layer_id": [4, 8, 12]}
    config |= {"task_emb_type": "expand-last", "out_layer_type": "expand-last"}
    student = model.DistillerModel(model.DistillerConfig(config))
    groups = optimizers.get_optimizer([student], 20_000, ADAMW).param_groups
    assert [group["weight_decay"] for group in groups] == [0.01, 0.0]
    assert [len(group["params"]) for group in groups] == [30, 22]
    assert [sum(p.numel() for p in group["params"]) for group in groups] == [27_010_432, 24_320]
    decayed = set(map(id, groups[0]["params"]))
    assert id(student.encoder.layer_norm.weight) in decayed
    assert id(student.encoder.layer_norm.bias) not in decayed


def test_what_decay_alone_leaves_of_a_weight(s3prl):
    """Learning rates of 1 000 updates add up to 0.1: 0.1 % are lost, a little less at the beginning."""
    optimizers, _ = s3prl
    layer = torch.nn.Linear(1, 1)
    for parameter in layer.parameters():
        torch.nn.init.ones_(parameter)
        parameter.grad = torch.zeros_like(parameter)
    optimizer = optimizers.get_optimizer([layer], 1_000, ADAMW)
    for _ in range(1_000):
        optimizer.step()
    assert (layer.weight.item(), layer.bias.item()) == (pytest.approx(0.99903, abs=5e-6), 1.0)


def test_the_norm_before_the_first_layer_is_copied():
    """s3prl's distiller leaves it at ones and zeros."""
    from distill import Student, load_teacher

    teacher = load_teacher("random:mini")
    torch.nn.init.uniform_(teacher.norm.weight)
    student = Student.from_teacher(teacher, layers=2, targets=(2,))
    assert torch.equal(student.encoder.norm.weight, teacher.norm.weight)
