"""The synthetic `mini` corpora: speech, keywords, noise and rooms for the offline demo and the test suites.

Speech is spoken by espeak-ng with known words and phones; noise is made from formulas. Every clip depends on
the seed and its own name alone. `musan` and `wham` play the noises of training, `fsd` and `dns` those kept
for testing; they share no generator.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from lhotse import MonoCut, SupervisionSegment
from lhotse.supervision import AlignmentItem
from tqdm import tqdm

from distill.atomic import read_json, write_json
from distill.data_prep.espeak import Interval, synthesise
from distill.data_prep.manifests import cut_from_file, write_cuts
from distill.data_prep.mini_noise import KINDS, NoiseKind, room_impulse_response
from distill.data_prep.written import Written
from distill.waveforms import SAMPLE_RATE

_VERSION = 1  # raise it when the audio changes, so that prepared folders are made again

KEYWORDS = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go")
# Without "the" and "one": espeak-ng runs "on the" and "no one" into one word.
_OTHER_WORDS = """
    this red green blue yellow small big old new cold warm bird house water river mountain man woman child
    door window light music street garden summer winter morning evening walks runs sees finds takes gives
    opens closes under over near with and two three four five six seven eight nine ten
"""
VOCABULARY = (*KEYWORDS, *_OTHER_WORDS.split())
SPLITS = ("train", "dev", "test")


@dataclass(frozen=True, kw_only=True)
class Speaker:
    """One synthetic voice."""

    name: str
    voice: str
    """espeak-ng voice and variant."""
    pitch: int
    """Base pitch, 0-99."""
    rate_wpm: int
    """Words per minute."""


def _speakers(split: str, *voices: tuple[str, int, int]) -> tuple[Speaker, ...]:
    return tuple(
        Speaker(name=f"{split}{i}", voice=voice, pitch=pitch, rate_wpm=rate)
        for i, (voice, pitch, rate) in enumerate(voices)
    )


# No variant occurs in two splits: dev and test speakers are unseen in training.
SPEAKERS = {
    "train": _speakers(
        "train",
        ("en-us+m1", 45, 165),
        ("en-us+m3", 55, 180),
        ("en-us+m5", 40, 155),
        ("en-us+m7", 50, 190),
        ("en-us+f1", 50, 170),
        ("en-us+f3", 45, 185),
        ("en-us+f5", 55, 160),
        ("en+m8", 50, 175),
        ("en-gb-x-rp", 60, 170),
    ),
    "dev": _speakers("dev", ("en-us+m2", 50, 170), ("en-us+f4", 50, 175)),
    "test": _speakers("test", ("en-us+m4", 50, 175), ("en-us+f2", 50, 165), ("en-us+m6", 45, 180)),
}


@dataclass(frozen=True, kw_only=True)
class _Size:
    """Clips in (train, dev, test)."""

    sentences: tuple[int, int, int]
    keywords: tuple[int, int, int]
    noises: tuple[int, int, int]
    unseen_noises: int
    rooms: int
    noise_s: tuple[float, float]
    """Shortest and longest noise clip in seconds."""


_SENTENCE_S = 2.14  # mean length of a sentence in seconds, measured over 612 training sentences
_SIZES = {
    "full": _Size(
        sentences=(701, 56, 80),  # 25, 2 and 3 minutes
        keywords=(400, 100, 200),
        noises=(40, 10, 16),
        unseen_noises=20,
        rooms=20,
        noise_s=(4, 12),
    ),
    "tiny": _Size(
        sentences=(12, 4, 4),
        keywords=(20, 10, 10),
        noises=(3, 3, 3),
        unseen_noises=4,
        rooms=3,
        noise_s=(1, 2),
    ),
}


def prepare(out: Path, *, seed: int = 0, hours: float | None = None, size: str = "full") -> None:
    """Make all corpora below `out`, unless they exist with the same settings.

    Writes `speech_{train,dev,test}`, `keywords_{train,dev,test}`, `musan_{...}`, `wham_{...}`, `fsd_test`,
    `dns_test` and `rir_test` (each `.jsonl.gz`), 16-bit FLAC at 16 kHz under `audio/`, and last
    `prepared.json`.

    Manifests name the audio by absolute paths: a folder that was moved is made again. Speech cuts have one
    supervision with text, speaker and `alignment["word"]` and `["phone"]` (IPA); keyword cuts also
    `custom["label"]`. Noise cuts have `custom["kind"]`, rooms `custom["rt60_s"]`.

    Args:
        out: folder for everything, about 70 MB (tiny: 2 MB).
        seed: draws sentences, jitter and noises.
        hours: of training speech; by default 25 minutes (tiny: half a minute).
        size: "full", or "tiny" for test suites.

    Raises:
        UserError: espeak-ng is not installed.
        ValueError: an option is out of range.
    """
    if size not in _SIZES:
        raise ValueError(f"size must be one of {', '.join(_SIZES)}, not {size!r}")
    if hours is not None and not 0 < hours < math.inf:
        raise ValueError(f"hours must be positive, not {hours}")
    if seed < 0:
        raise ValueError(f"seed must not be negative, not {seed}")
    out = Path(out).absolute()
    settings = {"version": _VERSION, "seed": seed, "size": size, "hours": hours, "folder": str(out)}
    stamp = out / "prepared.json"
    if _is_prepared(stamp, settings):
        return
    kinds = list(_sets(out, seed, hours, _SIZES[size]))
    names = ["audio", "prepared.json", *(f"{name}.jsonl.gz" for name, _, _ in kinds)]
    written = Written(out)
    written.claim(names, known=names if _is_earlier_mini(stamp) else ())
    stamp.unlink(missing_ok=True)
    sets = {}
    for name, n_clips, make in kinds:
        numbers = tqdm(range(n_clips), desc=name, unit="clip", disable=None)
        cuts = [make(f"{name}-{i:05d}", i) for i in numbers]
        write_cuts(cuts, out / f"{name}.jsonl.gz")
        sets[name] = {"cuts": n_clips, "hours": round(sum(cut.duration for cut in cuts) / 3600, 5)}
        written.note(f"{name}.jsonl.gz")
    write_json(stamp, settings | {"sets": sets})
    written.note(stamp.name)


def _is_earlier_mini(stamp: Path) -> bool:
    """Whether a folder holds these corpora, of other settings or of a version that noted no files."""
    try:
        return "sets" in read_json(stamp)
    except (OSError, ValueError):
        return False


def _is_prepared(stamp: Path, settings: dict[str, Any]) -> bool:
    try:
        found = read_json(stamp)
        manifests = [stamp.with_name(f"{name}.jsonl.gz") for name in found["sets"]]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return {key: found.get(key) for key in settings} == settings and all(path.is_file() for path in manifests)


MakeCut = Callable[[str, int], MonoCut]
"""(clip id, index in the set) -> its cut, with the audio written."""


def _sets(out: Path, seed: int, hours: float | None, size: _Size) -> Iterator[tuple[str, int, MakeCut]]:
    """Name, number of clips and maker of each set."""
    clips = _Clips(audio=out / "audio", seed=seed)
    for split, n_clips in zip(SPLITS, size.sentences, strict=True):
        if split == "train" and hours is not None:
            n_clips = max(1, round(hours * 3600 / _SENTENCE_S))
        yield f"speech_{split}", n_clips, partial(clips.sentence, SPEAKERS[split])
    for split, n_clips in zip(SPLITS, size.keywords, strict=True):
        yield f"keywords_{split}", n_clips, partial(clips.keyword, SPEAKERS[split])
    for corpus in ("musan", "wham"):
        for split, n_clips in zip(SPLITS, size.noises, strict=True):
            kinds = _noise_kinds(corpus, SPEAKERS[split])
            yield f"{corpus}_{split}", n_clips, partial(clips.noise, kinds, size.noise_s)
    for corpus in ("fsd", "dns"):
        kinds = _noise_kinds(corpus, SPEAKERS["test"])
        yield f"{corpus}_test", size.unseen_noises, partial(clips.noise, kinds, size.noise_s)
    yield "rir_test", size.rooms, clips.room


@dataclass(frozen=True, kw_only=True)
class _Clips:
    """Makes clips below one folder; each has a generator seeded by (seed, clip id)."""

    audio: Path
    seed: int

    def sentence(self, speakers: tuple[Speaker, ...], clip_id: str, index: int) -> MonoCut:
        rng = self._rng(clip_id)
        text = _sentence(rng)
        return self._spoken(clip_id, text, speakers[index % len(speakers)], rng, custom=None)

    def keyword(self, speakers: tuple[Speaker, ...], clip_id: str, index: int) -> MonoCut:
        rng = self._rng(clip_id)
        word = KEYWORDS[index % len(KEYWORDS)]
        speaker = speakers[index // len(KEYWORDS) % len(speakers)]  # every speaker says every word
        return self._spoken(clip_id, word, speaker, rng, custom={"label": word})

    def noise(
        self, kinds: dict[str, NoiseKind], length_s: tuple[float, float], clip_id: str, index: int
    ) -> MonoCut:
        rng = self._rng(clip_id)
        kind = list(kinds)[index % len(kinds)]
        n_samples = round(rng.uniform(*length_s) * SAMPLE_RATE)
        cut = self._write(clip_id, _at_level(kinds[kind](rng, n_samples), level_db=-26))
        cut.custom = {"kind": kind}
        return cut

    def room(self, clip_id: str, index: int) -> MonoCut:
        rng = self._rng(clip_id)
        rt60_s = rng.uniform(0.2, 0.8)
        cut = self._write(clip_id, room_impulse_response(rng, rt60_s))
        cut.custom = {"rt60_s": round(rt60_s, 4)}
        return cut

    def _rng(self, clip_id: str) -> np.random.Generator:
        return np.random.default_rng([self.seed, zlib.crc32(clip_id.encode())])

    def _spoken(
        self, clip_id: str, text: str, speaker: Speaker, rng: np.random.Generator, *, custom: dict | None
    ) -> MonoCut:
        """A spoken clip between pauses; a keyword fills one second, as in Speech Commands."""
        samples, words, phones = _speak(text, speaker, rng)
        if custom is None:
            before, after = (rng.uniform(0.1, 0.3, size=2) * SAMPLE_RATE).astype(int)
        else:
            spare = max(SAMPLE_RATE - len(samples), SAMPLE_RATE // 10)
            before = int(rng.integers(spare + 1))
            after = spare - before
        level_db = rng.uniform(-25, -21)
        padded = np.pad(_at_level(samples, level_db=level_db), (before, after))
        # No recording is digitally silent, and the logarithm of an exact zero is not finite.
        padded = padded + rng.standard_normal(len(padded)) * 10 ** (-75 / 20)
        cut = self._write(clip_id, padded)
        cut.supervisions = [
            SupervisionSegment(
                id=clip_id,
                recording_id=clip_id,
                start=0,
                duration=cut.duration,
                text=text,
                language="English",
                speaker=speaker.name,
                alignment={
                    "word": _alignment(words, before / SAMPLE_RATE),
                    "phone": _alignment(phones, before / SAMPLE_RATE),
                },
                custom=custom,
            )
        ]
        return cut

    def _write(self, clip_id: str, samples: np.ndarray) -> MonoCut:
        path = self.audio / clip_id.rpartition("-")[0] / f"{clip_id}.flac"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, samples, SAMPLE_RATE, subtype="PCM_16")
        return cut_from_file(path, id=clip_id)


def _noise_kinds(corpus: str, speakers: tuple[Speaker, ...]) -> dict[str, NoiseKind]:
    """The generators of one corpus; musan also has babble, of the speakers of its split."""
    if corpus == "musan":
        return {**KINDS[corpus], "babble": partial(_babble, speakers)}
    return KINDS[corpus]


def _babble(speakers: tuple[Speaker, ...], rng: np.random.Generator, n_samples: int) -> np.ndarray:
    """Four to six people who talk at once."""
    total = np.zeros(n_samples)
    for talker in range(rng.integers(4, 7)):
        speaker = speakers[talker % len(speakers)]
        spoken = np.zeros(0)
        while len(spoken) < n_samples + SAMPLE_RATE:
            spoken = np.append(spoken, _speak(_sentence(rng), speaker, rng)[0])
        start = rng.integers(SAMPLE_RATE)  # nobody waits for the others to begin
        total += _at_level(spoken[start : start + n_samples], level_db=-26)
    return total


def _sentence(rng: np.random.Generator) -> str:
    return " ".join(rng.choice(VOCABULARY, size=rng.integers(3, 9)))


def _speak(
    text: str, speaker: Speaker, rng: np.random.Generator
) -> tuple[np.ndarray, list[Interval], list[Interval]]:
    """Samples, words and phones, with a little jitter: nobody says a thing the same way twice."""
    speech = synthesise(
        text,
        voice=speaker.voice,
        rate_wpm=round(speaker.rate_wpm * rng.uniform(0.9, 1.1)),
        pitch=round(speaker.pitch + rng.uniform(-6, 6)),
    )
    return speech.samples, speech.words, speech.phones


def _alignment(intervals: list[Interval], offset_s: float) -> list[AlignmentItem]:
    return [
        AlignmentItem(symbol, start=round(start + offset_s, 5), duration=round(end - start, 5))
        for symbol, start, end in intervals
    ]


def _at_level(samples: np.ndarray, *, level_db: float) -> np.ndarray:
    """Scale to an RMS in dB relative to full scale, or to a peak of 0.9 where that would clip."""
    rms, peak = np.sqrt(np.mean(samples**2)), np.abs(samples).max()
    return samples * min(10 ** (level_db / 20) / rms, 0.9 / peak)
