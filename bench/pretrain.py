"""Cost of pre-training SPIRAL beside HuBERT, BASE of both, by arithmetic and by the clock.

    python -m bench pretrain

A step is forward, backward and AdamW on one utterance of 10 s, with random weights: of SPIRAL student and
teacher with masks, shift and contrastive loss; of HuBERT masked prediction of 500 clusters. Multiply-adds are
those that torch counts in a forward pass of the encoder. Figures are audio-seconds per second of CPU time on
one thread, or of wall time on a GPU: the median over the rounds and their range. Every round runs each
contender once.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from bench import report
from bench.adapt import contender
from bench.contenders import take_turns
from distill.adaptation.masked_prediction import MaskedPrediction
from distill.batch import Batch
from distill.encoder import Encoder
from distill.hubert import HubertEncoder
from distill.objective.masking import span_mask
from distill.optim import OptimConfig
from distill.pretraining.spiral import SpiralPretraining
from distill.spiral import SpiralEncoder
from distill.spiral.contrastive import contrasted_frames
from distill.waveforms import SAMPLE_RATE

SECONDS, CLUSTERS = 10, 500


def main(_: object = None, rounds: int = 7) -> None:
    """Print multiply-adds, speeds and their ratios; the first argument is what other benchmarks need."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    models = {"SPIRAL": SpiralEncoder.from_preset("base"), "HuBERT": HubertEncoder.from_preset("base")}
    print("\npre-training, BASE: billions of multiply-adds per second of audio, forward")
    macs = {name: giga_macs(model) for name, model in models.items()}
    for name, value in macs.items():
        print(f"  {name:<28}{value:>9.2f}")
    print(f"  {'HuBERT / SPIRAL':<28}{macs['HuBERT'] / macs['SPIRAL']:>9.2f}")
    for device in ["cpu"] + (["cuda"] if torch.cuda.is_available() else []):
        measure(device, rounds)


def giga_macs(encoder: Encoder) -> float:
    """Billions of multiply-adds of the encoder's forward pass per second of audio."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        encoder.eval()(torch.randn(1, SECONDS * SAMPLE_RATE))
    return counter.get_total_flops() / 2e9 / SECONDS


def measure(device: str, rounds: int) -> None:
    """Print the speeds on one device."""
    contenders = [
        contender(f"{what} of {name}", run, SECONDS, device)
        for name, step, encoder in (("SPIRAL", *spiral(device)), ("HuBERT", *hubert(device)))
        for what, run in (("step", step), ("forward", encoder))
    ]
    take_turns(contenders, rounds)
    unit = "s of CPU time, one thread" if device == "cpu" else "s"
    print(f"audio-seconds per {unit}, {device}, median of {report.in_rounds(rounds)} (least to most)")
    speeds = {one.name: statistics.median(one.speeds) for one in contenders}
    for one in contenders:
        print(f"  {one.name:<28}{speeds[one.name]:>9.2f}   ({min(one.speeds):.2f} to {max(one.speeds):.2f})")
    for what in ("step", "forward"):
        ratio = speeds[f"{what} of SPIRAL"] / speeds[f"{what} of HuBERT"]
        print(f"  {what + ', SPIRAL / HuBERT':<28}{ratio:>9.2f}")


def speech(device: str) -> Batch:
    """One utterance of noise."""
    waveforms = 0.1 * torch.randn(1, SECONDS * SAMPLE_RATE)
    return Batch(["a"], waveforms, torch.tensor([waveforms.shape[1]])).to(device)


def forward(encoder: Encoder, waveforms: Tensor) -> Callable[[], object]:
    """The encoder alone, in eval mode."""
    encoder = type(encoder)(encoder.config).to(waveforms.device).eval()
    return torch.no_grad()(lambda: encoder(waveforms))


def spiral(device: str, preset: str = "base") -> tuple[Callable[[], object], Callable[[], object]]:
    """A step of pre-training, and the encoder's forward pass."""
    encoder, batch = SpiralEncoder.from_preset(preset), speech(device)
    never = torch.zeros((), device=device)  # an update that is left out
    module: Any = SpiralPretraining(encoder, optim=OptimConfig(lr=1e-4)).to(device)
    optimizer = torch.optim.AdamW(p for p in module.parameters() if p.requires_grad)
    n_frames = contrasted_frames(encoder.config.frames(batch.lengths)).float()

    def run() -> None:
        optimizer.zero_grad()
        predictions, lengths = module.predict(batch, 0)
        targets = module.targets(batch, 0)
        module._contrast(batch, predictions, targets, lengths, 0, n_frames).total.backward()
        optimizer.step()
        module._follow(never)

    return run, forward(encoder, batch.waveforms)


def hubert(device: str, preset: str = "base") -> tuple[Callable[[], object], Callable[[], object]]:
    """An update of masked prediction, and the encoder's forward pass."""
    encoder, batch = HubertEncoder.from_preset(preset), speech(device)
    module = MaskedPrediction(encoder, CLUSTERS, optim=OptimConfig(lr=1e-4)).to(device)
    frames = encoder.config.frames(batch.lengths)
    batch.targets = torch.randint(CLUSTERS, (1, int(frames.max()))).to(device)
    mask = span_mask(frames, generator=torch.Generator().manual_seed(0)).to(device)
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-4)

    def run() -> None:
        optimizer.zero_grad()
        module.loss(batch, mask).total.backward()
        optimizer.step()

    return run, forward(encoder, batch.waveforms)
