"""SPIRAL's step: against the reference's, alone against two processes, and what is said of it."""

import copy
import os
import subprocess
import sys

import pytest
import torch
from torch.utils.data import DataLoader

from distill.batch import Batch
from distill.optim import OptimConfig
from distill.options import ContrastConfig, EmaConfig, HeadsConfig
from distill.pretraining.spiral import SpiralPretraining
from distill.spiral import SpiralEncoder, ema
from distill.spiral.contrastive import contrastive_loss
from distill.spiral.perturbation import SpecAugment, shift, unshift
from tests.distill.pretraining import tiny
from tests.distill.spiral.reference import close, config_of, golden, ours
from tests.paths import ROOT


def spans(starts, length, width):
    masks = torch.zeros(len(starts), width, dtype=torch.bool)
    for row, begins in zip(masks, starts, strict=True):
        for begin in begins:
            row[begin : begin + length] = True
    return masks


def reference_module(found):
    """A module with the golden's weights, no dropout, in training mode."""
    config = config_of(found["config"], dropout=0.0, attention_dropout=0.0, layerdrop=0.0)
    module = SpiralPretraining(
        SpiralEncoder(config),
        optim=OptimConfig(max_steps=10),
        heads=HeadsConfig(dim=found["config"]["projection"]),
    )
    state = {ours(name): value for name, value in found["state"].items() if not name.startswith("wav2spec")}
    teacher = {f"teacher.{ours(name)}": value for name, value in found["teacher_before"].items()}
    teacher["teacher.encoder.mask_embedding"] = state["encoder.mask_embedding"]
    module.load_state_dict(state | teacher)
    return module.train()


def reference_step(module, case):
    """The step, with the golden's draws: (prediction, target) by utterance, loss; gradients are left."""
    student_features = case.get("student_features", case["teacher_features"]).transpose(1, 2)
    frames = case["feature_lengths"]
    schedule = {k: case["alpha_schedule"][k] for k in ("base", "final", "steps")}
    alpha = ema.alpha(case["global_step"], **schedule)
    assert alpha == pytest.approx(case["alpha"], rel=1e-12)
    ema.update(module.teacher, module, alpha)
    time = spans(case["starts_time"], case["mask_length"], student_features.shape[1])
    time &= torch.arange(time.shape[1]) < frames[:, None]
    channels = spans(case["starts_channel"], case["channel_mask_length"], student_features.shape[2])
    masked = module.encoder.masked(student_features, time, channels)
    close(masked, case["student_input"].transpose(1, 2))
    out = module.encoder.encode(masked, frames)
    predictions = module.predictor(module.projection(out.last_hidden_state, out.lengths), out.lengths)
    teacher = module.teacher["encoder"]
    left = torch.full((len(frames),), case["shift_left"])
    right = torch.full((len(frames),), case["shift_right"])
    features = case["teacher_features"].transpose(1, 2)
    shifted, n = shift(features, frames, left, right, teacher.mask_embedding, unit=case["shift_unit"])
    assert n.tolist() == case["teacher_lengths"].tolist()
    with torch.no_grad():
        heard = teacher.encode(shifted, n)
        targets = module.teacher["projection"](heard.last_hidden_state, heard.lengths)
    targets = unshift(targets, left, out.lengths, width=predictions.shape[1])
    starts = torch.cat([torch.zeros(1, dtype=torch.int64), out.lengths.cumsum(0)[:-1]])
    negatives = torch.zeros(*predictions.shape[:2], case["negatives"].shape[1], dtype=torch.int64)
    for row, (begin, count) in enumerate(zip(starts.tolist(), out.lengths.tolist(), strict=True)):
        negatives[row, :count] = case["negatives"][begin : begin + count] - begin
    loss = contrastive_loss(predictions, targets, out.lengths, negatives, temperature=case["temperature"])
    loss.total.backward()
    flat = [torch.cat([x[row, :n] for row, n in enumerate(out.lengths)]) for x in (predictions, targets)]
    return flat, loss


def test_a_whole_step_is_the_reference_s():
    """All utterances of equal length: batch norm counts no padding."""
    found = golden("step")
    case = found["cases"]["full"]
    module = reference_module(found)
    (predictions, targets), loss = reference_step(module, case)
    close(targets, case["targets"])
    close(predictions, case["predictions"])
    assert loss.total.item() == pytest.approx(float(case["loss"]), rel=2e-5)
    assert float(loss.correct / loss.frames) == pytest.approx(case["accuracy"], abs=1e-6)
    gradients = {name: p.grad for name, p in module.named_parameters() if p.requires_grad}
    checked = 0
    for name, theirs in case["gradients"].items():
        if "k_proj.bias" not in name:  # truly zero
            close(gradients[ours(name)], theirs, 1e-3)
            checked += 1
    assert checked > 50
    for name, norm in case["gradient_norms"].items():
        if "k_proj.bias" not in name:
            assert float(gradients[ours(name)].norm()) == pytest.approx(float(norm), rel=1e-3), name
    state = module.state_dict()
    for name, value in case["batch_norm_after"].items():
        close(state[ours(name)], value)
    for name, norm in case["teacher_after_norms"].items():
        assert float(state[f"teacher.{ours(name)}"].norm()) == pytest.approx(float(norm), rel=2e-5), name


def test_with_padding_only_batch_norm_differs_from_the_reference():
    """Its statistics count padded frames, which is a defect; inputs and targets are equal."""
    found = golden("step")
    case = found["cases"]["padded"]
    module = reference_module(found)
    (predictions, targets), loss = reference_step(module, case)
    close(targets, case["targets"])
    assert (predictions - case["predictions"]).abs().max() > 1e-3
    assert abs(loss.total.item() - float(case["loss"])) > 1e-4


@pytest.fixture(scope="module")
def alone():
    """One process with the whole batches."""
    module = tiny.make_module()
    trainer = tiny.make_trainer()
    trainer.fit(module, DataLoader(tiny.make_batches(), batch_size=None))
    return module, dict(trainer.callback_metrics)


@pytest.mark.slow
def test_two_processes_equal_one(alone, tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run([*command, tiny.__file__, str(tmp_path)], env=environment, check=True, timeout=300)
    module, metrics = alone
    for rank in (0, 1):
        state = torch.load(tmp_path / f"rank{rank}.pt", weights_only=True)
        for name, value in module.state_dict().items():
            # Adam turns gradients that are truly 0 (those of key biases) into steps of rounding noise.
            if "key.bias" not in name:
                torch.testing.assert_close(state[name], value, atol=1e-5, rtol=1e-5, msg=name)
        logged = torch.load(tmp_path / f"metrics{rank}.pt", weights_only=True)
        for name in ("train/loss", "train/accuracy"):
            assert float(logged[name]) == pytest.approx(float(metrics[name]), abs=1e-5)


def test_the_teacher_follows_right_behind_each_update(alone):
    """Recomputed from the students of every step."""
    module = tiny.make_module()
    expected = copy.deepcopy(module.teacher)
    students = []

    class Keep(tiny.pl.Callback):
        def on_train_batch_end(self, trainer, module, *_):
            students.append({k: v.clone() for k, v in module.state_dict().items()})

    tiny.make_trainer(callbacks=[Keep()]).fit(module, DataLoader(tiny.make_batches(), batch_size=None))
    for step, student in enumerate(students, start=1):
        alpha = ema.alpha(step, base=0.9, final=1.0, steps=tiny.STEPS)
        for name, value in expected.named_parameters():
            value.data.copy_(alpha * value + (1 - alpha) * student[name])
    for name, value in expected.named_parameters():
        torch.testing.assert_close(module.teacher.get_parameter(name), value, atol=1e-6, rtol=1e-5)
    assert torch.equal(module.projection.linear.weight, alone[0].projection.linear.weight)


def test_a_left_out_update_moves_nothing():
    module = tiny.make_module()
    module._optimizer_step_counter = 0
    before = {k: v.clone() for k, v in module.teacher.named_parameters()}
    for parameter in module.encoder.parameters():
        parameter.data += 1.0
    module._follow(torch.ones(()))
    assert all(torch.equal(v, before[k]) for k, v in module.teacher.named_parameters())
    module._follow(torch.zeros(()))
    names = [name for name in before if name.startswith("encoder.")]
    assert not any(torch.equal(module.teacher.get_parameter(name), before[name]) for name in names)


def test_draws_do_not_depend_on_the_batch():
    module = tiny.make_module().eval()
    batch = tiny.make_batches(1)[0]
    whole, lengths = module.predict(batch, epoch=3)
    part, _ = module.predict(batch[2:4], epoch=3)
    other, _ = module.predict(batch, epoch=4)
    for row, n in enumerate(lengths[2:4].tolist()):
        torch.testing.assert_close(part[row, :n], whole[2 + row, :n], atol=1e-4, rtol=1e-3)
    assert not torch.allclose(other, whole)
    module.train()
    module.encoder.eval(), module.teacher.eval()
    whole, part = module.targets(batch, 3), module.targets(batch[2:4], 3)
    for row, n in enumerate(lengths[2:4].tolist()):
        torch.testing.assert_close(part[row, :n], whole[2 + row, :n], atol=1e-4, rtol=1e-3)


def test_utterances_of_one_length_alone_or_beside_a_shorter_one():
    """Alone, their rows are full, also of output frames, and have no masks."""
    module = tiny.make_module().eval()  # without batch norm over the batch
    generator = torch.Generator().manual_seed(0)
    waveforms = 0.1 * torch.randn(3, 7_680, generator=generator)
    waveforms[2, 5_000:] = 0.0
    batch = Batch(["a", "b", "c"], waveforms, torch.tensor([7_680, 7_680, 5_000]), position=(0, 0))
    alone = batch[0:2]
    whole, lengths = module.predict(batch, epoch=3)
    part, frames = module.predict(alone, epoch=3)
    assert torch.equal(frames, lengths[:2])
    torch.testing.assert_close(part, whole[:2], atol=1e-4, rtol=1e-3)
    module.train()  # with shifts
    module.encoder.eval(), module.teacher.eval()
    torch.testing.assert_close(module.targets(alone, 3), module.targets(batch, 3)[:2], atol=1e-4, rtol=1e-3)


def test_the_teacher_computes_with_dropout_in_training_alone():
    module = tiny.make_module(dropout=0.2).train()
    assert module.teacher.training and not module.eval().teacher.training
    quiet = tiny.make_module(dropout=0.2, average=EmaConfig(noise=False)).train()
    assert quiet.encoder.training and not quiet.teacher.training
    batch = tiny.make_batches(1)[0]
    assert torch.equal(quiet.targets(batch, 0), quiet.targets(batch, 0))
    module.train()
    assert not torch.equal(module.targets(batch, 0), module.targets(batch, 0))


def test_ablations_change_what_they_name():
    batch = tiny.make_batches(1)[0]
    plain = tiny.make_module().train()
    masked = tiny.make_module(average=EmaConfig(masking=SpecAugment(channel_length=5))).train()
    still = tiny.make_module(most_shift=0).train()
    assert not torch.equal(plain.targets(batch, 0), masked.targets(batch, 0))
    assert not torch.equal(plain.targets(batch, 0), still.targets(batch, 0))
    assert torch.equal(still.targets(batch, 0), plain.eval().targets(batch, 0))
    none = tiny.make_module(heads=HeadsConfig(dim=12, predictor="none", projection="convolution"))
    assert none.predictor is None and none.predict(batch, 0)[0].shape[2] == 12


def test_only_utterances_of_one_frame():
    """There is nothing to compare: a loss of 0 with gradients of 0, not NaN."""
    module = tiny.make_module()
    batch = Batch(["a", "b"], torch.randn(2, 1_000), torch.tensor([1_000, 900]), position=(0, 0))
    tiny.make_trainer(max_steps=1).fit(module, DataLoader([batch], batch_size=None))
    assert all(p.isfinite().all() for p in module.parameters())


def test_collapse_is_said(caplog):
    """Targets that are all alike: the teacher's projection is nothing but its bias."""
    module = tiny.make_module(optim=OptimConfig(max_steps=2, warmup=0.1), contrast=ContrastConfig())
    for part in (module.projection, module.teacher["projection"]):
        torch.nn.init.zeros_(part.linear.weight)
        torch.nn.init.ones_(part.linear.bias)
    loader = DataLoader(tiny.make_batches(2), batch_size=None)
    trainer = tiny.make_trainer(max_steps=2, val_check_interval=2, check_val_every_n_epoch=None)
    trainer.fit(module, loader, loader)
    assert "has collapsed, the targets are all alike: mean cosine 1.00" in caplog.text
    assert module.collapse and trainer.callback_metrics["val/cosine_other_positions"] > 0.99


def test_a_healthy_run_is_not_called_collapsed():
    module = tiny.make_module()
    module._judge({"other_positions": 0.4, "same_position": 0.7, "within_utterance": 0.4})
    assert module.collapse == ""
