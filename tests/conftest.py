"""What all tests share: one thread, nothing goes online, small corpora."""

import os
import zipfile
from contextlib import suppress
from pathlib import Path

# Before anything imports wandb or starts OpenMP. Two cores and many small tensors: more threads are slower.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["WANDB_MODE"] = "offline"
os.environ["WANDB_SILENT"] = "true"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.pop("WANDB_API_KEY", None)

import numpy as np
import pytest
import soundfile
import torch

from tests.paths import ROOT

torch.set_num_threads(1)

with suppress(ImportError):  # the environment of `make test-s3prl-stock` has no hypothesis
    from hypothesis import HealthCheck, settings

    # A busy machine is slow now and then: no test may fail for that.
    settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("unhurried")


def pytest_make_parametrize_id(config, val, argname):
    """Bytes do not name a test: compressed ones hold the time, and two processes must collect the same."""
    return f"{argname}-{len(val)}-bytes" if isinstance(val, bytes) else None


@pytest.fixture(scope="session")
def mini_data(tmp_path_factory) -> Path:
    """The tiny synthetic corpora: half a minute of training speech, keywords, noises, rooms."""
    pytest.importorskip("espeakng_loader")
    from distill.data_prep import mini

    out = tmp_path_factory.mktemp("mini_data")
    mini.prepare(out, size="tiny")
    return out


# name: (sampling rate, channels, samples)
NOISE_FILES = {
    "a.wav": (16_000, 1, 12_000),
    "b.flac": (8_000, 1, 5_000),
    "deep/c.wav": (44_100, 2, 30_000),
    "deep/d.flac": (16_000, 2, 9_000),
}


@pytest.fixture(scope="session")
def noise_folder(tmp_path_factory) -> Path:
    """Random noise as WAV and FLAC files of other rates and channel counts."""
    root = tmp_path_factory.mktemp("noise_folder")
    generator = np.random.default_rng(0)
    for name, (rate, channels, n_samples) in NOISE_FILES.items():
        (root / name).parent.mkdir(exist_ok=True)
        samples = 0.1 * generator.standard_normal((n_samples, channels))
        soundfile.write(root / name, samples, rate, subtype="PCM_16")
    return root


@pytest.fixture(scope="session")
def zip_of_the_repository(tmp_path_factory) -> Path:
    """A folder as torch.hub unpacks it: Python's zipfile makes text files of links."""
    folder = tmp_path_factory.mktemp("zip")
    tops = ("distill", *(link.resolve().name for link in (ROOT / "distill").iterdir() if link.is_symlink()))
    files = [path for top in tops for path in (ROOT / top).rglob("*") if "__pycache__" not in path.parts]
    files += [ROOT / name for name in ("hubconf.py", "pyproject.toml", "README.md", "LICENSE")]
    with zipfile.ZipFile(folder / "repository.zip", "w") as archive:
        for path in files:
            name = str(path.relative_to(ROOT))
            if path.is_symlink():
                archive.writestr(name, os.readlink(path))
            elif path.is_file():
                archive.write(path, name)
    with zipfile.ZipFile(folder / "repository.zip") as archive:
        archive.extractall(folder / "repository")
    return folder / "repository"
