"""The synthetic corpora: levels, spectra, alignments, splits, determinism, life without espeak-ng."""

import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import combinations

import numpy as np
import pytest
import soundfile
from lhotse import CutSet
from scipy.signal import welch

from distill.data_prep import CORPORA, mini
from distill.data_prep.espeak import synthesise
from distill.data_prep.mini_noise import KINDS, coloured, gusts, room_impulse_response
from distill.errors import UserError

SETS = {
    *(f"{name}_{split}" for name in ("speech", "keywords", "musan", "wham") for split in mini.SPLITS),
    *("fsd_test", "dns_test", "rir_test"),
}


@pytest.fixture(scope="module")
def espeak():
    return pytest.importorskip("espeakng_loader")


@pytest.fixture(scope="module")
def tiny(espeak, tmp_path_factory):
    out = tmp_path_factory.mktemp("mini")
    mini.prepare(out, size="tiny")
    return out


def cuts_of(folder, name):
    return list(CutSet.from_file(folder / f"{name}.jsonl.gz"))


def rms_db(samples):
    return 10 * np.log10(np.mean(np.square(samples, dtype=np.float64)))


# espeak-ng


@pytest.mark.parametrize("voice", ["en-us+m3", "en-us+f3"])  # the second has breath, which is random
def test_the_same_sentence_gives_the_same_samples_whatever_was_said_before(espeak, voice):
    say = partial(synthesise, "the yellow bird will turn right", voice=voice, rate_wpm=160, pitch=40)
    first = say()
    synthesise("something else", voice="en-us+f2", rate_wpm=220)
    second = say()
    assert first.samples.dtype == np.float32 and first.samples.ndim == 1
    np.testing.assert_array_equal(first.samples, second.samples)
    assert (first.words, first.phones) == (second.words, second.phones)


def test_threads_do_not_mix_their_sentences(espeak):
    texts = ["yes no", "up down left", "green river in the morning", "stop"] * 3
    alone = [synthesise(text).samples for text in texts]
    with ThreadPoolExecutor(4) as pool:
        together = [speech.samples for speech in pool.map(synthesise, texts)]
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one, other)


def test_words_and_phones_are_where_the_sound_is(espeak):
    speech = synthesise("Stop, the yellow bird will turn right.")
    assert [word for word, _, _ in speech.words] == ["Stop", "the", "yellow", "bird", "will", "turn", "right"]
    symbols = [symbol for symbol, _, _ in speech.phones]
    assert symbols[:4] == ["s", "t", "ɑː", "p"]
    assert symbols[-3:] == ["ɹ", "aɪ", "t"]
    # The comma is a pause: silent, and the only gap.
    pairs = zip(speech.phones, speech.phones[1:], strict=False)
    gaps = [(phone[2], following[1]) for phone, following in pairs if following[1] - phone[2] > 0.05]
    assert len(gaps) == 1
    start, end = (round(t * 16_000) for t in gaps[0])
    assert rms_db(speech.samples) > -25
    assert rms_db(speech.samples[start + 160 : end - 160] + 1e-9) < -50
    # /s/ is high, the vowel that follows is low.
    by_symbol = {symbol: (round(a * 16_000), round(b * 16_000)) for symbol, a, b in speech.phones[:4]}
    assert centroid_hz(speech.samples[slice(*by_symbol["s"])]) > 3000
    assert centroid_hz(speech.samples[slice(*by_symbol["ɑː"])]) < 1500


def centroid_hz(samples):
    power = np.abs(np.fft.rfft(samples)) ** 2
    return np.sum(power * np.fft.rfftfreq(len(samples), 1 / 16_000)) / np.sum(power)


def test_rate_and_pitch_do_what_they_say(espeak):
    assert len(synthesise("a long river", rate_wpm=220).samples) < 0.8 * len(
        synthesise("a long river", rate_wpm=120).samples
    )

    def pitch_hz(pitch):
        """By the highest autocorrelation between 60 and 400 Hz."""
        samples = synthesise("no", pitch=pitch).samples[2400:4000]
        correlation = np.correlate(samples, samples, "full")[len(samples) :]
        return 16_000 / (np.argmax(correlation[40:266]) + 41)

    assert 60 < pitch_hz(20) < 0.75 * pitch_hz(80) < 300


@pytest.mark.parametrize(
    "options, message",
    [
        ({"voice": "xx-none"}, "no voice 'xx-none'"),
        ({"voice": "en-us+nobody"}, "no variant 'nobody'"),
        ({"rate_wpm": 20}, "rate_wpm"),
        ({"pitch": 200}, "pitch"),
        ({"text": " ... "}, "nothing to speak"),
    ],
)
def test_wrong_arguments_are_named(espeak, options, message):
    with pytest.raises(ValueError, match=message):
        synthesise(**({"text": "yes"} | options))


def test_without_espeak_the_error_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(UserError, match=r'pip install "robust-distilhubert\[demo\]"'):
        mini.prepare(tmp_path, size="tiny")
    assert not (tmp_path / "prepared.json").exists()


def test_everything_imports_without_espeak():
    modules = "distill.data_prep.mini, distill.data_prep.folder"
    code = f"import sys; sys.modules['espeakng_loader'] = None; import {modules}"
    subprocess.run([sys.executable, "-c", code], check=True)


# the corpora


def test_all_sets_are_there_and_counted(tiny):
    stamp = json.loads((tiny / "prepared.json").read_text())
    assert set(stamp["sets"]) == SETS
    assert {path.name.removesuffix(".jsonl.gz") for path in tiny.glob("*.jsonl.gz")} == SETS
    for name, expected in stamp["sets"].items():
        cuts = cuts_of(tiny, name)
        assert len(cuts) == len({cut.id for cut in cuts}) == expected["cuts"] > 0
        assert sum(cut.duration for cut in cuts) / 3600 == pytest.approx(expected["hours"], abs=1e-5)
    assert stamp["sets"]["speech_train"]["cuts"] == 12
    assert stamp["sets"]["keywords_train"]["cuts"] == 20


@pytest.mark.parametrize("name", sorted(SETS))
def test_audio_is_16_bit_16_khz_mono_finite_and_unclipped(tiny, name):
    for cut in cuts_of(tiny, name):
        info = soundfile.info(cut.recording.sources[0].source)
        assert (info.format, info.subtype, info.samplerate, info.channels) == ("FLAC", "PCM_16", 16_000, 1)
        samples = cut.load_audio()
        assert samples.shape == (1, info.frames) == (1, cut.num_samples)
        assert 0.01 < np.abs(samples).max() < 0.95


@pytest.mark.parametrize("name", [name for name in sorted(SETS) if name.startswith(("speech", "keywords"))])
def test_speech_has_level_words_and_phones(tiny, name):
    for cut in cuts_of(tiny, name):
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


def test_keywords_are_balanced_labelled_and_a_second_long(tiny):
    for split in mini.SPLITS:
        cuts = cuts_of(tiny, f"keywords_{split}")
        labels = [cut.supervisions[0].custom["label"] for cut in cuts]
        assert labels == [cut.supervisions[0].text for cut in cuts]
        assert {labels.count(word) for word in mini.KEYWORDS} == {len(cuts) // 10}
        assert {cut.num_samples for cut in cuts} == {16_000}
    assert set(mini.KEYWORDS) < set(mini.VOCABULARY)


def test_no_speaker_is_in_two_splits(tiny):
    for corpus in ("speech", "keywords"):
        heard = [{cut.supervisions[0].speaker for cut in cuts_of(tiny, f"{corpus}_{s}")} for s in mini.SPLITS]
        assert all(a.isdisjoint(b) for a, b in combinations(heard, 2))
    voices = [{speaker.voice for speaker in speakers} for speakers in mini.SPEAKERS.values()]
    assert all(a.isdisjoint(b) for a, b in combinations(voices, 2))


def test_same_seed_same_bytes_other_seed_other_bytes(tiny, tmp_path):
    mini.prepare(tmp_path / "again", size="tiny")
    mini.prepare(tmp_path / "other", size="tiny", seed=1)
    files = sorted(path.relative_to(tiny) for path in tiny.rglob("*.flac"))
    assert len(files) == sum(len(cuts_of(tiny, name)) for name in SETS)
    for path in files:
        assert (tiny / path).read_bytes() == (tmp_path / "again" / path).read_bytes(), path
        if not path.name.startswith("keywords"):
            assert (tiny / path).read_bytes() != (tmp_path / "other" / path).read_bytes(), path
    for one, two in zip(
        cuts_of(tiny, "speech_test"), cuts_of(tmp_path / "again", "speech_test"), strict=True
    ):
        assert one.supervisions == two.supervisions


def test_a_rerun_is_free_and_changed_settings_or_a_move_are_noticed(tiny, tmp_path, monkeypatch):
    out = tmp_path / "here"
    mini.prepare(out, size="tiny")
    with monkeypatch.context() as patch:
        patch.setattr(mini, "synthesise", lambda *_, **__: pytest.fail("made anew"))
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


# noise and rooms

GENERATORS = {kind: make for kinds in KINDS.values() for kind, make in kinds.items()}


def test_what_is_kept_for_testing_is_never_heard_in_training():
    training = {**KINDS["musan"], **KINDS["wham"]}
    testing = {**KINDS["fsd"], **KINDS["dns"]}
    assert set(training).isdisjoint(testing)
    assert set(training.values()).isdisjoint(testing.values())


@pytest.mark.parametrize("kind", sorted(GENERATORS))
def test_a_noise_is_as_long_as_asked_alive_and_its_own_every_time(kind):
    make = GENERATORS[kind]
    one, same, other = (make(np.random.default_rng(seed), 24_001) for seed in (0, 0, 1))
    assert one.shape == (24_001,) and np.isfinite(one).all()
    np.testing.assert_array_equal(one, same)
    assert not np.allclose(one, other)
    assert one.std() > 1e-3
    assert all(np.abs(part).max() > 1e-4 * np.abs(one).max() for part in np.array_split(one, 3))


def fingerprint(kind):
    """Spectrum in 20 bands and range of the level of a kind, in dB, averaged over five clips."""
    clips = [GENERATORS[kind](np.random.default_rng(seed), 64_000) for seed in range(5)]
    spectra, contours = [], []
    for clip in clips:
        power = welch(clip, 16_000, nperseg=512)[1][1:]
        bands = [10 * np.log10(part.mean() / power.mean() + 1e-5) for part in np.array_split(power, 20)]
        frames = clip[: len(clip) // 800 * 800].reshape(-1, 800)
        levels = 10 * np.log10(np.mean(frames**2, axis=1) / np.mean(clip**2) + 1e-5)
        spectra.append(bands)
        contours.append(np.ptp(np.percentile(levels, [5, 95])))
    return np.append(np.mean(spectra, axis=0), np.mean(contours))


def test_noise_types_differ_in_spectrum_or_in_time():
    prints = {kind: fingerprint(kind) for kind in GENERATORS}
    distances = {(a, b): np.abs(prints[a] - prints[b]).max() for a, b in combinations(prints, 2)}
    closest = min(distances, key=lambda pair: distances[pair])
    assert distances[closest] > 5, (closest, distances[closest])  # dB


def test_coloured_noise_has_a_straight_slope_and_wind_is_brown():
    def slope_db_per_octave(samples):
        frequencies, power = welch(samples, 16_000, nperseg=1024)
        inside = (frequencies > 200) & (frequencies < 7000)
        return np.polyfit(np.log2(frequencies[inside]), 10 * np.log10(power[inside]), 1)[0]

    slopes = [slope_db_per_octave(coloured(np.random.default_rng(seed), 160_000)) for seed in range(20)]
    assert -4.9 < min(slopes) < -3 and -1.5 < max(slopes) < 0.3  # 1/f^exponent falls by 3.01 dB x exponent
    assert slope_db_per_octave(gusts(np.random.default_rng(0), 160_000)) == pytest.approx(-6.02, abs=0.7)


def schroeder_rt60_s(response):
    """RT60 from the backward-integrated energy between -5 and -25 dB (Schroeder 1965, ISO 3382 T20)."""
    energy = np.cumsum(np.square(response[::-1]))[::-1]
    late = energy[200:]  # past the direct path
    level_db = 10 * np.log10(late / late[0] + 1e-12)
    start, end = np.argmax(level_db < -5), np.argmax(level_db < -25)
    return -60 / np.polyfit(np.arange(start, end) / 16_000, level_db[start:end], 1)[0]


@pytest.mark.parametrize("rt60_s", [0.2, 0.4, 0.8])
def test_a_room_decays_as_asked_behind_its_direct_path(rt60_s):
    for seed in range(5):
        response = room_impulse_response(np.random.default_rng(seed), rt60_s)
        assert np.flatnonzero(response)[0] == np.argmax(np.abs(response)) == 40  # 2.5 ms
        assert schroeder_rt60_s(response) == pytest.approx(rt60_s, rel=0.15)


def test_written_rooms_keep_their_decay(tiny):
    for cut in cuts_of(tiny, "rir_test"):
        assert 0.2 <= cut.custom["rt60_s"] <= 0.8
        assert schroeder_rt60_s(cut.load_audio()[0]) == pytest.approx(cut.custom["rt60_s"], rel=0.15)


def test_noise_clips_name_their_kind_and_cover_all(tiny):
    assert {cut.custom["kind"] for cut in cuts_of(tiny, "musan_train")} == {"music", "noise", "babble"}
    for corpus in ("wham", "fsd", "dns"):
        cuts = cuts_of(tiny, f"{corpus}_test")
        assert {cut.custom["kind"] for cut in cuts} == set(KINDS[corpus])
        assert all(-40 < rms_db(cut.load_audio()) < -20 for cut in cuts)
