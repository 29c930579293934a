"""One point for each split and kind of speech, of the same utterances in the same order for every kind."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from distill.analysis.models import OurModel
from distill.analysis.splits import KINDS, Splits, joined, load_splits, make_splits, save_splits
from distill.data.noise import NoiseReader
from distill.data.sources import open_cuts
from distill.errors import DataError, UserError
from distill.hubert import HubertEncoder

N = 7
CORPORA = ("musan", "fsd", "dns", "rir")


@pytest.fixture(scope="module")
def model() -> OurModel:
    torch.manual_seed(0)
    return OurModel(HubertEncoder.from_preset("mini"), "m")


@pytest.fixture
def speech(tmp_path):
    """Lengths that are in another order than the names."""
    root = tmp_path / "speech"
    root.mkdir()
    generator = np.random.default_rng(0)
    for index, n_samples in enumerate((5000, 3000, 4000, 2000, 6000, 2500, 3500)):
        soundfile.write(root / f"{index}.wav", 0.1 * generator.standard_normal(n_samples), 16_000)
    return root


def means_of(model, speech, corpora=(), folder=None, **options) -> dict[str, np.ndarray]:
    reader = NoiseReader({name: str(folder) for name in corpora})
    return make_splits([model], open_cuts(speech), reader, **options).means["m"]


def test_splits_are_means_over_utterances_in_the_order_of_their_names(model, speech):
    alone = []
    for index in range(N):
        wave = torch.from_numpy(soundfile.read(speech / f"{index}.wav", dtype="float32")[0])
        with torch.no_grad():
            alone.append(model.encoder(wave[None]).hidden_states[-1][0].mean(0).numpy())
    means = means_of(model, speech, splits=3)
    # As numpy's array_split: 3 + 2 + 2 utterances.
    expected = [np.mean(alone[:3], 0), np.mean(alone[3:5], 0), np.mean(alone[5:], 0)]
    np.testing.assert_allclose(means["clean"], expected, atol=1e-5)
    np.testing.assert_allclose(means_of(model, speech, splits=100)["clean"], alone, atol=1e-5)


def test_every_kind_has_its_splits_in_the_same_order(model, speech, noise_folder):
    means = means_of(model, speech, CORPORA, noise_folder)
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
def test_kinds_without_noise_are_left_out(model, speech, noise_folder, given, expected):
    assert set(means_of(model, speech, given, noise_folder, splits=2)) == expected


def test_kinds_that_are_left_out_are_named(model, speech, noise_folder, caplog):
    means_of(model, speech, ["dns"], noise_folder, splits=2)
    assert caplog.messages == [
        "t-SNE is without musan (add --noise musan=SOURCE), fsd (add --noise fsd=SOURCE), "
        "dns (add --noise rir=SOURCE)"
    ]


def test_what_cannot_be_used_under_one_kind_is_left_out_under_all(model, speech, noise_folder, caplog):
    """A broken file, one too short for a frame, and silent speech, to which no noise can be added."""
    (speech / "1.wav").write_bytes(b"RIFF no more")
    soundfile.write(speech / "2.wav", np.ones(100), 16_000)
    soundfile.write(speech / "4.wav", np.zeros(5000), 16_000)
    found = make_splits([model], open_cuts(speech), NoiseReader({"fsd": str(noise_folder)}))
    assert found.utterances == ("0", "3", "5", "6") and found.number == 4
    (said,) = [message for message in caplog.messages if "left out" in message]
    assert said.startswith("3 of 7 utterances are left out: 1 (")
    assert "2 (100 samples, a frame needs 400)" in said and "4 (gaussian: the speech is silent)" in said
    for name in "124":
        (speech / f"{name}.wav").unlink()
    whole = means_of(model, speech, ["fsd"], noise_folder)
    for kind, points in found.means["m"].items():
        np.testing.assert_allclose(points, whole[kind], atol=1e-5)


def test_silent_noise_leaves_an_utterance_out(model, speech, tmp_path, caplog):
    """It would stay clean, and make the model look robust."""
    (tmp_path / "noise").mkdir()
    for name, level in (("loud", 0.1), ("quiet", 0.0)):
        samples = level * np.random.default_rng(0).standard_normal(3000)
        soundfile.write(tmp_path / "noise" / f"{name}.wav", samples, 16_000)
    found = make_splits([model], open_cuts(speech), NoiseReader({"musan": str(tmp_path / "noise")}))
    assert 2 <= len(found.utterances) < N
    moved = np.linalg.norm(found.means["m"]["musan"] - found.means["m"]["clean"], axis=1)
    assert (moved > 1e-3).all()
    assert "musan: the clip is silent" in caplog.text


def test_too_little_speech_is_refused(model, speech):
    for index in range(1, N):
        (speech / f"{index}.wav").write_bytes(b"")
    with pytest.raises(DataError, match=r"^1 of 7 utterances can be used, at least 2 are needed: 1 \("):
        means_of(model, speech)


def test_a_model_that_gives_no_numbers_is_named(speech):
    encoder = HubertEncoder.from_preset("mini")
    with torch.no_grad():
        encoder.layers[-1].ffn_norm.weight.fill_(torch.nan)
    with pytest.raises(UserError, match="^m: its last layer is not finite for clean speech"):
        means_of(OurModel(encoder, "m"), speech)


def test_all_models_hear_the_same_audio(model, speech):
    """Two models with the same weights have the same points, also when measured one by one."""
    twin = OurModel(model.encoder, "twin")
    together = make_splits([model, twin], open_cuts(speech), NoiseReader({}))
    alone = make_splits([twin], open_cuts(speech), NoiseReader({}))
    for kind, points in together.means["m"].items():
        np.testing.assert_array_equal(points, together.means["twin"][kind])
        np.testing.assert_array_equal(points, alone.means["twin"][kind])


def made(model: str, *, utterances: int = 4, seed: int = 0) -> Splits:
    generator = np.random.default_rng(seed)
    means = {kind: generator.standard_normal((2, 3)) for kind in ("clean", "fsd")}
    names = tuple(f"{index} ñ" for index in range(utterances))
    return Splits(means={model: means}, identities={model: f"hash{seed}"}, utterances=names)


def test_splits_are_saved_and_joined(tmp_path):
    path = tmp_path / "new" / "means.npz"
    assert load_splits(path, {"a": "hash0"}) is None
    both = joined([made("a"), made("b/_$", seed=1)])
    save_splits(path, both)
    read = load_splits(path, {"b/_$": "hash1", "changed": "hash2"})
    assert read is not None and read.utterances == both.utterances and list(read.means) == ["b/_$"]
    np.testing.assert_array_equal(read.means["b/_$"]["fsd"], both.means["b/_$"]["fsd"])
    assert load_splits(path, {"changed": "hash2"}) is None
    with pytest.raises(UserError, match="cannot use the same utterances"):
        joined([made("a"), made("b", utterances=3)])


def test_damaged_splits_are_named(tmp_path):
    for content in (b"", b"PK nothing", b"\x93NUMPY"):
        (tmp_path / "means.npz").write_bytes(content)
        with pytest.raises(UserError, match=r"means\.npz is damaged .*: remove it"):
            load_splits(tmp_path / "means.npz", {"a": "hash0"})


def test_what_is_in_the_picture_is_said():
    assert str(made("a")) == (
        "4 points: 2 splits of 4 utterances in 2 conditions (without musan, gaussian, reverb, dns)"
    )
    assert str(made("a", utterances=2)).startswith("4 points: 2 splits, each an utterance, in 2 conditions")


def _npz(path: Path, **arrays: Any) -> Path:
    points = np.zeros((2, 3), np.float32)
    np.savez(path, **{"utterances": np.array(["a", "b"]), "h/clean": points, "h/musan": points} | arrays)
    return path


def test_splits_of_strangers(tmp_path):
    path = _npz(tmp_path / "means.npz")
    found = load_splits(path, {"a": "h"})
    assert found is not None and found.number == 2
    wrong: dict[str, Any] = {
        "objects": {"h/clean": np.array([[{}]], dtype=object)},
        "names": {"utterances": np.array([1, 2])},
        "integers": {"h/clean": np.zeros((2, 3), np.int64)},
        "NaN": {"h/clean": np.full((2, 3), np.nan)},
        "flat": {"h/clean": np.zeros(3)},
        "no rows": {"h/clean": np.zeros((0, 3)), "h/musan": np.zeros((0, 3))},
        "other rows": {"h/clean": np.zeros((1, 3))},
        "other features": {"h/clean": np.zeros((2, 4))},
    }
    for arrays in wrong.values():
        with pytest.raises(UserError, match=r"means\.npz is damaged .*: remove it"):
            load_splits(_npz(path, **arrays), {"a": "h"})


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1" + "0" * 15 + ",), }",
        "{'descr': (",
        "[" * 200,
        "0x",
    ]
    + ["{'descr': '|O', 'fortran_order': False, 'shape': (1,), }", "{'descr': '<f4'}", "'\\x", "\\"],
)
def test_headers_of_strangers(tmp_path, header):
    text = header.ljust(118 + 128 * (len(header) // 118)) + "\n"
    array = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()
    with zipfile.ZipFile(tmp_path / "means.npz", "w") as archive:
        archive.writestr("utterances.npy", array)
    with pytest.raises(UserError, match=r"means\.npz is damaged") as caught:
        load_splits(tmp_path / "means.npz", {"a": "h"})
    assert str(caught.value).isprintable()


def test_an_archive_that_unpacks_to_gigabytes_is_not_unpacked(tmp_path):
    with zipfile.ZipFile(tmp_path / "means.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("utterances.npy", bytes(300 << 20))
    with pytest.raises(UserError, match="unpacks to 300 MB"):
        load_splits(tmp_path / "means.npz", {"a": "h"})
