"""Seconds of audio distorted per CPU-second, on one thread."""

from __future__ import annotations

import statistics
import time

import torch

from distill.distortions import Distorter, DistortionConfig, Plan

BATCH, SECONDS, RATE = 24, 12, 16_000
MIXES = {
    "2-dist (the paper's training mix)": DistortionConfig(),
    "gaussian noise": DistortionConfig(additive=("gaussian",), non_additive=("none",)),
    "reverb": DistortionConfig(additive=("none",), non_additive=("reverb",)),
    "pitch": DistortionConfig(additive=("none",), non_additive=("pitch",)),
    "band rejection": DistortionConfig(additive=("none",), non_additive=("band_reject",)),
}


def main(rounds: int) -> None:
    """Print a table: median, slowest and fastest of `rounds` batches with different plans."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    speech = 0.1 * torch.randn(BATCH, SECONDS * RATE, generator=generator)
    lengths = torch.full((BATCH,), SECONDS * RATE)
    print(f"audio-seconds per CPU-second, one thread, batches of {BATCH} x {SECONDS} s, {rounds} rounds")
    print(f"{'':36}{'median':>9}{'slowest':>9}{'fastest':>9}")
    for name, config in MIXES.items():
        distorter = Distorter.from_config(config)
        speeds = []
        for number in range(-1, rounds):  # the first one warms the caches and does not count
            plan = distorter.plan([f"{number}-{row}" for row in range(BATCH)], seed=0, epoch=0)
            noises = [speech[0] if p.noise_corpus else None for p in plan]
            speeds.append(speed(distorter, speech, lengths, plan, noises))
        del speeds[0]
        print(f"{name:36}{statistics.median(speeds):9.0f}{min(speeds):9.0f}{max(speeds):9.0f}")


def speed(
    distorter: Distorter,
    speech: torch.Tensor,
    lengths: torch.Tensor,
    plan: Plan,
    noises: list[torch.Tensor | None],
) -> float:
    """Audio-seconds per CPU-second of one batch."""
    started = time.process_time()
    distorter(speech, lengths, plan, noises)
    return BATCH * SECONDS / (time.process_time() - started)
