"""Distorted copies on disk: what is listed, and that nothing is overwritten."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from lhotse import CutSet, SupervisionSegment

from distill.data.audio import read_audio, samples_at_16k
from distill.data.sources import open_cuts
from distill.downstream.distorted_sets import DistortedSet
from distill.downstream.materialise import materialise
from distill.errors import UserError
from tests.downstream.tone_sets import audio, clean, listing, snr_db


def test_a_materialised_set_has_the_levels_that_it_lists(low_speech, corpora, tmp_path):
    path = materialise(str(low_speech), tmp_path / "set", "fsd", {"fsd": [corpora["fsd"]]})
    rows = listing(path)
    assert sorted(row["id"] for row in rows) == sorted(f"deep/u{index}" for index in range(11))
    for row in rows:
        file = path.parent / row["path"]
        assert soundfile.info(file).subtype == "PCM_16" and soundfile.info(file).samplerate == 16_000
        samples = soundfile.read(file)[0] / float(row["gain"])
        original = clean(low_speech, row["id"])
        assert len(samples) == len(original)
        measured = snr_db(original, samples - original)
        assert measured == pytest.approx(float(row["snr_db"]), abs=0.1) and 10 <= float(row["snr_db"]) <= 20
        assert (row["additive"], row["non_additive"], row["rir"]) == ("fsd", "none", "no")
        assert row["noise"] in ("0", "1") and row["room"] == ""
        assert 0 <= float(row["noise_start_s"]) <= (40_000 - len(samples)) / 16_000
        assert row["noise"] == "1" or float(row["noise_start_s"]) == 0  # the short clip is repeated


def test_strung_clips_are_all_listed(low_speech, corpora, tmp_path):
    path = materialise(str(low_speech), tmp_path / "set", "ns", {"dns": [corpora["dns"]]})
    for row in listing(path):
        names, starts = row["noise"].split("|"), row["noise_start_s"].split("|")
        samples = soundfile.read(path.parent / row["path"])[0]
        assert set(names) == {"1"} and len(names) == len(starts) == -(-len(samples) // 40_000)
        assert 0 <= float(row["snr_db"]) <= 30


def test_a_materialised_set_is_that_of_the_runs(low_speech, low_cuts, corpora, reader, tmp_path):
    path = materialise(
        str(low_speech), tmp_path / "set", "2-dist", {n: [c] for n, c in corpora.items()}, seed=3
    )
    expected = audio(DistortedSet(low_cuts, "2-dist", reader, seed=3), 5)
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


@pytest.mark.parametrize(("kind", "parameter"), [("clipping", "factor"), ("time_drop", "ms")])
def test_a_materialised_set_of_one_effect_outside_the_papers_mix(low_speech, tmp_path, kind, parameter):
    rows = listing(materialise(str(low_speech), tmp_path / "set", kind, {}))
    assert len(rows) == 11 and {(row["additive"], row["non_additive"]) for row in rows} == {("none", kind)}
    assert {row["parameters"].partition("=")[0] for row in rows} == {parameter}
    assert all(float(row["parameters"].partition("=")[2]) > 0 for row in rows)


def test_a_materialised_set_keeps_classes_and_texts_and_names_its_rooms(low_speech, corpora, tmp_path):
    spoken = []
    for number, cut in enumerate(open_cuts(str(low_speech))):
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


def test_a_set_of_the_authors_variant(low_speech, corpora, tmp_path):
    noises = {name: [corpora[name]] for name in ("dns", "rir")}
    rows = listing(materialise(str(low_speech), tmp_path / "set", "dns", noises, variant="authors"))
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


def test_a_set_is_not_written_over(low_speech, tmp_path):
    path = materialise(str(low_speech), tmp_path / "set", "clean", {})
    with pytest.raises(UserError, match="distortions.tsv exists: choose another folder"):
        materialise(str(low_speech), tmp_path / "set", "clean", {})
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
