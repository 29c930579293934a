"""What is played is what the test sets hold."""

import io
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from distill.analysis.listening import KINDS, samples_of_distortions
from distill.data.noise import NoiseReader
from distill.data.sources import open_cuts
from distill.downstream.distorted_sets import DistortedSet


def test_sounds_are_those_of_the_test_sets(sources):
    name, samples = samples_of_distortions(sources["speech"], {"fsd": [sources["fsd"]]})
    assert name == "54400"  # nearest to three seconds
    found = {sample.title: sample for sample in samples}
    assert list(found) == [
        KINDS[kind] for kind in ("clean", "gaussian", "reverb", "pitch", "band_reject", "fsd")
    ]
    cut = open_cuts(sources["speech"]).filter(lambda cut: cut.id == name)  # pyright: ignore
    cut = cut.truncate(max_duration=3.0, offset_type="start", preserve_id=True)
    dataset = DistortedSet(cut, "fsd", NoiseReader({"fsd": sources["fsd"]}))
    _, expected, _, plan = next(dataset.batches())
    heard, rate = soundfile.read(io.BytesIO(found[KINDS["fsd"]].flac), dtype="float32")
    assert rate == 16_000
    torch.testing.assert_close(torch.from_numpy(heard), expected[0], atol=2**-15, rtol=0)
    assert found[KINDS["fsd"]].caption == f"fsd at {plan[0].snr_db:.1f} dB SNR"
    clean, _ = soundfile.read(io.BytesIO(found["Clean"].flac), dtype="float32")
    original, _ = soundfile.read(Path(sources["speech"]) / "54400.wav", dtype="float32")
    np.testing.assert_allclose(clean, original[:48_000], atol=2**-15)
    ratio = 10 * np.log10((clean**2).mean() / ((heard - clean) ** 2).mean())
    assert ratio == pytest.approx(plan[0].snr_db, abs=0.1)


def test_two_distortions_are_heard_as_two(sources):
    noises = {name: [sources[name]] for name in ("musan", "wham")}
    _, samples = samples_of_distortions(sources["speech"], noises)
    (two,) = [sample for sample in samples if sample.title == KINDS["2-dist"]]
    assert ", then " in two.caption
    assert two.caption.startswith(("musan", "wham", "gaussian"))
