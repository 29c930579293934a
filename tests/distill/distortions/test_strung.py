"""Clips that follow one another: levels, choices, what is silent."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare, kstest

from distill.distortions import Distorter, DistortionConfig
from distill.distortions.strung import ClipDraws, string_clips

LEVELS = (1.0, 0.01, 3.0, 1e-4)
CLIPS = [
    level * torch.randn(n, generator=torch.Generator().manual_seed(n))
    for level, n in zip(LEVELS, (16_000, 30_000, 24_321, 500_000), strict=True)
]
DRAWS = ClipDraws(np.array([len(clip) / 16_000 for clip in CLIPS]))
STRUNG = DistortionConfig(additive=("dns",), non_additive=("none",), snr_db=(0.0, 30.0), strung=True)


def string(seed: int, n_samples: int, clips=CLIPS, draws=DRAWS):
    return string_clips(
        draws,
        seed,
        n_samples,
        length=lambda number: len(clips[number]),
        read=lambda number, start, count: clips[number][start : start + count],
    )


def stretches(n_samples: int, used: list[tuple[int, int]]) -> list[tuple[int, int, int]]:
    """Clip, its first sample and the number of samples of each stretch."""
    found, missing = [], n_samples
    for number, start in used:
        count = min(len(CLIPS[number]), missing)
        found.append((number, start, count))
        missing -= count
    assert missing == 0
    return found


@settings(max_examples=40)
@given(seed=st.integers(0, 2**53), n_samples=st.integers(4_000, 120_000))
def test_every_stretch_is_of_a_clip_and_at_the_snr_by_itself(seed, n_samples):
    noise, used = string(seed, n_samples)
    assert noise is not None and noise.shape == (n_samples,) and noise.dtype == torch.float32
    speech = 0.05 * torch.randn(n_samples, generator=torch.Generator().manual_seed(seed % 1000))
    distorter = Distorter.from_config(STRUNG)
    plan = distorter.plan([str(seed)])
    noisy, _ = distorter(speech[None], None, plan, [noise])
    added, at = (noisy[0].double() - speech.double()), 0
    for number, start, count in stretches(n_samples, used):
        clip = CLIPS[number][start : start + count].double()
        gain = (speech.double().square().mean() / 10 ** (plan[0].snr_db / 10) / clip.square().mean()).sqrt()
        ours = added[at : at + count]
        snr_db = 10 * (speech.double().square().mean() / ours.square().mean()).log10()
        assert float(snr_db) == pytest.approx(plan[0].snr_db, abs=0.01)
        assert torch.allclose(ours, gain * clip, atol=1e-5 * float((gain * clip).abs().max()) + 1e-8)
        at += count


def test_clips_are_drawn_in_proportion_to_their_duration_and_short_ones_never():
    draws = ClipDraws(np.array([0.5, 1.0, 3.0, 0.999, 4.0, 0.0]))
    assert draws.n_short == 3
    generator = np.random.default_rng(0)
    drawn = [draws.draw(generator) for _ in range(4000)]
    counts = np.bincount([number for number, _ in drawn], minlength=6)
    assert counts[[0, 3, 5]].sum() == 0
    assert chisquare(counts[[1, 2, 4]], 4000 * np.array([1, 3, 4]) / 8).pvalue > 1e-3
    assert kstest([place for _, place in drawn], "uniform").pvalue > 1e-3


def test_no_clip_is_long_enough():
    for durations in ([0.5, 0.9], []):
        with pytest.raises(ValueError, match="no clip has 1 s"):
            ClipDraws(np.array(durations))


def test_the_last_clip_is_cropped_at_a_random_place():
    places = []
    for seed in range(300):
        noise, used = string(seed, 20_000)
        number, start, count = stretches(20_000, used)[-1]
        if (room := len(CLIPS[number]) - count) > 1000:
            places.append(start / room)
        again, _ = string(seed, 20_000)
        assert noise is not None and again is not None and torch.equal(noise, again)
    assert kstest(places, "uniform").pvalue > 1e-3


def test_a_silent_or_missing_clip_gives_its_turn_to_the_next():
    clips = [CLIPS[0], torch.zeros(64_000)]
    noise, used = string(1, 80_000, clips, ClipDraws(np.array([1.0, 4.0])))
    assert noise is not None and {number for number, _ in used} == {0}
    assert noise.reshape(5, -1).square().mean(1).numpy() == pytest.approx(np.ones(5), rel=1e-4)
    asked = []
    lost, used = string_clips(
        ClipDraws(np.ones(3)), 1, 800, length=lambda number: 16_000, read=lambda *part: asked.append(part)
    )
    assert lost is None and used == [] and len(asked) == 20


def test_silence_is_left_out_and_counted_and_a_short_clip_is_refused():
    distorter = Distorter.from_config(STRUNG)
    plan = distorter.plan(["a"])
    speech = 0.1 * torch.ones(1, 1000)
    done = distorter.apply(speech, None, plan, [torch.zeros(1000)])
    assert torch.equal(done[0], speech) and done[1][0].additive == "none" and distorter.skipped_silent == 1
    with pytest.raises(ValueError, match="utterance 'a' needs strung clips of 1000 samples .* got 999"):
        distorter(speech, None, plan, [torch.ones(999)])
