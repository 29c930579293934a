"""The training step: which view each network gets, what is updated, how micro-batches add up."""

import subprocess
import sys
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.precision import MixedPrecision
from torch.utils.data import DataLoader, IterableDataset

from distill.config import from_words
from distill.distillation import Distillation
from distill.distortions import LABELS
from distill.objective import classification_loss, distillation_loss
from distill.optim import OptimConfig
from distill.options import ObjectiveConfig
from tests.distill.ddp_worker import STEPS, make_batches, make_module, make_trainer


def fit(module: Distillation, batches, **options) -> pl.Trainer:
    trainer = make_trainer(**options)
    trainer.fit(module, DataLoader(batches, batch_size=None))
    return trainer


ALL_TERMS = [
    *("input=1", "relations.weight=1", "units.weight=1", "units.codebook=given", "units.layer=2"),
    *("enhancement.weight=1", "enhancement.dim=4", "enhancement.layers=1"),
]
"""All that may have micro-batches."""


class Stream(IterableDataset):
    """Batches without a number of them: Lightning would end the resumed epoch where it thinks its end is."""

    def __init__(self, batches):
        self.batches = batches

    def __iter__(self):
        return iter(self.batches)


def trained(module: Distillation) -> dict[str, torch.Tensor]:
    return {name: p for name, p in module.state_dict().items() if not name.startswith("teacher.")}


def largest_difference(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    assert a.keys() == b.keys()
    return max((a[name] - b[name]).abs().max().item() for name in a)


@pytest.mark.parametrize("cdm", ["none", "setup1", "setup2", "setup2_same"])
def test_each_setup_gives_teacher_and_student_what_the_paper_says(cdm):
    module = make_module(dat=False, cdm=cdm)
    batch = make_batches(1)[0]
    teacher_waves, _ = module.distort(batch, module.teacher_view)
    student_waves, labels = module.distort(batch, module.student_view)
    clean = batch.waveforms
    assert torch.equal(teacher_waves, clean) == (cdm in ("none", "setup1"))
    assert torch.equal(student_waves, clean) == (cdm == "none")
    assert torch.equal(teacher_waves, student_waves) == (cdm in ("none", "setup2_same"))
    assert labels.shape == (len(batch), len(LABELS))
    if cdm == "none":
        assert labels[:, LABELS.index("clean")].all()


@pytest.mark.parametrize(("dat", "size"), [(False, "base"), (True, "base"), (True, "spiral")])
def test_one_step_matches_the_equations_written_out(dat, size):
    """Loss, classifier-then-student order and both AdamW updates against a plain PyTorch transcription."""
    batch = make_batches(1)[0]
    optim = OptimConfig(max_steps=STEPS, lr=1e-3, warmup=0.0, clip_norm=0.0)
    module = make_module(dat, size=size, optim=optim)
    reference = make_module(dat, size=size, optim=optim)

    adam = {"lr": 1e-3 * optim.schedule(1), "betas": (0.9, 0.98), "eps": 1e-6, "weight_decay": 1e-6}
    teacher_waves, _ = reference.distort(batch, "teacher")
    student_waves, labels = reference.distort(batch, "student")
    out = reference.student(student_waves, batch.lengths)
    with torch.no_grad():
        states = reference.teacher(teacher_waves, batch.lengths).features
    targets = torch.stack([states[layer] for layer in (1, 2, 3)], 1)
    total = distillation_loss(out.predictions, targets, out.lengths).total
    if dat:
        classifier = reference.classifier
        classifier_adam = torch.optim.AdamW(classifier.parameters(), **adam)
        classification_loss(classifier(out.z.detach(), out.lengths), labels).backward()
        classifier_adam.step()
        classifier.requires_grad_(False)
        total = total - 0.1 * classification_loss(classifier(out.z, out.lengths), labels)
    student_adam = torch.optim.AdamW(reference.student.parameters(), **adam)
    total.backward()
    student_adam.step()

    fit(module, [batch], max_steps=1)
    assert largest_difference(trained(module), trained(reference)) < 1e-6


def test_the_teacher_stays_in_eval_mode_and_untouched():
    module = make_module(dat=True, dropout=0.1)
    before = {name: value.clone() for name, value in module.teacher.state_dict().items()}
    modes = []
    module.teacher.register_forward_hook(lambda *_: modes.append(module.teacher.training))
    module.student.register_forward_hook(lambda *_: modes.append(not module.student.training))
    fit(module, make_batches(3), max_steps=3)
    assert modes and not any(modes)
    assert all(torch.equal(value, before[name]) for name, value in module.teacher.state_dict().items())


def test_the_student_learns():
    module = make_module(dat=True, dropout=0.1, optim=OptimConfig(max_steps=60, lr=3e-3))
    batches = make_batches(2)
    losses = []

    class Watch(pl.Callback):
        def on_train_batch_end(self, trainer, *_):
            losses.append(float(trainer.callback_metrics["train/loss"]))

    fit(module, batches, max_steps=60, callbacks=[Watch()])
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


def test_steps_are_student_updates_with_dat_on_and_off():
    seen = {}
    for dat in (False, True):
        module = make_module(dat)
        count = 0

        def counted(batch, index, step=module.training_step):
            nonlocal count
            count += 1
            return step(batch, index)

        module.training_step = counted
        trainer = fit(module, make_batches(3), max_steps=7)
        seen[dat] = (count, trainer.global_step)
    assert seen[False] == seen[True] == (7, 7)


@pytest.mark.parametrize(("dat", "size"), [(False, "base"), (True, "base"), (True, "spiral")])
def test_micro_batches_add_up_to_the_whole_batch(dat, size):
    """With lambda 0: in parts, the student meets the classifier of the previous update."""
    states = []
    for accumulate in (1, 3):
        module = make_module(dat, accumulate, size, weight=0.0)
        fit(module, make_batches())
        states.append(trained(module))
    assert largest_difference(*states) < 1e-5


def test_the_gradient_of_the_distortion_loss_is_reversed_for_the_student():
    module = make_module(dat=True)
    batch = make_batches(1)[0]
    waves, labels = module.distort(batch, "student")
    out = module.student(waves, batch.lengths)
    loss = module._adversarial_loss(out, labels, torch.tensor(float(len(batch))))
    loss.backward()
    assert all(p.grad is None for p in module.classifier.parameters())
    assert module.student.encoder.projection.weight.grad.abs().sum() > 0


def test_the_gradient_is_clipped():
    module = make_module(dat=False, optim=OptimConfig(max_steps=STEPS, clip_norm=0.01))
    norms = []

    class Watch(pl.Callback):
        def on_train_start(self, trainer, pl_module):
            def note(*_):
                grads = [p.grad for p in pl_module.student.parameters()]
                norms.append(torch.stack([g.norm() for g in grads]).norm().item())

            trainer.optimizers[0].register_step_post_hook(note)

    trainer = fit(module, make_batches(2), max_steps=2, callbacks=[Watch()])
    assert max(norms) <= 0.0101
    assert float(trainer.callback_metrics["gradient_norm"]) > 0.01  # the logged one is before clipping


def test_bfloat16_stays_near_single_precision():
    full, low = make_module(dat=True), make_module(dat=True)
    fit(full, make_batches(2), max_steps=2)
    fit(low, make_batches(2), max_steps=2, precision="bf16-mixed")
    assert 0 < largest_difference(trained(full), trained(low)) < 5e-3


@pytest.mark.parametrize("dat,accumulate", [(False, 1), (True, 2)])
def test_half_precision_unscales_before_clipping(dat, accumulate):
    """float16 with a loss scale of 1024, on the CPU: the logged norm and the loss are the unscaled ones."""
    seen = []
    for half in (False, True):
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        plugins = [MixedPrecision("16-mixed", "cpu", scaler)] if half else []
        trainer = fit(make_module(dat, accumulate), make_batches(3), max_steps=3, plugins=plugins)
        seen.append(trainer.callback_metrics)
    for name in ("train/loss", "gradient_norm"):
        assert float(seen[1][name]) == pytest.approx(float(seen[0][name]), rel=0.01)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
def test_precisions_on_a_gpu(precision):
    module = make_module(dat=True)
    trainer = fit(module, make_batches(2), max_steps=2, accelerator="gpu", devices=1, precision=precision)
    assert torch.isfinite(trainer.callback_metrics["train/loss"])


def test_the_updates_have_the_rates_of_the_schedule():
    """The student's and the classifier's: none is 0 but the last one."""
    module = make_module(dat=True, optim=OptimConfig(max_steps=5, warmup=0.4, lr=1e-3))
    rates = []

    class Watch(pl.Callback):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            groups = optimizer.param_groups, pl_module.classifier_optimizer.param_groups
            rates.append([group[0]["lr"] for group in groups])

    fit(module, make_batches(5), max_steps=5, callbacks=[Watch()])
    expected = [1e-3 * factor for factor in (1 / 2, 1, 2 / 3, 1 / 3, 0)]
    assert [rate for rate, _ in rates] == pytest.approx(expected)
    assert [rate for _, rate in rates] == pytest.approx(expected)


def test_resuming_gives_the_same_weights_as_never_stopping(tmp_path):
    batches = make_batches()
    whole = make_module(dat=True)
    fit(whole, batches)

    first = make_module(dat=True)
    trainer = make_trainer(max_steps=4)
    trainer.fit(first, DataLoader(batches, batch_size=None))
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    second = make_module(dat=True)
    trainer = make_trainer()
    trainer.fit(
        second,
        DataLoader(Stream(batches[4:]), batch_size=None),
        ckpt_path=tmp_path / "last.ckpt",
        weights_only=True,
    )
    assert trainer.global_step == STEPS
    assert largest_difference(trained(whole), trained(second)) < 1e-6


def test_a_checkpoint_holds_no_teacher_and_says_what_it_is(tmp_path):
    module = make_module(dat=True)
    trainer = fit(module, make_batches(1), max_steps=1)
    trainer.save_checkpoint(tmp_path / "x.ckpt")
    checkpoint = torch.load(tmp_path / "x.ckpt", weights_only=True)
    assert not any(name.startswith("teacher.") for name in checkpoint["state_dict"])
    assert checkpoint["distill"]["kind"] == "student"
    assert checkpoint["distill"]["architecture"]["targets"] == [1, 2, 3]


def test_dat_without_distortions_is_refused():
    with pytest.raises(ValueError, match="dat needs distorted speech"):
        make_module(dat=True, cdm="none")


def test_the_top_layer_of_a_large_teacher_is_predicted_after_its_final_norm():
    module = make_module(dat=False, size="large")
    batch = make_batches(1)[0]
    torch.nn.init.uniform_(module.teacher.norm.weight, 0.5, 1.5)
    found = module.teacher_targets(batch.waveforms, batch.lengths)
    out = module.teacher(batch.waveforms, batch.lengths)
    expected = [out.hidden_states[1], out.hidden_states[2], module.teacher.norm(out.hidden_states[3])]
    torch.testing.assert_close(found, torch.stack(expected, 1))


@pytest.mark.slow
@pytest.mark.parametrize(
    "dat,accumulate,size,objective",
    [
        (False, 1, "base", []),
        (True, 1, "base", []),
        (True, 2, "large", []),
        (True, 1, "base", ["correlation.weight=1"]),
        (False, 2, "base", ALL_TERMS),
    ],
)
def test_two_processes_equal_one(tmp_path, dat, accumulate, size, objective):
    """Ten steps on the same global batches, split unevenly: same weights and log, on both processes."""
    single = make_module(dat, accumulate, size, objective=from_words(ObjectiveConfig, {}, objective))
    trainer = fit(single, make_batches(), log_every_n_steps=5)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    worker = Path(__file__).with_name("ddp_worker.py")
    done = subprocess.run(
        [*command, str(worker), str(tmp_path), str(dat), str(accumulate), size, *objective],
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    ranks = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]
    assert largest_difference(*ranks) == 0.0
    assert largest_difference(ranks[0], trained(single)) < 1e-5
    expected = {name: float(value) for name, value in trainer.callback_metrics.items()}
    assert "loss_by_type/reverb" in expected and ("dat_accuracy_by_type/pitch" in expected) == dat
    for rank in (0, 1):
        metrics = torch.load(tmp_path / f"metrics{rank}.pt", weights_only=True)
        assert {name: float(value) for name, value in metrics.items()} == pytest.approx(expected, rel=1e-3)
