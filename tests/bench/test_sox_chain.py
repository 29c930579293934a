"""The chain of sox effects: what is measured is what the plan asks for."""

import numpy as np
import pytest
import soundfile

from bench import sox, sox_chain
from bench.contenders import Contender


def test_noise_is_mixed_at_the_snr_of_the_plan(tmp_path):
    draw = np.random.default_rng(0)
    soundfile.write(tmp_path / "noise.wav", 0.1 * draw.standard_normal(700), 16_000)
    speech = draw.standard_normal(2000).astype(np.float32)
    kinds = set()
    for plan in sox_chain.plans(40, 0):
        if plan.additive != "none":
            noise = sox_chain.with_noise(speech, plan, [tmp_path / "noise.wav"]) - speech
            assert 10 * np.log10((speech**2).mean() / (noise**2).mean()) == pytest.approx(
                plan.snr_db, abs=0.01
            )
            kinds.add(plan.additive)
    assert kinds == {"musan", "wham", "gaussian"}


def test_effects_are_those_of_the_plan():
    words = {plan.non_additive: sox_chain.effect(plan)[:1] for plan in sox_chain.plans(40, 0)}
    assert words == {"reverb": ("reverb",), "pitch": ("pitch",), "band_reject": ("sinc",), "none": ()}


@pytest.mark.skipif(not sox.available(), reason="needs the sox binary")
def test_sox_gives_back_what_it_was_given():
    samples = np.linspace(-0.5, 0.5, 100, dtype=np.float32)
    assert np.abs(sox_chain.by_sox(samples, ()) - samples).max() < 1e-6


def test_ratios_are_those_of_the_same_round():
    ours, chain, starts = (Contender(name, lambda: print, 1.0) for name in ("ours", "chain", "starts"))
    ours.cpu_s, chain.cpu_s, starts.cpu_s = [1.0, 2.0, 1.0], [8.0, 8.0, 9.0], [1.0, 2.0, 1.0]
    first, second = sox_chain.ratios(ours, chain, starts)
    assert first.split()[-3:] == ["8.00", "4.00", "9.00"] and second.split()[-3:] == ["7.00", "3.00", "8.00"]
    chain.failure = "no sox binary on the path"
    assert sox_chain.ratios(ours, chain, starts) == []
