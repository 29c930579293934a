"""Distorted test sets: the same audio for everybody, of the right noise, at the level that is listed."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import scipy.signal
import soundfile
import torch
from lhotse import CutSet, SupervisionSegment

from distill.data.audio import read_audio, samples_at_16k
from distill.data.noise import NoiseReader
from distill.data.sources import open_cuts
from distill.distortions import CONDITIONS, LABELS, Distorter, DistortionConfig
from distill.downstream.distorted_sets import DistortedSet, find_condition
from distill.downstream.embeddings import embed
from distill.downstream.materialise import materialise
from distill.errors import DataError, UsageError, UserError
from distill.hubert import HubertEncoder

CORPORA = ("musan", "wham", "fsd", "dns", "rir")
NOISE_HZ = {
    "musan": 500,
    "wham": 1000,
    "fsd": 2000,
    "dns": 4000,
}  # each corpus is one tone: easy to tell apart


@pytest.fixture(scope="module")
def corpora(tmp_path_factory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("corpora")
    generator = np.random.default_rng(0)
    for name in CORPORA:
        (root / name).mkdir()
        for index, n_samples in enumerate((4000, 40_000)):  # shorter and longer than the speech
            if name == "rir":
                clip = generator.standard_normal(800) * np.exp(-np.arange(800) / 150)
                clip[:20] = 0
                clip[20] = 3.0  # the direct path
                clip /= 4
            else:
                clip = 0.2 * np.sin(2 * np.pi * NOISE_HZ[name] * np.arange(n_samples) / 16_000)
            soundfile.write(root / name / f"{index}.wav", clip, 16_000, subtype="FLOAT")
    return {name: str(root / name) for name in CORPORA}


@pytest.fixture(scope="module")
def reader(corpora) -> NoiseReader:
    return NoiseReader(corpora)


@pytest.fixture(scope="module")
def speech(tmp_path_factory) -> Path:
    """Eleven utterances of low-passed noise: nothing where the tones are."""
    root = tmp_path_factory.mktemp("speech")
    generator = np.random.default_rng(1)
    low = np.asarray(scipy.signal.firwin(401, 200, fs=16_000))
    (root / "deep").mkdir()
    for index in range(11):
        noise = generator.standard_normal(int(generator.integers(8000, 20_000)))
        samples = np.convolve(noise, low, mode="same")
        samples *= 0.2 / samples.std()
        soundfile.write(root / "deep" / f"u{index}.wav", samples, 16_000, subtype="FLOAT")
    return root


@pytest.fixture(scope="module")
def cuts(speech) -> CutSet:
    return open_cuts(speech)


def audio(dataset: DistortedSet, size: int) -> dict[str, np.ndarray]:
    found = {}
    for batch, waveforms, lengths, _ in dataset.batches(size):
        for cut, wave, length in zip(batch, waveforms, lengths.tolist(), strict=True):
            assert not wave[length:].any()
            found[cut.id] = wave[:length].numpy()
    return found


def clean(speech: Path, name: str) -> np.ndarray:
    return soundfile.read(speech / f"{name}.wav", dtype="float32")[0]


def snr_db(signal: np.ndarray, noise: np.ndarray) -> float:
    return 10 * np.log10(np.mean(signal.astype(float) ** 2) / np.mean(noise.astype(float) ** 2))


def strongest_hz(samples: np.ndarray) -> float:
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return float(np.fft.rfftfreq(len(samples), 1 / 16_000)[spectrum.argmax()])


def dry(samples: np.ndarray, corpora: dict[str, str], choice: int) -> np.ndarray:
    """Convolved with a room of unit energy, aligned at the direct path, by scipy."""
    rir, _ = soundfile.read(Path(corpora["rir"]) / f"{choice}.wav")
    rir = rir / np.sqrt(np.sum(rir**2))
    return scipy.signal.fftconvolve(samples, rir)[np.abs(rir).argmax() :][: len(samples)]


@pytest.mark.parametrize("condition", ["clean", "2-dist", "fsd", "dns", "reverb", "pitch"])
def test_the_audio_does_not_depend_on_the_batch_size(cuts, reader, condition):
    alone = audio(DistortedSet(cuts, condition, reader), 1)
    for size in (4, 64):
        together = audio(DistortedSet(cuts, condition, reader), size)
        assert together.keys() == alone.keys() == {cut.id for cut in cuts}
        for name, samples in together.items():
            np.testing.assert_allclose(samples, alone[name], atol=2e-6)


def test_nor_on_the_other_utterances_of_the_set(cuts, reader):
    few = CutSet.from_cuts(list(cuts)[3:6])
    whole = audio(DistortedSet(cuts, "2-dist", reader), 16)
    for name, samples in audio(DistortedSet(few, "2-dist", reader), 16).items():
        np.testing.assert_allclose(samples, whole[name], atol=2e-6)


def test_another_seed_is_another_set(cuts, reader):
    first, second = (audio(DistortedSet(cuts, "fsd", reader, seed=seed), 16) for seed in (0, 1))
    assert all(not np.array_equal(first[name], second[name]) for name in first)


def test_clean_is_clean(cuts, speech):
    for name, samples in audio(DistortedSet(cuts, "clean"), 4).items():
        np.testing.assert_array_equal(samples, clean(speech, name))


def test_fsd_adds_fsd_noise_and_nothing_else(cuts, reader, speech):
    for name, samples in audio(DistortedSet(cuts, "fsd", reader), 4).items():
        noise = samples - clean(speech, name)
        assert strongest_hz(noise) == pytest.approx(NOISE_HZ["fsd"], abs=5)
        assert 10 <= snr_db(clean(speech, name), noise) <= 20


def test_dns_is_a_room_and_then_dns_noise(cuts, reader, corpora, speech):
    for batch, waveforms, lengths, plan in DistortedSet(cuts, "dns", reader).batches(4):
        for cut, wave, length, done in zip(batch, waveforms, lengths.tolist(), plan, strict=True):
            room = dry(clean(speech, cut.id), corpora, int(done.rir_choice * 2))
            noise = wave[:length].numpy() - room
            assert strongest_hz(noise) == pytest.approx(NOISE_HZ["dns"], abs=5)
            assert snr_db(room, noise) == pytest.approx(done.snr_db, abs=0.1)
            assert 10 <= done.snr_db <= 20


def test_the_conditions_of_training_and_testing_share_no_noise():
    names = [f"utterance{index}" for index in range(400)]
    heard = {}
    for condition in CONDITIONS:
        plan = Distorter.from_config(condition, split="test").plan(names, stream="test")
        heard[condition] = {p.additive for p in plan} | {p.non_additive for p in plan}
        assert {p.rir for p in plan} == {condition == "dns"}
    assert heard == {
        "clean": {"none"},
        "2-dist": {"musan", "wham", "gaussian", "none", "reverb", "pitch", "band_reject"},
        "fsd": {"fsd", "none"},
        "dns": {"dns", "none"},
    }


def test_only_the_noise_of_the_condition_is_needed(cuts, corpora):
    only = NoiseReader({"fsd": corpora["fsd"]})
    assert len(audio(DistortedSet(cuts, "fsd", only), 4)) == 11
    with pytest.raises(DataError, match="dns|rir"):
        audio(DistortedSet(cuts, "dns", only), 4)


def test_finding_conditions():
    assert find_condition("2-dist") == DistortionConfig()
    own = DistortionConfig(additive=("none",))
    assert find_condition(own) is own
    for name in LABELS[:-1]:
        config = find_condition(name)
        applied = {*config.additive, *config.non_additive} - {"none"}
        assert applied == {name} and not config.rir
    with pytest.raises(
        UsageError, match="unknown condition 'rain'; there are clean, 2-dist, fsd, dns, musan, "
    ):
        find_condition("rain")
    assert find_condition("dns", "authors").variant == "authors" and find_condition("dns", "authors").rir
    assert find_condition("pitch", "authors").pitch_cents == 500
    with pytest.raises(UsageError, match="variant must be paper or authors, not 'theirs'"):
        find_condition("2-dist", "theirs")


# ------------------------------------------------------------------------------------------ materialised sets


def listing(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def test_a_materialised_set_has_the_levels_that_it_lists(speech, corpora, tmp_path):
    path = materialise(str(speech), tmp_path / "set", "fsd", {"fsd": [corpora["fsd"]]})
    rows = listing(path)
    assert sorted(row["id"] for row in rows) == sorted(f"deep/u{index}" for index in range(11))
    for row in rows:
        file = path.parent / row["path"]
        assert soundfile.info(file).subtype == "PCM_16" and soundfile.info(file).samplerate == 16_000
        samples = soundfile.read(file)[0] / float(row["gain"])
        original = clean(speech, row["id"])
        assert len(samples) == len(original)
        measured = snr_db(original, samples - original)
        assert measured == pytest.approx(float(row["snr_db"]), abs=0.1) and 10 <= float(row["snr_db"]) <= 20
        assert (row["additive"], row["non_additive"], row["rir"]) == ("fsd", "none", "no")
        assert row["noise"] in ("0", "1") and row["room"] == ""
        assert 0 <= float(row["noise_start_s"]) <= (40_000 - len(samples)) / 16_000
        assert row["noise"] == "1" or float(row["noise_start_s"]) == 0  # the short clip is repeated


def test_a_materialised_set_is_that_of_the_runs(speech, cuts, corpora, reader, tmp_path):
    path = materialise(str(speech), tmp_path / "set", "2-dist", {n: [c] for n, c in corpora.items()}, seed=3)
    expected = audio(DistortedSet(cuts, "2-dist", reader, seed=3), 5)
    rows = listing(path)
    assert len({row["additive"] for row in rows}) > 1 and len({row["non_additive"] for row in rows}) > 1
    for row in rows:
        samples = soundfile.read(path.parent / row["path"])[0] / float(row["gain"])
        np.testing.assert_allclose(samples, expected[row["id"]], atol=2e-4)  # 16 bits, a gain of four digits
        given = row["parameters"].partition("=")[0]
        assert (
            given
            == {"reverb": "room_scale", "pitch": "cents", "band_reject": "hz", "none": ""}[
                row["non_additive"]
            ]
        )
        assert (row["snr_db"] == "") == (row["additive"] == "none")
    # It can be opened as speech again.
    assert len(list(open_cuts(f"{path}?non_additive=none"))) == sum(r["non_additive"] == "none" for r in rows)


def test_a_materialised_set_keeps_classes_and_texts_and_names_its_rooms(speech, corpora, tmp_path):
    spoken = []
    for number, cut in enumerate(open_cuts(str(speech))):
        cut.custom = {"label": f"class{number}"}
        cut.supervisions = [SupervisionSegment("s", cut.id, 0, cut.duration, text=f"TEXT {number}")]
        spoken.append(cut)
    CutSet(spoken).to_file(tmp_path / "spoken.jsonl.gz")
    noises = {name: [corpora[name]] for name in ("dns", "rir")}
    path = materialise(str(tmp_path / "spoken.jsonl.gz"), tmp_path / "set", "dns", noises)
    written = {cut.id: cut for cut in open_cuts(path.parent / "cuts.jsonl.gz")}
    for cut in spoken:
        again = written.pop(cut.id)
        assert again.custom == cut.custom and again.supervisions[0].text == cut.supervisions[0].text
        assert len(read_audio(again)) == samples_at_16k(cut)
    assert not written
    assert {row["room"] for row in listing(path)} <= {"0", "1"}


def test_a_set_of_the_authors_variant(speech, corpora, tmp_path):
    noises = {name: [corpora[name]] for name in ("dns", "rir")}
    rows = listing(materialise(str(speech), tmp_path / "set", "dns", noises, variant="authors"))
    assert {float(row["snr_db"]) for row in rows} <= set(range(10, 20))
    assert {row["parameters"] for row in rows} <= {f"rir_db={db}" for db in range(10, 20)}


def test_loud_speech_is_scaled_instead_of_clipped(tmp_path, corpora):
    (tmp_path / "speech").mkdir()
    loud = np.clip(2 * np.random.default_rng(0).standard_normal(16_000), -1, 1)
    soundfile.write(tmp_path / "speech" / "a.wav", loud, 16_000, subtype="FLOAT")
    path = materialise(str(tmp_path / "speech"), tmp_path / "set", "fsd", {"fsd": [corpora["fsd"]]})
    (row,) = listing(path)
    samples = soundfile.read(path.parent / row["path"])[0]
    assert 0.985 < np.abs(samples).max() < 0.995 and float(row["gain"]) < 0.99
    assert snr_db(loud, samples / float(row["gain"]) - loud) == pytest.approx(float(row["snr_db"]), abs=0.1)


def test_utterances_never_share_a_file(tmp_path):
    for name in ("a/b.wav", "a_b.wav", "a b.wav"):
        (tmp_path / "speech" / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(tmp_path / "speech" / name, np.full(1600, len(name) / 100), 16_000, subtype="FLOAT")
    path = materialise(str(tmp_path / "speech"), tmp_path / "set", "clean", {})
    rows = listing(path)
    assert len({row["path"] for row in rows}) == 3
    for row in rows:
        samples = soundfile.read(path.parent / row["path"])[0]
        original = soundfile.read(tmp_path / "speech" / f"{row['id']}.wav")[0]
        np.testing.assert_allclose(samples, original, atol=1e-4)


def test_a_set_is_not_written_over(speech, tmp_path):
    path = materialise(str(speech), tmp_path / "set", "clean", {})
    with pytest.raises(UserError, match="distortions.tsv exists: choose another folder"):
        materialise(str(speech), tmp_path / "set", "clean", {})
    assert path.exists()


def files(folder: Path) -> dict[str, bytes]:
    """Manifests name the folder and the time; what is in them is looked at elsewhere."""
    found = [path for path in folder.rglob("*") if path.is_file() and path.name != "cuts.jsonl.gz"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


@pytest.fixture
def originals(tmp_path) -> Path:
    folder = tmp_path / "originals"
    folder.mkdir()
    for name in ("a", "b"):
        samples = 0.1 * np.random.default_rng(0).standard_normal(4000)
        soundfile.write(folder / f"{name}.flac", samples, 16_000)
    return folder


def test_the_recordings_themselves_are_never_written_over(originals, tmp_path):
    before = files(tmp_path)
    with pytest.raises(UserError, match="originals is not empty: choose a new or empty folder"):
        materialise(str(originals), originals, "gaussian", {})
    (tmp_path / "link").symlink_to(originals)
    with pytest.raises(UserError, match="link is not empty"):
        materialise(str(originals), tmp_path / "link", "gaussian", {})
    with pytest.raises(UserError, match="a.flac is a file: choose a folder"):
        materialise(str(originals), originals / "a.flac", "gaussian", {})
    table = tmp_path / "t.tsv"
    table.write_text("path\noriginals/a.flac\n")
    with pytest.raises(UserError, match="is not empty"):
        materialise(str(table), originals, "clean", {})
    table.unlink()
    (tmp_path / "link").unlink()
    assert files(tmp_path) == before


def stopped(speech: Path, out: Path, monkeypatch) -> None:
    """A call that is ended when it has written one file."""
    write = soundfile.write

    def once(*args, **options):
        write(*args, **options)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(soundfile, "write", once)
        materialise(str(speech), out, "gaussian", {})


def test_a_call_that_was_stopped_can_be_made_again(originals, tmp_path, monkeypatch):
    out, whole = tmp_path / "set", tmp_path / "whole"
    stopped(originals, out, monkeypatch)
    assert (out / "a.flac").exists() and not (out / "distortions.tsv").exists()
    with pytest.raises(UserError, match="set holds an unfinished copy of another set: remove it"):
        materialise(str(originals), out, "reverb", {})
    materialise(str(originals), out, "gaussian", {})
    materialise(str(originals), whole, "gaussian", {})
    assert files(out) == files(whole) and len(files(out)) == 3


def test_nor_are_those_that_lie_in_a_set_that_was_stopped(originals, tmp_path, monkeypatch):
    out, table = tmp_path / "set", tmp_path / "t.tsv"
    table.write_text("path\nset/a.flac\n")
    out.mkdir()
    (out / "a.flac").write_bytes((originals / "a.flac").read_bytes())
    (out / ".distorting").write_text(json.dumps([str(table), "clean", {}, 0]))
    before = files(out)
    with pytest.raises(UserError, match=r"set holds .*set/a.flac, which is to be distorted: choose another"):
        materialise(str(table), out, "clean", {})
    assert files(out) == before


def test_what_could_not_be_applied_is_listed_as_such(tmp_path, corpora):
    (tmp_path / "speech").mkdir()
    for name, level in (("loud", 0.1), ("silent", 0.0)):
        soundfile.write(tmp_path / "speech" / f"{name}.wav", level * np.sin(np.arange(8000)), 16_000)
    soundfile.write(tmp_path / "nothing.wav", np.zeros(9000), 16_000)
    nothing = tmp_path / "nothing.tsv"
    nothing.write_text("path\nnothing.wav\n")
    noises = {"dns": [str(nothing)], "rir": [corpora["rir"]]}
    rows = {
        row["id"]: row
        for row in listing(materialise(str(tmp_path / "speech"), tmp_path / "a", "dns", noises))
    }
    assert {(row["additive"], row["snr_db"], row["rir"]) for row in rows.values()} == {("none", "", "yes")}
    assert rows["loud"]["left_out"] == "dns: the clip is silent"
    assert rows["silent"]["left_out"] == "dns: the speech is silent"
    noises = {"dns": [corpora["dns"]], "rir": [str(nothing)]}
    rows = {
        row["id"]: row
        for row in listing(materialise(str(tmp_path / "speech"), tmp_path / "b", "dns", noises))
    }
    assert rows["loud"]["rir"] == "no" and float(rows["loud"]["snr_db"]) >= 10
    assert rows["loud"]["left_out"] == "rir: the room impulse response is silent"
    for row in listing(materialise(str(tmp_path / "speech"), tmp_path / "c", "clean", {})):
        assert row["left_out"] == ""


@pytest.mark.parametrize("pre_norm", [False, True])
def test_embeddings_are_those_of_each_utterance_alone(pre_norm):
    torch.manual_seed(0)
    encoder = HubertEncoder.from_preset("mini", pre_norm=pre_norm).eval()
    waves, lengths = torch.randn(3, 6000), torch.tensor([6000, 2000, 4321])
    batch = embed(encoder, waves, lengths)
    for row, length in enumerate(lengths.tolist()):
        alone = encoder(waves[row : row + 1, :length]).last_hidden_state.mean(1)[0]
        torch.testing.assert_close(batch[row], alone, atol=1e-5, rtol=1e-4)
    assert not batch.requires_grad
