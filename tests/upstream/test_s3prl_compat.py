"""What the compatibility module supplies, and that it touches nothing that works."""

import argparse
import importlib
import subprocess
import sys
import wave
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import torchaudio

from distill.upstream import s3prl_compat, sox_effects
from tests.paths import ROOT

pytestmark = pytest.mark.slow


def run(code: str) -> str:
    """The last line that a fresh interpreter prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip().splitlines()[-1] if done.stdout.strip() else ""


def test_it_needs_nothing_else_of_the_project():
    code = """
import importlib.util, sys
sys.modules.update(dict.fromkeys(("lhotse", "pytorch_lightning")))
import distill.upstream.s3prl_compat
import torchaudio
torchaudio.set_audio_backend("sox_io")
from torchaudio.sox_effects import apply_effects_file, apply_effects_tensor
from huggingface_hub import HfApi, HfFolder, Repository
if importlib.util.find_spec("s3prl"):
    import s3prl.hub
assert distill.upstream.s3prl_compat.apply() == []
print(*sorted(name for name in sys.modules if name.startswith("distill")))
"""
    allowed = {
        "distill",
        *(f"distill.upstream{name}" for name in ("", ".s3prl_compat", ".sox_effects", "._catalyst")),
    }
    assert set(run(code).split()) <= allowed


@pytest.mark.skipif(not hasattr(torchaudio, "_backend"), reason="torchaudio 2.9 or newer lacks the names")
def test_an_old_torchaudio_is_left_alone():
    code = """
import torchaudio
names = ("load", "save", "info", "set_audio_backend", "get_audio_backend")
before = [getattr(torchaudio, name) for name in names]
import distill.upstream.s3prl_compat
print(before == [getattr(torchaudio, name) for name in names])
"""
    assert run(code) == "True"


def test_without_it_s3prl_does_not_import():
    """Otherwise the tests here could not fail."""
    pytest.importorskip("s3prl")
    pytest.importorskip("tensorboardX", reason="the extra s3prl is not installed")
    with pytest.raises(AssertionError, match=r"set_audio_backend|HfFolder"):
        run("import s3prl.run_downstream")


@pytest.fixture
def untouched(monkeypatch):
    """Whatever `apply` sets in this test is taken back after it."""
    for name in ("load", "save", "info", "set_audio_backend", "sox_effects"):
        monkeypatch.setattr(torchaudio, name, getattr(torchaudio, name))
    monkeypatch.setitem(sys.modules, "torchaudio.sox_effects", sys.modules["torchaudio.sox_effects"])
    return monkeypatch


def test_what_works_stays(untouched):
    effects: Any = ModuleType("torchaudio.sox_effects")
    effects.apply_effects_tensor = lambda *_: None
    untouched.setitem(sys.modules, "torchaudio.sox_effects", effects)
    working = {name: lambda *_, **__: None for name in ("load", "save", "info", "set_audio_backend")}
    for name, function in working.items():
        untouched.setattr(torchaudio, name, function)
    assert s3prl_compat.apply() == []
    assert all(getattr(torchaudio, name) is function for name, function in working.items())
    assert sys.modules["torchaudio.sox_effects"] is effects


def test_sox_effects_without_sox_are_replaced(untouched):
    def no_library(*_):
        raise OSError("libsox.so: cannot open shared object file")

    effects: Any = ModuleType("torchaudio.sox_effects")
    effects.apply_effects_tensor = no_library
    untouched.setitem(sys.modules, "torchaudio.sox_effects", effects)
    assert s3prl_compat.apply() == ["torchaudio.sox_effects"]
    assert importlib.import_module("torchaudio.sox_effects") is sox_effects


@pytest.mark.parametrize("error", [ImportError("TorchCodec is required"), RuntimeError("no FFmpeg")])
def test_what_fails_is_replaced(untouched, error, tmp_path):
    def broken(*_, **__):
        raise error

    untouched.setattr(torchaudio, "load", broken)
    untouched.setattr(torchaudio, "save", broken)
    untouched.delattr(torchaudio, "info")
    assert s3prl_compat.apply() == ["torchaudio.info", "torchaudio.load", "torchaudio.save"]
    torchaudio.save(str(tmp_path / "x.wav"), torch.zeros(1, 800), 8000)
    samples, rate = torchaudio.load(str(tmp_path / "x.wav"))
    assert (tuple(samples.shape), rate) == ((1, 800), 8000)
    library: Any = torchaudio
    assert library.info(str(tmp_path / "x.wav")).num_frames == 800


@pytest.fixture
def ramp(tmp_path) -> Path:
    """A stereo WAV file, written by Python's own module: left counts up, right is its negative."""
    left = np.arange(1000, dtype="<i2")
    with wave.open(str(tmp_path / "ramp.wav"), "wb") as file:
        file.setparams((2, 2, 11_025, 0, "NONE", ""))
        file.writeframes(np.stack([left, -left], 1).tobytes())
    return tmp_path / "ramp.wav"


def test_load(ramp):
    count = torch.arange(1000) / 2**15
    samples, rate = s3prl_compat.load(ramp)
    assert rate == 11_025
    torch.testing.assert_close(samples, torch.stack([count, -count]))
    samples, _ = s3prl_compat.load(str(ramp), frame_offset=10, num_frames=5, channels_first=False)
    torch.testing.assert_close(samples[:, 0], count[10:15])
    assert s3prl_compat.load(ramp, frame_offset=995, num_frames=50)[0].shape == (2, 5)
    assert s3prl_compat.load(ramp, frame_offset=2000)[0].shape == (2, 0)
    with ramp.open("rb") as stream:
        assert s3prl_compat.load(stream)[0].shape == (2, 1000)
    with pytest.raises(ValueError, match="normalize=False"):
        s3prl_compat.load(ramp, normalize=False)
    with pytest.raises(RuntimeError, match="missing"):
        s3prl_compat.load(ramp.with_name("missing.wav"))


def test_info(ramp):
    found = s3prl_compat.info(ramp)
    assert (found.sample_rate, found.num_frames, found.num_channels) == (11_025, 1000, 2)
    assert (found.bits_per_sample, found.encoding) == (16, "PCM_S")
    soundfile.write(ramp.with_name("x.flac"), np.zeros(100), 16_000)
    assert s3prl_compat.info(ramp.with_name("x.flac")).encoding == "FLAC"


def test_save(tmp_path):
    x = torch.linspace(-0.9, 0.9, 200).reshape(2, 100)
    s3prl_compat.save(tmp_path / "x.wav", x, 16_000)
    assert soundfile.info(tmp_path / "x.wav").subtype == "FLOAT"
    torch.testing.assert_close(s3prl_compat.load(tmp_path / "x.wav")[0], x, atol=0, rtol=0)
    s3prl_compat.save(
        tmp_path / "y.wav", x.T, 16_000, channels_first=False, encoding="PCM_S", bits_per_sample=16
    )
    with wave.open(str(tmp_path / "y.wav")) as file:
        assert (file.getsampwidth(), file.getnchannels(), file.getnframes()) == (2, 2, 100)
        values = np.frombuffer(file.readframes(100), "<i2").reshape(-1, 2).T
    np.testing.assert_allclose(values / 2**15, x, atol=2**-15)
    s3prl_compat.save(tmp_path / "z.flac", x[0], 16_000, bits_per_sample=24)
    assert soundfile.info(tmp_path / "z.flac").subtype == "PCM_24"
    with pytest.raises(ValueError, match="no encoding 'PCM_F' with 16 bits"):
        s3prl_compat.save(tmp_path / "w.wav", x, 16_000, encoding="PCM_F", bits_per_sample=16)
    with pytest.raises(ValueError, match="compression"):
        s3prl_compat.save(tmp_path / "w.mp3", x, 16_000, compression=-4.5)


def test_checkpoints_of_the_runner_load(tmp_path):
    torch.save({"Args": argparse.Namespace(seed=7), "Step": 3}, tmp_path / "states.ckpt")
    assert torch.load(tmp_path / "states.ckpt")["Args"].seed == 7


def test_hugging_face(monkeypatch):
    import huggingface_hub

    monkeypatch.setenv("HF_TOKEN", "hf_of_this_test")
    assert huggingface_hub.HfFolder.get_token() == "hf_of_this_test"
    repository: Any = huggingface_hub.Repository
    if repository.__module__ == s3prl_compat.__name__:
        with pytest.raises(RuntimeError, match="without --push_to_hf_hub"):
            repository(local_dir=".", clone_from="x")
