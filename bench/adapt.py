"""Speed of masked prediction and of making its targets, on one CPU thread and on a GPU if there is one.

Figures are audio-seconds per second, of CPU time on one thread (other programs hardly change that) or of
wall time on a GPU: the median over the rounds and their range. Every round runs each contender once.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

from bench import report
from bench.contenders import Contender, take_turns
from distill.adaptation.clustering import Clustering
from distill.adaptation.masked_prediction import MaskedPrediction
from distill.adaptation.target_making import make_targets
from distill.batch import Batch
from distill.data.sources import open_cuts
from distill.hubert import HubertEncoder
from distill.objective.masking import span_mask
from distill.optim import OptimConfig
from distill.waveforms import SAMPLE_RATE

BATCH, SECONDS = 4, 8  # of the preset base one utterance: several would take minutes on one thread
CLUSTERS = 100
LAYERS = {"mini": 3, "base": 6}  # whose features become targets: halfway up


def main(_: object = None, rounds: int = 7) -> None:
    """Print the table; the first argument is what other benchmarks need."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    devices = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])
    with tempfile.TemporaryDirectory() as folder:
        _write_speech(Path(folder) / "speech")
        contenders = [
            *(_update(preset, device) for device in devices for preset in LAYERS),
            *(_layer_targets(preset, device, Path(folder)) for device in devices for preset in LAYERS),
            _mfcc_targets(Path(folder)),
        ]
        take_turns(contenders, rounds)
    print(f"\nadaptation: audio-seconds per second, median of {report.in_rounds(rounds)} (least to most)")
    for one in contenders:
        speeds = one.speeds
        print(f"  {one.name:<44}{statistics.median(speeds):>9.1f}   ({min(speeds):.1f} to {max(speeds):.1f})")


def contender(name: str, run: Callable[[], object], audio_s: float, device: str) -> Contender:
    """Something that is ready to run, and is not run untimed between the rounds."""
    return Contender(name, lambda: lambda number: run(), audio_s, device, settle=False, optional=False)


def _write_speech(folder: Path) -> None:
    """BATCH files of noise."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for index in range(BATCH):
        samples = 0.1 * rng.standard_normal(SECONDS * SAMPLE_RATE)
        soundfile.write(folder / f"{index}.wav", samples, SAMPLE_RATE)


def _update(preset: str, device: str) -> Contender:
    """One update of masked prediction: forward, backward, AdamW."""
    encoder = HubertEncoder.from_preset(preset)
    module = MaskedPrediction(encoder, CLUSTERS, optim=OptimConfig(lr=1e-4)).to(device)
    rows = BATCH if preset == "mini" else 1
    waveforms = 0.1 * torch.randn(rows, SECONDS * SAMPLE_RATE)
    lengths = torch.full((rows,), SECONDS * SAMPLE_RATE)
    frames = encoder.config.frames(lengths)
    targets = torch.randint(CLUSTERS, (rows, int(frames.max())))
    batch = Batch([str(i) for i in range(rows)], waveforms, lengths, targets=targets).to(device)
    mask = span_mask(frames, generator=torch.Generator().manual_seed(0)).to(device)
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-4)

    def run() -> None:
        optimizer.zero_grad()
        module.loss(batch, mask).total.backward()
        optimizer.step()

    return contender(f"masked prediction, {preset}, {device}", run, rows * SECONDS, device)


def _layer_targets(preset: str, device: str, folder: Path) -> Contender:
    """Labels of a layer with a given codebook: reading, features, nearest centres, the block's file."""
    encoder = HubertEncoder.from_preset(preset)
    codebook = torch.randn(CLUSTERS, encoder.config.dim)
    return contender(
        f"targets, layer {LAYERS[preset]} of {preset}, {device}",
        lambda: _label(folder, device, encoder=encoder, layer=LAYERS[preset], codebook=codebook),
        BATCH * SECONDS,
        device,
    )


def _mfcc_targets(folder: Path) -> Contender:
    codebook = torch.randn(CLUSTERS, 39)
    return contender(
        "targets, MFCC, cpu", lambda: _label(folder, "cpu", codebook=codebook), BATCH * SECONDS, "cpu"
    )


def _label(folder: Path, device: str, **options: Any) -> None:
    with tempfile.TemporaryDirectory() as out:
        cuts = open_cuts(str(folder / "speech"))
        clustering = Clustering(n_clusters=CLUSTERS, seed=0, **options)
        make_targets(cuts, out, clustering, devices=[torch.device(device)], progress=False)


if __name__ == "__main__":
    main()
