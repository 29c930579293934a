"""Effects against what sox wrote, and against the sox program where there is one."""

import shutil
import subprocess

import numpy as np
import pytest
import soundfile
import torch

from distill.upstream.sox_effects import apply_effects_file, apply_effects_tensor, effect_names
from tests.paths import GOLDEN

KEYWORD_CHAIN = [["channels", "1"], ["rate", "16000"], ["gain", "-3.0"]]  # s3prl's speech_commands
SPLIT = ["silence", "1", "0.1", "0.1%", "-1", "0.1", "0.1%"]  # s3prl's speaker verification
ENDPOINT = ["vad", "-T", "0.25", "-p", "0.1"]  # s3prl's query by example


def snr_db(ours, reference) -> float:
    ours, reference = torch.as_tensor(ours).double(), torch.as_tensor(reference).double()
    assert ours.shape == reference.shape
    return float(10 * torch.log10(reference.square().sum() / (ours - reference).square().sum()))


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN / "sox_effects.npz") as archive:
        return {name: torch.from_numpy(archive[name]) for name in archive.files if archive[name].ndim}


def test_keyword_chain_at_16_khz(golden):
    out, rate = apply_effects_tensor(golden["input"][None], 16_000, KEYWORD_CHAIN)
    assert rate == 16_000
    assert snr_db(out[0], golden["kws_gain_-3"]) > 110


def test_keyword_chain_from_22_khz_stereo(golden):
    out, rate = apply_effects_tensor(golden["rate_22050_stereo"], 22_050, KEYWORD_CHAIN)
    assert rate == 16_000
    assert snr_db(out[0], golden["kws_from_22050_stereo"]) > 75


def test_files_and_layouts(golden, tmp_path):
    stereo = golden["rate_22050_stereo"]
    soundfile.write(tmp_path / "stereo.wav", stereo.T.numpy(), 22_050, subtype="FLOAT")
    expected, _ = apply_effects_tensor(stereo, 22_050, KEYWORD_CHAIN)
    out, rate = apply_effects_file(tmp_path / "stereo.wav", KEYWORD_CHAIN)
    assert rate == 16_000
    torch.testing.assert_close(out, expected)
    out, _ = apply_effects_file(str(tmp_path / "stereo.wav"), KEYWORD_CHAIN, channels_first=False)
    torch.testing.assert_close(out, expected.T)
    out, _ = apply_effects_tensor(stereo.T, 22_050, KEYWORD_CHAIN, channels_first=False)
    torch.testing.assert_close(out, expected.T)


SILENCE, LOUD = 1e-5, 0.1
GATED = {
    "bursts": [(0.5, SILENCE), (0.3, LOUD), (0.05, SILENCE), (0.2, LOUD), (0.5, SILENCE), (0.05, LOUD)]
    + [(0.5, SILENCE), (0.4, LOUD), (0.08, SILENCE)],
    "short burst at the end": [(0.5, SILENCE), (0.3, LOUD), (0.5, SILENCE), (0.08, LOUD)],
    "only silence": [(0.3, SILENCE)],
    "loud from the start": [(0.3, LOUD), (0.3, 0.0)],
    "shorter than the window": [(0.01, LOUD)],
}
# What `sox -D in.wav out.wav silence 1 0.1 0.1% -1 0.1 0.1%` (14.4.2) keeps of these: [from, to) in samples.
KEPT = {
    "bursts": [(8002, 17119), (33601, 41280)],
    "short burst at the end": [(8002, 13119)],
    "only silence": [],
    "loud from the start": [(2, 5118)],
    "shorter than the window": [],
}


def gated(name: str) -> torch.Tensor:
    """A sweep, so that no two places look alike, with the amplitudes of `GATED`."""
    envelope = np.concatenate([np.full(round(seconds * 16_000), level) for seconds, level in GATED[name]])
    time = np.arange(len(envelope)) / 16_000
    return torch.from_numpy((envelope * np.sin(2 * np.pi * (300 + 100 * time) * time)).astype(np.float32))


@pytest.mark.parametrize("name", GATED)
def test_silence_keeps_what_sox_keeps(name):
    x = gated(name)
    expected = torch.cat([x[:0], *[x[a:b] for a, b in KEPT[name]]])
    out, _ = apply_effects_tensor(x[None], 16_000, [SPLIT])
    torch.testing.assert_close(out[0], expected)


def test_closed_forms():
    x = torch.tensor([[0.1, -0.4, 0.2], [0.3, 0.0, -0.2]])

    def apply(*effect: str, x=x):
        return apply_effects_tensor(x, 10, [effect])[0]

    torch.testing.assert_close(apply("channels", "1"), torch.tensor([[0.2, -0.2, 0.0]]))
    torch.testing.assert_close(apply("channels", "3"), x[[0, 1, 0]])
    torch.testing.assert_close(apply("norm"), x / 0.4)
    torch.testing.assert_close(apply("norm", "-6"), x / 0.4 * 10**-0.3)
    torch.testing.assert_close(apply("gain", "-n", "-6"), x / 0.4 * 10**-0.3)
    torch.testing.assert_close(apply("gain", "20"), torch.tensor([[1.0, -1.0, 1.0], [1.0, 0.0, -1.0]]))
    torch.testing.assert_close(apply("reverse"), x.flip(1))
    torch.testing.assert_close(apply("pad", "0.1", "0.2"), torch.nn.functional.pad(x, (1, 2)))
    torch.testing.assert_close(apply("pad", "0.1"), torch.nn.functional.pad(x, (1, 0)))
    torch.testing.assert_close(apply("trim", "0.1", "0.1"), x[:, 1:2])
    torch.testing.assert_close(apply("trim", "0.1"), x[:, 1:])
    assert apply("norm", x=torch.zeros(1, 4)).abs().max() == 0
    assert apply("vad", x=torch.zeros(1, 0)).shape == (1, 0)


def test_the_input_is_left_alone():
    x = torch.tensor([[2.0, 0.5]])
    out, _ = apply_effects_tensor(x, 16_000, [["gain", "-6"]])
    assert x.tolist() == [[2.0, 0.5]]
    assert out[0, 0] == pytest.approx(10**-0.3)  # clipped before, as sox does when it reads


SOX = shutil.which("sox")


@pytest.mark.skipif(SOX is None, reason="the program sox is not installed")
@pytest.mark.parametrize(
    ("chain", "least_db"),
    [
        ([["rate", "8000"]], 60),
        ([["rate", "44100"]], 70),
        ([["norm", "-3"], ["pad", "0.1", "0.2"], ["trim", "0.05", "2"]], 110),
        ([["norm"], ENDPOINT, ["reverse"], ENDPOINT, ["reverse"], ["pad", "0", "3"]], 110),
        ([["gain", "-3.0"], SPLIT], 110),
        ([["gain", "30"], ["reverse"]], 110),
    ],
)
def test_against_the_program(chain, least_db, golden, tmp_path):
    generator = torch.Generator().manual_seed(0)
    hiss = 1e-4 * torch.randn(16_000, generator=generator)
    x = torch.cat([hiss, golden["input"], hiss, golden["input"][:20_000], hiss])
    soundfile.write(tmp_path / "in.wav", x.numpy(), 16_000, subtype="FLOAT")
    out, rate = apply_effects_file(tmp_path / "in.wav", chain)
    words = [word for effect in chain for word in effect]
    command = [SOX, "-D", "in.wav", "-e", "float", "-b", "32", "out.wav", *words]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    expected, expected_rate = soundfile.read(tmp_path / "out.wav", dtype="float32")
    assert rate == expected_rate
    assert snr_db(out[0], expected) > least_db


def test_against_torchaudio(golden):
    """All that s3prl does, where torchaudio still has sox and the system its library."""
    theirs = pytest.importorskip("torchaudio.sox_effects", reason="gone in torchaudio 2.9")
    if theirs.__name__ == "distill.upstream.sox_effects":
        pytest.skip("torchaudio's own is out of order")
    try:
        theirs.effect_names()
    except OSError:
        pytest.skip("libsox.so is not installed")
    x, rate = golden["rate_22050_stereo"], 22_050
    chains = [KEYWORD_CHAIN, [*KEYWORD_CHAIN, SPLIT]]
    chains.append([["channels", "1"], ["rate", "16000"], ["norm"], ENDPOINT, ["reverse"], ENDPOINT])
    chains.append([["pad", "0.5", "0.5"], ["trim", "0.7", "1"]])
    for chain in chains:
        expected, expected_rate = theirs.apply_effects_tensor(x, rate, chain)
        out, out_rate = apply_effects_tensor(x, rate, chain)
        assert out_rate == expected_rate
        assert snr_db(out, expected) > 70, chain


@pytest.mark.parametrize(
    ("effect", "message"),
    [
        (["reverb", "50"], "'reverb' is not available: there are channels, rate"),
        (["rate"], "sox effect 'rate': expected one argument"),
        (["rate", "16000.5"], "whole Hz"),
        (["channels", "0"], "at least one channel"),
        (["gain", "-l", "3"], "sox effect 'gain -l 3'"),
        (["trim", "-1"], "times in seconds"),
        (["vad", "-q", "1"], "-t LEVEL"),
        (["silence", "1", "0.1", "0.1%"], "SECONDS LEVEL%"),
        (["silence", "1", "0.1", "-50d", "-1", "0.1", "0.1%"], "per cent"),
        (["reverse", "1"], "no arguments"),
    ],
)
def test_what_cannot_be_done_is_said(effect, message):
    with pytest.raises(ValueError, match=message):
        apply_effects_tensor(torch.zeros(1, 100), 16_000, [effect])


def test_wrong_tensors_are_refused(tmp_path):
    with pytest.raises(ValueError, match="floating-point tensor with two dimensions"):
        apply_effects_tensor(torch.zeros(100), 16_000, [])
    with pytest.raises(ValueError, match="int16"):
        apply_effects_tensor(torch.zeros(1, 100, dtype=torch.int16), 16_000, [])
    with pytest.raises(ValueError, match="normalize=False"):
        apply_effects_file(tmp_path / "x.wav", [], normalize=False)
    with pytest.raises(RuntimeError, match=r"x\.wav"):
        apply_effects_file(tmp_path / "x.wav", [])


def test_names():
    assert {"channels", "rate", "gain"} <= set(effect_names())
