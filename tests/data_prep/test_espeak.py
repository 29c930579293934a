"""Speech of espeak-ng: the same every time, with words and phones where the sound is."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest

from distill.data_prep import mini
from distill.data_prep.espeak import synthesise
from distill.errors import UserError
from tests.data_prep.mini_audio import rms_db


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
