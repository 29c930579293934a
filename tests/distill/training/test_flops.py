"""The work of a step against torch's own counter, and what a device can do."""

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from distill.adaptation.masked_prediction import MaskedPrediction
from distill.batch import Batch
from distill.hubert import HubertEncoder
from distill.optim import OptimConfig
from distill.pretraining.spiral import SpiralPretraining
from distill.spiral import SpiralEncoder
from distill.student import Student
from distill.training import progress
from distill.training.flops import device_flops, dtype_of, forward, step_flops
from tests.distill.ddp_worker import make_batches, make_module
from tests.distill.training.logs import columns, train
from tests.rehearsal import rehearsal

N_SAMPLES = 30_720  # 192 frames of 10 ms, 24 of 80 ms
LENGTHS = torch.full((2,), N_SAMPLES)
OPTIM = OptimConfig(max_steps=9)
WIDE = {"dim": 256, "ffn_dim": 1024, "position_groups": 1}
"""torch counts too much in the backward pass of convolutions in groups."""


def counted(module: Any, compute: Callable[[Tensor], Any]) -> float:
    """By torch, on `meta`: matrix products, convolutions and attention, forward and backward."""
    module.to("meta")
    waveforms = torch.zeros(2, N_SAMPLES, device="meta")
    with rehearsal(), FlopCounterMode(display=False) as counter:  # the first does without autocast
        compute(waveforms)
    return float(counter.get_total_flops())


def without_filters(encoder: SpiralEncoder) -> SpiralEncoder:
    """Mel features for nothing: they are made ahead of the model, and are not counted."""
    features = torch.zeros(2, 192, 128, device="meta")
    encoder.features = lambda waveforms, lengths=None: (features, None)
    return encoder


@pytest.mark.parametrize(
    ("kind", "preset"),
    [
        *((kind, preset) for kind in (HubertEncoder, SpiralEncoder) for preset in ("base", "large", "mini")),
        (HubertEncoder, "wavlm_mini"),
    ],
)
def test_a_forward_pass(kind, preset):
    with torch.device("meta"):
        encoder = kind.from_preset(preset).eval().requires_grad_(False)
    if kind is SpiralEncoder:
        without_filters(encoder)
    work = forward(encoder.config, LENGTHS)
    assert 2 * (work.first + work.rest) == pytest.approx(counted(encoder, encoder), rel=0.015)


@pytest.mark.parametrize("front", ["slim", "mel"])
def test_a_forward_pass_of_a_light_student(front):
    with torch.device("meta"):
        teacher = HubertEncoder.from_preset("base", layers=2)
        encoder = Student.from_teacher(teacher, targets=(2,), front=front).encoder
    encoder.eval().requires_grad_(False)
    work = forward(encoder.config, LENGTHS)
    if front == "mel":  # features for nothing, as of SPIRAL
        mels = torch.zeros(2, 192, 80, device="meta")
        encoder.logmel.forward = lambda waveforms, lengths=None: (mels, None)
    assert 2 * (work.first + work.rest) == pytest.approx(counted(encoder, encoder), rel=0.015)


def test_a_step_of_distillation():
    teacher = HubertEncoder.from_preset("mini", **WIDE)
    module = make_module(False, cdm="none")
    module.teacher = teacher.requires_grad_(False).eval()
    module.student = Student.from_teacher(teacher, targets=(2, 4, 6), cnn_grad_scale=1.0)

    def step(waveforms: Tensor) -> None:
        targets = module.teacher_targets(waveforms, LENGTHS)
        (module.student(waveforms).predictions - targets).square().sum().backward()

    found = step_flops(module, LENGTHS)
    assert found == pytest.approx(counted(module, step), rel=0.02)
    module.student.targets = (2, 3, 4)  # two of the teacher's layers are not needed
    assert step_flops(module, LENGTHS) < found


def test_a_step_of_masked_prediction():
    encoder = HubertEncoder.from_preset("mini", **WIDE)
    module = MaskedPrediction(encoder, 50, optim=OPTIM, final_dim=64)
    mask = torch.ones(2, encoder.config.frames(N_SAMPLES), dtype=torch.bool, device="meta")

    def step(waveforms: Tensor) -> None:
        batch = Batch(["a", "b"], waveforms, LENGTHS, targets=mask.long())
        module.loss(batch, mask).total.backward()

    assert step_flops(module, LENGTHS) == pytest.approx(counted(module, step), rel=0.02)


def test_a_step_of_spiral():
    encoder = SpiralEncoder.from_preset("mini", position_groups=1)
    module = SpiralPretraining(encoder, optim=OPTIM, most_shift=0)
    without_filters(module.encoder)
    without_filters(cast(SpiralEncoder, module.teacher["encoder"]))

    def step(waveforms: Tensor) -> None:
        batch = Batch(["a", "b"], waveforms, LENGTHS)
        predictions, lengths = module.predict(batch, 0)
        targets = module.targets(batch, 0)
        module._contrast(batch, predictions, targets, lengths, 0, 1.0).total.backward()

    assert step_flops(module, LENGTHS) == pytest.approx(counted(module, step), rel=0.02)


@pytest.mark.parametrize("preset", ["mini", "wavlm_mini"])
def test_a_reused_attention_map_is_no_work(preset):
    """D = 128: two products with D x D for query and key, one of them with each other; 8 x D for gates."""
    config = HubertEncoder.from_preset(preset).config
    gate = 8 * 128 if preset == "wavlm_mini" else 0
    lengths, frames = torch.tensor([16_000, 5_000]), torch.tensor([49, 15])
    for layers in (1, 2, 3):
        saved = (layers // 2) * float((frames * (2 * 128 * 128 + gate) + frames.square() * 128).sum())
        work = [
            forward(replace(config, reuse_attention=reuse), lengths, layers).rest for reuse in (False, True)
        ]
        assert work[0] - work[1] == saved


def test_padding_is_no_work():
    config = HubertEncoder.from_preset("mini").config
    alone = [forward(config, torch.tensor([n])) for n in (16_000, 5_000)]
    together = forward(config, torch.tensor([16_000, 5_000]))
    assert together.first == sum(one.first for one in alone)
    assert together.rest == sum(one.rest for one in alone)


def test_what_says_nothing_has_no_work():
    module: Any = torch.nn.Linear(2, 2)
    assert step_flops(module, LENGTHS) == 0.0


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [("32-true", "float32"), ("bf16-mixed", "bfloat16"), ("16-mixed", "float16"), ("64-true", "float64")],
)
def test_precisions(precision, dtype):
    assert dtype_of(precision) == getattr(torch, dtype)


def test_a_device_is_measured_once():
    found = device_flops(torch.device("cpu"), torch.float32)
    assert found > 1e8
    assert device_flops(torch.device("cpu"), torch.float32) == found
    assert device_flops(torch.device("meta"), torch.float32) == 0.0  # none that is known


def test_the_log_has_the_share_of_what_is_possible(tmp_path, monkeypatch):
    """Two steps in two seconds, on a device that could do 1 GFLOP/s."""
    now = iter(range(1000))
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: float(next(now))))
    monkeypatch.setattr(progress, "device_flops", lambda *_: 1e9)
    batches = make_batches(2)
    module = make_module(dat=False)
    train(tmp_path, steps=2, batches=batches, module=module)
    (mfu,) = columns(tmp_path)["mfu"].values()
    (speed,) = columns(tmp_path)["audio_s_per_s"].values()
    audio_s = sum(float(batch.lengths.sum()) for batch in batches) / 16_000
    flops = sum(step_flops(module, batch.lengths) for batch in batches)
    assert mfu / speed == pytest.approx(flops / audio_s / 1e9)
