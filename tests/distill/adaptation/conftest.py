"""Speech to make targets of, a small model, and helpers for both."""

import numpy as np
import pytest
import soundfile
import torch

from distill.data.sources import open_cuts
from distill.hubert import HubertEncoder
from distill.run import run
from tests.distill.adaptation.small_recipes import adapt_recipe

N_FILES = 8


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    return HubertEncoder.from_preset("mini", layers=2, dim=32, heads=2, ffn_dim=64, position_groups=4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Eight files of tones and noise, 0.4 to 1 s."""
    root = tmp_path_factory.mktemp("speech")
    rng = np.random.default_rng(0)
    for index in range(N_FILES):
        n_samples = int(rng.integers(6_400, 16_000))
        tones = np.sin(2 * np.pi * rng.integers(200, 3000) * np.arange(n_samples) / 16_000)
        soundfile.write(root / f"u{index}.wav", 0.2 * tones + 0.05 * rng.standard_normal(n_samples), 16_000)
    return root


@pytest.fixture(scope="module")
def cuts(folder):
    return open_cuts(str(folder))


@pytest.fixture(scope="module")
def finished(mini_data, tmp_path_factory):
    """The folder of a run of two steps."""
    out = tmp_path_factory.mktemp("adapt") / "run"
    run(adapt_recipe(mini_data), out)
    return out
