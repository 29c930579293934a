"""Losses by type of distortion, as they are logged."""

import pytest
import torch

from distill.distortions import LABELS
from distill.objective import distillation_loss
from distill.optim import OptimConfig
from tests.distill.ddp_worker import make_batches, make_module
from tests.distill.training.logs import STEPS, columns, train

FROZEN = OptimConfig(max_steps=STEPS, lr=1e-30, warmup=0.0)  # the model of the last step is that of the first


@pytest.mark.parametrize("accumulate", [1, 2])
def test_numbers_by_type_are_those_of_the_utterances_that_carry_it(tmp_path, accumulate):
    """Over the three steps since the last line, against every utterance on its own."""
    module = make_module(dat=True, accumulate=accumulate, optim=FROZEN)
    module.optim.accumulate = accumulate
    batches = make_batches(3)
    train(tmp_path, "logging.every_n_steps=3", batches=batches, module=module, steps=3)
    losses, right = {label: [] for label in LABELS}, []  # (sum, frames) by label; correct answers
    with torch.no_grad():
        for batch in batches:
            for row in range(len(batch)):
                one = batch[row : row + 1]
                waves, labels = module.distort(one, "student")
                student = module.student(waves, one.lengths)
                targets = module.teacher_targets(module.distort(one, "teacher")[0], one.lengths)
                loss = distillation_loss(student.predictions, targets, student.lengths).total
                frames = int(student.lengths)
                for label in (name for name, set_ in zip(LABELS, labels[0], strict=True) if set_):
                    losses[label].append((float(loss) * frames, frames))
                logits = module.classifier(student.z, student.lengths)
                right.append(((logits[0] > 0) == labels[0].bool()).float())
    found = {key: column[2] for key, column in columns(tmp_path).items() if 2 in column}
    expected = {
        f"loss_by_type/{label}": sum(total for total, _ in pairs) / sum(frames for _, frames in pairs)
        for label, pairs in losses.items()
        if pairs
    }
    assert {"loss_by_type/gaussian", "loss_by_type/reverb"} < expected.keys()
    assert {key: found[key] for key in found if key.startswith("loss_by_type/")} == pytest.approx(
        expected, rel=1e-4
    )
    accuracy = dict(zip(LABELS, torch.stack(right).mean(0).tolist(), strict=True))
    assert {label: found[f"dat_accuracy_by_type/{label}"] for label in LABELS} == pytest.approx(accuracy)


def test_types_without_an_utterance_have_no_loss(tmp_path):
    train(tmp_path, steps=2)
    assert not {"loss_by_type/musan", "loss_by_type/wham"} & columns(tmp_path).keys()  # NO_NOISE_FILES


def test_a_broken_utterance_does_not_spoil_the_losses_by_type():
    module = make_module(dat=False)
    labels = torch.zeros(3, len(LABELS))
    labels[[0, 1], LABELS.index("pitch")] = labels[2, LABELS.index("clean")] = 1.0
    module._collect_by_type(labels, torch.tensor([6.0, float("nan"), float("inf")]), torch.tensor([3, 4, 5]))
    assert module._means_by_type() == {"loss_by_type/pitch": torch.tensor(2.0)}


def test_each_line_starts_its_own_sums(tmp_path):
    """The second line is the same whatever came before the first one."""
    found = []
    last = torch.cat([batch.views["student"].plan.labels() for batch in make_batches(6)[4:]]).any(0)
    keys = [f"loss_by_type/{label}" for label, occurs in zip(LABELS, last, strict=True) if occurs]
    keys += [f"dat_accuracy_by_type/{label}" for label in LABELS]
    for first in (0, 2):
        every = make_batches(6)
        batches = [*every[first : first + 2], *every[4:6]]
        out = tmp_path / str(first)
        train(out, steps=4, batches=batches, module=make_module(dat=True, optim=FROZEN))
        found.append({key: columns(out)[key] for key in keys})
    assert {key: values[3] for key, values in found[0].items()} == pytest.approx(
        {key: values[3] for key, values in found[1].items()}, rel=1e-5
    )
    assert found[0][keys[0]][1] != pytest.approx(found[1][keys[0]][1], rel=1e-3)
