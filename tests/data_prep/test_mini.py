"""The synthetic corpora: levels, spectra, alignments, splits, determinism, life without espeak-ng."""

import json
import shutil
from itertools import combinations

import numpy as np
import pytest
import soundfile

from distill.data_prep import CORPORA, mini
from tests.data_prep.mini_audio import cuts_of, rms_db

SETS = {
    *(f"{name}_{split}" for name in ("speech", "keywords", "musan", "wham") for split in mini.SPLITS),
    *("fsd_test", "dns_test", "rir_test"),
}


def test_all_sets_are_there_and_counted(mini_data):
    stamp = json.loads((mini_data / "prepared.json").read_text())
    assert set(stamp["sets"]) == SETS
    assert {path.name.removesuffix(".jsonl.gz") for path in mini_data.glob("*.jsonl.gz")} == SETS
    for name, expected in stamp["sets"].items():
        cuts = cuts_of(mini_data, name)
        assert len(cuts) == len({cut.id for cut in cuts}) == expected["cuts"] > 0
        assert sum(cut.duration for cut in cuts) / 3600 == pytest.approx(expected["hours"], abs=1e-5)
    assert stamp["sets"]["speech_train"]["cuts"] == 12
    assert stamp["sets"]["keywords_train"]["cuts"] == 20


@pytest.mark.parametrize("name", sorted(SETS))
def test_audio_is_16_bit_16_khz_mono_finite_and_unclipped(mini_data, name):
    for cut in cuts_of(mini_data, name):
        info = soundfile.info(cut.recording.sources[0].source)
        assert (info.format, info.subtype, info.samplerate, info.channels) == ("FLAC", "PCM_16", 16_000, 1)
        samples = cut.load_audio()
        assert samples.shape == (1, info.frames) == (1, cut.num_samples)
        assert 0.01 < np.abs(samples).max() < 0.95


@pytest.mark.parametrize("name", [name for name in sorted(SETS) if name.startswith(("speech", "keywords"))])
def test_speech_has_level_words_and_phones(mini_data, name):
    for cut in cuts_of(mini_data, name):
        (supervision,) = cut.supervisions
        words, phones = supervision.alignment["word"], supervision.alignment["phone"]
        assert (supervision.start, supervision.duration) == (0, cut.duration)
        assert [word.symbol for word in words] == supervision.text.split()
        assert phones[0].start > 0 and phones[-1].end < cut.duration
        for item, following in zip(phones, phones[1:], strict=False):
            assert item.duration > 0 and item.end <= following.start + 2e-5
        assert all(any(w.start - 1e-4 <= p.start and p.end <= w.end + 1e-4 for w in words) for p in phones)
        samples = cut.load_audio()[0]
        first, last = round(phones[0].start * 16_000), round(phones[-1].end * 16_000)
        assert -26 < rms_db(samples[first:last]) < -20
        assert -80 < rms_db(samples[: first - 160]) < -60 if first > 500 else True


def test_keywords_are_balanced_labelled_and_a_second_long(mini_data):
    for split in mini.SPLITS:
        cuts = cuts_of(mini_data, f"keywords_{split}")
        labels = [cut.supervisions[0].custom["label"] for cut in cuts]
        assert labels == [cut.supervisions[0].text for cut in cuts]
        assert {labels.count(word) for word in mini.KEYWORDS} == {len(cuts) // 10}
        assert {cut.num_samples for cut in cuts} == {16_000}
    assert set(mini.KEYWORDS) < set(mini.VOCABULARY)


def test_no_speaker_is_in_two_splits(mini_data):
    for corpus in ("speech", "keywords"):
        heard = [
            {cut.supervisions[0].speaker for cut in cuts_of(mini_data, f"{corpus}_{s}")} for s in mini.SPLITS
        ]
        assert all(a.isdisjoint(b) for a, b in combinations(heard, 2))
    voices = [{speaker.voice for speaker in speakers} for speakers in mini.SPEAKERS.values()]
    assert all(a.isdisjoint(b) for a, b in combinations(voices, 2))


def test_same_seed_same_bytes_other_seed_other_bytes(mini_data, tmp_path):
    mini.prepare(tmp_path / "again", size="tiny")
    mini.prepare(tmp_path / "other", size="tiny", seed=1)
    files = sorted(path.relative_to(mini_data) for path in mini_data.rglob("*.flac"))
    assert len(files) == sum(len(cuts_of(mini_data, name)) for name in SETS)
    for path in files:
        assert (mini_data / path).read_bytes() == (tmp_path / "again" / path).read_bytes(), path
        if not path.name.startswith("keywords"):
            assert (mini_data / path).read_bytes() != (tmp_path / "other" / path).read_bytes(), path
    for one, two in zip(
        cuts_of(mini_data, "speech_test"), cuts_of(tmp_path / "again", "speech_test"), strict=True
    ):
        assert one.supervisions == two.supervisions


def test_a_rerun_is_free_and_changed_settings_or_a_move_are_noticed(mini_data, tmp_path, monkeypatch):
    out = tmp_path / "here"
    mini.prepare(out, size="tiny")
    with monkeypatch.context() as patch:
        patch.setattr(mini, "synthesise", lambda *_, **__: pytest.fail("made again"))
        mini.prepare(out, size="tiny")
        with pytest.raises(pytest.fail.Exception):
            mini.prepare(out, size="tiny", seed=5)
    assert not (out / "prepared.json").exists()  # the attempt above broke off
    assert CORPORA["mini"](None, out, size="tiny") == out
    moved = tmp_path / "there"
    shutil.move(out, moved)
    mini.prepare(moved, size="tiny")
    assert cuts_of(moved, "speech_dev")[0].load_audio().shape[0] == 1
    (moved / "rir_test.jsonl.gz").unlink()
    mini.prepare(moved, size="tiny")
    assert (moved / "rir_test.jsonl.gz").is_file()


def test_hours_sets_the_amount_of_training_speech(espeak, tmp_path):
    mini.prepare(tmp_path, size="tiny", hours=0.02)
    sets = json.loads((tmp_path / "prepared.json").read_text())["sets"]
    assert sets["speech_train"]["hours"] == pytest.approx(0.02, rel=0.15)
    assert sets["speech_dev"]["cuts"] == 4


@pytest.mark.parametrize("options", [{"size": "huge"}, {"hours": 0}, {"hours": float("nan")}, {"seed": -1}])
def test_wrong_options_are_named(tmp_path, options):
    with pytest.raises(ValueError, match=next(iter(options))):
        mini.prepare(tmp_path, **options)
    assert not list(tmp_path.iterdir())
