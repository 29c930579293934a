"""Speech with known words and phones from espeak-ng, for the synthetic `mini` corpora.

The library (GPL-3) comes in the pip package `espeakng-loader`, extra `demo`; this module imports without it.
The binding follows espeak-ng's public header `speak_lib.h`.

The C library is not thread-safe: one lock serialises every call, so threads are correct here but gain
nothing. Its pitch flutter and glottal phase run on from utterance to utterance, and no call resets them. So
that a sentence always gives the same samples, each is spoken by a freshly loaded library with a fixed random
seed, which costs about 3 ms. Where the system cannot unload it (musl, or another package holding the same
file), samples depend on what was said before.
"""

from __future__ import annotations

import _ctypes
import ctypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import gcd
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.signal import resample_poly

from distill.errors import UserError
from distill.waveforms import SAMPLE_RATE

# Constants of speak_lib.h.
_SYNCHRONOUS_RETRIEVAL = (
    2  # AUDIO_OUTPUT_SYNCHRONOUS: all samples reach the callback before espeak_Synth returns
)
_PHONEME_EVENTS, _PHONEMES_IN_IPA, _DONT_EXIT = 0x0001, 0x0002, 0x8000
_CHARS_UTF8 = 1
_RATE, _PITCH = 1, 3
_END_OF_LIST, _WORD, _PHONEME = 0, 1, 7

_NOT_SOUNDS = "\u02c8\u02cc_: "  # IPA stress marks, and the pause symbols of espeak-ng
_PUNCTUATION = ".,;:!?\"'() "

_lock = threading.Lock()

Interval = tuple[str, float, float]
"""(symbol, start in seconds, end in seconds)"""


@dataclass(frozen=True, kw_only=True)
class Speech:
    """One synthesised utterance; intervals are in time order and do not overlap."""

    samples: np.ndarray
    """(T,) float32 mono at 16 kHz in [-1, 1]."""
    words: list[Interval]
    """Words as written; words that espeak-ng runs into one ("no one") share an interval."""
    phones: list[Interval]
    """IPA symbols without stress marks; pauses are left out."""


class _EventId(ctypes.Union):
    _fields_ = [("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8)]


class _Event(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),  # in characters, from 1
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),  # milliseconds, rounded down; `sample` is exact
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _EventId),
    ]


_Callback = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event)
)


class _Mark(NamedTuple):
    """Where a word or phone begins."""

    kind: int
    sample: int
    character: int
    symbol: str


def synthesise(text: str, *, voice: str = "en-us", rate_wpm: int = 175, pitch: int = 50) -> Speech:
    """Speak `text`; the same arguments always give the same samples.

    Args:
        text: one sentence.
        voice: an espeak-ng voice with an optional variant, for example "en-us+f2" or "en-gb-scotland+m3".
        rate_wpm: words per minute, 80-450.
        pitch: base pitch, 0-99 (espeak-ng's own scale).

    Returns:
        Samples at 16 kHz with the time of every word and phone. A phone ends where the next event begins.

    Raises:
        UserError: espeak-ng is not installed or cannot be started.
        ValueError: an argument is out of range, the voice is unknown, or the text has nothing to speak.
    """
    if not 80 <= rate_wpm <= 450:
        raise ValueError(f"rate_wpm must be 80-450, not {rate_wpm}")
    if not 0 <= pitch <= 99:
        raise ValueError(f"pitch must be 0-99, not {pitch}")
    with _lock:
        pcm, marks, rate = _speak(text, voice, rate_wpm, pitch)
    if not any(mark.kind == _PHONEME and mark.symbol for mark in marks):
        raise ValueError(f"text: nothing to speak in {text!r}")
    words, phones = _intervals(text, marks, n_samples=len(pcm), rate=rate)
    common = gcd(rate, SAMPLE_RATE)
    wave = resample_poly(pcm.astype(np.float32) / 32768, SAMPLE_RATE // common, rate // common)
    return Speech(samples=np.clip(wave, -1, 1).astype(np.float32), words=words, phones=phones)


def _speak(text: str, voice: str, rate_wpm: int, pitch: int) -> tuple[np.ndarray, list[_Mark], int]:
    """Run the library once: (T,) int16 samples, marks and the library's sample rate in Hz."""
    chunks: list[np.ndarray] = [np.zeros(0, np.int16)]
    marks: list[_Mark] = []

    def receive(wave: Any, n_samples: int, events: Any) -> int:
        """Copy what the library will overwrite; returning 0 means continue."""
        if n_samples > 0:
            chunks.append(np.ctypeslib.as_array(wave, shape=(n_samples,)).copy())
        i = 0
        while events[i].type != _END_OF_LIST:
            marks.extend(_read_event(events[i]))
            i += 1
        return 0

    with _fresh_library() as (library, rate, data):
        library.espeak_ng_SetRandSeed(1)  # of breathy voices
        _set_voice(library, voice, variants=data / "voices" / "!v")
        library.espeak_SetParameter(_RATE, rate_wpm, 0)
        library.espeak_SetParameter(_PITCH, pitch, 0)
        callback = _Callback(receive)  # a name, because the library keeps only the address
        library.espeak_SetSynthCallback(callback)
        utf8 = text.encode()
        library.espeak_Synth(utf8, len(utf8) + 1, 0, 1, 0, _CHARS_UTF8, None, None)
    return np.concatenate(chunks), marks, rate


def _read_event(event: Any) -> Iterator[_Mark]:
    """The event as a mark if it starts a word or a phone."""
    if event.type in (_WORD, _PHONEME):
        symbol = event.id.string.decode("utf-8", "ignore") if event.type == _PHONEME else ""
        yield _Mark(event.type, event.sample, event.text_position - 1, symbol.strip(_NOT_SOUNDS))


def _set_voice(library: ctypes.CDLL, voice: str, *, variants: Path) -> None:
    variant = voice.partition("+")[2]
    # espeak-ng itself ignores an unknown variant and speaks with the plain voice.
    if variant and not (variants / variant).is_file():
        raise ValueError(f"voice: espeak-ng has no variant {variant!r}")
    if library.espeak_SetVoiceByName(voice.encode()) != 0:
        raise ValueError(f"voice: espeak-ng has no voice {voice!r}")


@contextmanager
def _fresh_library() -> Iterator[tuple[ctypes.CDLL, int, Path]]:
    """Load and initialise the library, unload it afterwards: (library, sample rate in Hz, data folder)."""
    try:
        import espeakng_loader  # type: ignore[import-not-found]
    except ImportError as error:
        raise UserError(
            "espeak-ng, which speaks the mini corpora, is not installed: "
            'pip install "robust-distilhubert[demo]"'
        ) from error
    path = str(espeakng_loader.get_library_path())
    try:
        data = Path(espeakng_loader.get_data_path())
        library = ctypes.CDLL(path)
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"espeak-ng cannot be loaded from {path} ({error}): reinstall espeakng-loader"
        ) from error
    try:
        _declare(library)
        # Without DONT_EXIT a missing data file ends this process.
        options = _PHONEME_EVENTS | _PHONEMES_IN_IPA | _DONT_EXIT
        rate = library.espeak_Initialize(_SYNCHRONOUS_RETRIEVAL, 0, str(data).encode(), options)
        if rate <= 0:
            raise UserError(
                f"espeak-ng cannot read its voices in {data}: reinstall espeakng-loader, in an environment "
                "with a shorter path if this one has over 140 characters"
            )
        try:
            yield library, rate, data
        finally:
            library.espeak_Terminate()
    finally:
        unload = getattr(_ctypes, "dlclose", None) or getattr(_ctypes, "FreeLibrary")  # noqa: B009
        unload(library._handle)


def _declare(library: ctypes.CDLL) -> None:
    """Argument types after speak_lib.h, so that sizes are right on every platform."""
    c_int, c_uint, c_char_p = ctypes.c_int, ctypes.c_uint, ctypes.c_char_p
    library.espeak_Initialize.argtypes = [c_int, c_int, c_char_p, c_int]
    library.espeak_SetVoiceByName.argtypes = [c_char_p]
    library.espeak_SetParameter.argtypes = [c_int, c_int, c_int]
    library.espeak_SetSynthCallback.argtypes = [_Callback]
    library.espeak_SetSynthCallback.restype = None
    library.espeak_ng_SetRandSeed.argtypes = [ctypes.c_long]
    pointers = [ctypes.POINTER(c_uint), ctypes.c_void_p]
    library.espeak_Synth.argtypes = [c_char_p, ctypes.c_size_t, c_uint, c_int, c_uint, c_uint, *pointers]


def _intervals(
    text: str, marks: list[_Mark], *, n_samples: int, rate: int
) -> tuple[list[Interval], list[Interval]]:
    """Turn start marks into (words, phones). A pause ends what precedes it and is dropped itself."""
    starts = [i for i, mark in enumerate(marks) if mark.kind == _PHONEME]
    ends = [marks[i].sample for i in starts[1:]] + [n_samples]
    sounds = {  # index in marks -> phone
        i: (marks[i].symbol, marks[i].sample / rate, end / rate)
        for i, end in zip(starts, ends, strict=True)
        if marks[i].symbol and end > marks[i].sample
    }
    words: list[Interval] = []
    heads = [i for i, mark in enumerate(marks) if mark.kind == _WORD]
    for head, following in zip(heads, [*heads[1:], len(marks)], strict=True):
        # By order, not by time: a phone may begin on the very sample of the next word's mark.
        inside = [sounds[i] for i in range(head + 1, following) if i in sounds]
        next_character = marks[following].character if following < len(marks) else len(text)
        spelling = text[marks[head].character : next_character].strip(_PUNCTUATION)
        if inside and spelling:
            words.append((spelling, inside[0][1], inside[-1][2]))
    return words, list(sounds.values())
