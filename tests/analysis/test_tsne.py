"""Fig. 2: one point for each split and kind of speech, in the same order for every kind."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from distill.analysis.tsne import KINDS, draw, plot, project, split_means
from distill.checkpoints import native
from distill.data.noise import NoiseReader
from distill.data.sources import open_cuts
from distill.errors import UserError
from distill.hubert import HubertEncoder

N = 7


@pytest.fixture(scope="module")
def encoder() -> HubertEncoder:
    torch.manual_seed(0)
    return HubertEncoder.from_preset("mini").eval()


@pytest.fixture(scope="module")
def speech(tmp_path_factory) -> Path:
    """Lengths that are in another order than the names."""
    root = tmp_path_factory.mktemp("speech")
    generator = np.random.default_rng(0)
    for index, n_samples in enumerate((5000, 3000, 4000, 2000, 6000, 2500, 3500)):
        soundfile.write(root / f"{index}.wav", 0.1 * generator.standard_normal(n_samples), 16_000)
    return root


def test_splits_are_means_over_utterances_in_the_order_of_their_names(encoder, speech):
    alone = []
    for index in range(N):
        wave = torch.from_numpy(soundfile.read(speech / f"{index}.wav", dtype="float32")[0])
        with torch.no_grad():
            alone.append(encoder(wave[None]).hidden_states[-1][0].mean(0).numpy())
    means = split_means({"m": encoder}, open_cuts(speech), NoiseReader({}), splits=3)["m"]
    # As numpy's array_split: 3 + 2 + 2 utterances.
    expected = [np.mean(alone[:3], 0), np.mean(alone[3:5], 0), np.mean(alone[5:], 0)]
    np.testing.assert_allclose(means["clean"], expected, atol=1e-5)
    each = split_means({"m": encoder}, open_cuts(speech), NoiseReader({}), splits=100)["m"]
    np.testing.assert_allclose(each["clean"], alone, atol=1e-5)


def test_every_kind_has_its_splits_in_the_same_order(encoder, speech, noise_folder):
    source = str(noise_folder)
    everything = NoiseReader({name: source for name in ("musan", "fsd", "dns", "rir")})
    means = split_means({"m": encoder}, open_cuts(speech), everything)["m"]
    assert tuple(means) == KINDS == ("clean", "musan", "gaussian", "reverb", "fsd", "dns")
    for kind, points in means.items():
        assert points.shape == (N, 128) and np.isfinite(points).all()
        # Noise at 10 dB and more leaves most utterances nearest to themselves.
        distances = np.linalg.norm(points[:, None] - means["clean"], axis=2)
        if kind in ("musan", "gaussian", "fsd"):
            assert (distances.argmin(1) == np.arange(N)).mean() > 0.5
        assert (kind == "clean") == (not np.diag(distances).any())


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ((), {"clean", "gaussian", "reverb"}),
        (("fsd",), {"clean", "gaussian", "reverb", "fsd"}),
        (("dns",), {"clean", "gaussian", "reverb"}),  # its rooms are missing
        (("dns", "rir"), {"clean", "gaussian", "reverb", "dns"}),
    ],
)
def test_kinds_without_noise_are_left_out(encoder, speech, noise_folder, given, expected):
    reader = NoiseReader({name: str(noise_folder) for name in given})
    means = split_means({"m": encoder}, open_cuts(speech), reader, splits=2)
    assert set(means["m"]) == expected


def test_kinds_that_are_left_out_are_named(encoder, speech, noise_folder, caplog):
    split_means({"m": encoder}, open_cuts(speech), NoiseReader({"dns": str(noise_folder)}), splits=2)
    assert caplog.messages == [
        "t-SNE is without musan (add --noise musan=SOURCE), fsd (add --noise fsd=SOURCE), "
        "dns (add --noise rir=SOURCE)"
    ]


def test_projections_keep_clusters_apart():
    generator = np.random.default_rng(0)
    means = {
        "clean": generator.standard_normal((20, 16)),
        "fsd": 50 + generator.standard_normal((20, 16)),
    }
    flat = project(means, seed=1)
    assert {kind: points.shape for kind, points in flat.items()} == {"clean": (20, 2), "fsd": (20, 2)}
    middles = {kind: points.mean(0) for kind, points in flat.items()}
    for kind, points in flat.items():
        own = np.linalg.norm(points - middles[kind], axis=1)
        other = np.linalg.norm(points - middles["fsd" if kind == "clean" else "clean"], axis=1)
        assert (own < other).all()
    again = project(means, seed=1)
    assert all(np.array_equal(flat[kind], again[kind]) for kind in flat)


def test_pictures(tmp_path):
    points = {"clean": np.zeros((3, 2)), "dns": np.ones((3, 2))}
    for suffix, start in {"png": b"\x89PNG\r\n\x1a\n", "pdf": b"%PDF", "svg": b"<?xml"}.items():
        path = draw({"a": points, "b": points, "c": points, "d": points}, tmp_path / "new" / f"x.{suffix}")
        assert path.read_bytes().startswith(start)


def test_plot(encoder, speech, tmp_path):
    native.write(encoder, tmp_path / "model")
    picture = plot([str(tmp_path / "model")], str(speech), {}, tmp_path / "x.png")
    assert picture.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(UserError, match=r"must end in .png, .pdf or .svg"):
        plot([str(tmp_path / "model")], str(speech), {}, tmp_path / "x.txt")
