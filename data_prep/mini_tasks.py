"""Layouts of the tasks' corpora, spoken by espeak-ng: keywords, commands, emotions, and TIMIT's phones.

An emotion is a way of speaking here: pitch, rate and loudness.
"""

from __future__ import annotations

import csv
import hashlib
import itertools
import json
import zlib
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from lhotse import MonoCut
from lhotse.supervision import AlignmentItem

from distill.data_prep.espeak import synthesise
from distill.data_prep.mini import SPEAKERS, SPLITS, Speaker
from distill.data_prep.mini_files import cuts_of, samples_of, source_of, spoken, write_lines, write_wav
from distill.waveforms import SAMPLE_RATE

_UNKNOWN_WORDS = ("bed", "bird", "cat")


def speech_commands(mini_folder: Path, root: Path) -> None:
    """Speech Commands v0.01 and its test set."""
    home, test = root / "speech_commands_v0.01", root / "speech_commands_test_set_v0.01"
    lists: dict[str, list[str]] = defaultdict(list)
    for split in SPLITS:
        counts: dict[tuple[str, str], int] = defaultdict(int)
        for word, speaker, samples in _words(mini_folder, split):
            code = f"{_speaker_code(speaker, split)}_nohash"
            name = f"{word}/{code}_{counts[word, code]}.wav"
            counts[word, code] += 1
            write_wav(home / name, samples)
            lists[split].append(name)
            if split == "test":
                unknown = word in _UNKNOWN_WORDS
                place = f"_unknown_/{word}_{Path(name).name}" if unknown else name
                write_wav(test / place, samples)
    write_lines(home / "validation_list.txt", lists["dev"])
    write_lines(home / "testing_list.txt", lists["test"])
    hiss = np.random.default_rng(0).standard_normal(int(3.7 * SAMPLE_RATE)) * 0.01
    for name in ("white_noise", "running_tap"):
        write_wav(home / "_background_noise_" / f"{name}.wav", hiss)
    for i in range(2):
        write_wav(test / "_silence_" / f"{i}.wav", hiss[i * SAMPLE_RATE :][:SAMPLE_RATE])


def _speaker_code(speaker: str, split: str) -> str:
    """Eight digits that the corpus's own hash puts into the split: its lists and others' code agree."""
    codes = (f"{zlib.crc32(f'{speaker} {number}'.encode()):08x}" for number in itertools.count())
    return next(code for code in codes if _split_of(code) == split)


def _split_of(speaker_code: str) -> str:
    """A tenth of the speakers are for dev and a tenth for test (Warden 2018, and the corpus's README)."""
    most = 2**27 - 1
    share = int(hashlib.sha1(speaker_code.encode()).hexdigest(), 16) % (most + 1) / most
    return "dev" if share < 0.1 else "test" if share < 0.2 else "train"


def _words(mini_folder: Path, split: str) -> Iterator[tuple[str, str, np.ndarray]]:
    """Word, speaker and samples of the keywords and of some words that are none."""
    for cut in cuts_of(mini_folder, f"keywords_{split}"):
        speaker = spoken(cut).speaker
        assert speaker is not None
        yield (spoken(cut).custom or {})["label"], speaker, samples_of(cut)
    for word in _UNKNOWN_WORDS:
        for speaker in SPEAKERS[split][:3]:
            yield word, speaker.name, _to_length(_say(word, speaker), SAMPLE_RATE)


def _say(text: str, speaker: Speaker, *, pitch: int = 0, rate: float = 1.0) -> np.ndarray:
    """Samples at a comfortable level."""
    rate_wpm = round(speaker.rate_wpm * rate)
    speech = synthesise(text, voice=speaker.voice, rate_wpm=rate_wpm, pitch=speaker.pitch + pitch)
    return 0.5 * speech.samples / np.abs(speech.samples).max()


def _to_length(samples: np.ndarray, length: int) -> np.ndarray:
    return np.pad(samples[:length], (0, max(0, length - len(samples))))


class _Command(NamedTuple):
    text: str
    action: str
    object: str
    location: str


_COMMANDS = (
    _Command("Turn on the lights", "activate", "lights", "none"),
    _Command("Turn the lights off", "deactivate", "lights", "none"),
    _Command("Turn up the heat in the kitchen", "increase", "heat", "kitchen"),
    _Command("Decrease the heating in the bathroom", "decrease", "heat", "washroom"),
    _Command("Bring me my shoes", "bring", "shoes", "none"),
    _Command("Set my phone's language to Chinese, please", "change language", "Chinese", "none"),
)


def fluent_commands(mini_folder: Path, root: Path) -> None:
    """Fluent Speech Commands: every speaker of a split says two of the commands, and all are said."""
    home = root / "fluent_speech_commands_dataset"
    head = ["", "path", "speakerId", "transcription", *_Command._fields[1:]]
    for split, theirs in zip(SPLITS, ("train", "valid", "test"), strict=True):
        rows: list[list[object]] = []
        for i in range(max(2 * len(SPEAKERS[split]), len(_COMMANDS))):
            speaker = SPEAKERS[split][i % len(SPEAKERS[split])]
            command = _COMMANDS[i % len(_COMMANDS)]
            name = f"{zlib.crc32(f'{split}{i}'.encode()):08x}-{speaker.name}"
            path = f"wavs/speakers/{speaker.name}/{name}.wav"
            write_wav(home / path, _say(command.text, speaker))
            rows.append([i, path, speaker.name, *command])
        table = home / "data" / f"{theirs}_data.csv"
        table.parent.mkdir(parents=True, exist_ok=True)
        with table.open("w", encoding="utf-8", newline="") as lines:
            csv.writer(lines).writerows([head, *rows])


_REQUESTS = (  # text, scenario, action
    ("wake me up at eight o'clock", "alarm", "set"),
    ("remove the alarm for tomorrow", "alarm", "remove"),
    ("make the lights brighter", "iot", "hue_lightup"),
    ("play some jazz please", "play", "music"),
)


def slurp(mini_folder: Path, root: Path) -> None:
    """SLURP: a speaker of the split for each request, with two microphones; the synthetic part has one."""
    home = root / "slurp"
    users: dict[str, dict[str, Any]] = {}
    splits = zip((*SPLITS, "train"), ("train", "devel", "test", "train_synthetic"), strict=True)
    for ours, theirs in splits:
        synthetic, entries = theirs == "train_synthetic", []
        for i, (text, scenario, action) in enumerate(_REQUESTS):
            speaker = SPEAKERS[ours][i % len(SPEAKERS[ours])]
            number = zlib.crc32(f"{theirs}{i}".encode())
            samples = _say(text, speaker)
            levels = {"": 1.0} if synthetic else {"-headset": 1.0, "": 0.4}
            names = [f"audio-{number}{microphone}.flac" for microphone in levels]
            for name, level in zip(names, levels.values(), strict=True):
                path = home / "audio" / ("slurp_synth" if synthetic else "slurp_real") / name
                write_wav(path, level * samples, container="FLAC")
            users[str(number)] = {"recordings": {name: {"usrid": speaker.name} for name in names}}
            about = {"slurp_id": number, "sentence": text, "scenario": scenario, "action": action}
            recordings = [{"file": name, "status": "correct"} for name in names]
            entries.append(about | {"intent": f"{scenario}_{action}", "recordings": recordings})
        write_lines(home / "dataset/slurp" / f"{theirs}.jsonl", map(json.dumps, entries))
    write_lines(home / "dataset/slurp/metadata.json", [json.dumps(users)])


_EMOTIONS = {  # pitch, relative rate, relative level
    "neu": (0, 1.0, 0.6),
    "hap": (14, 1.1, 0.8),
    "exc": (22, 1.25, 0.9),
    "sad": (-15, 0.75, 0.4),
    "ang": (6, 1.3, 1.0),
    "fru": (-6, 1.1, 0.8),  # not one of SUPERB's classes
}
_LINES = ("I have been waiting here all day.", "You said that you would call.")


def iemocap(mini_folder: Path, root: Path) -> None:
    """IEMOCAP: five sessions, a woman and a man each, who say the same in every emotion."""
    speakers = [speaker for split in SPLITS for speaker in SPEAKERS[split]]
    women = [speaker for speaker in speakers if "+f" in speaker.voice]
    men = [speaker for speaker in speakers if "+m" in speaker.voice]
    for i in range(5):
        home = root / "IEMOCAP_full_release" / f"Session{i + 1}"
        dialogue = f"Ses{i + 1:02d}F_impro01"
        notes = ["% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]", ""]
        transcript = []
        time = 0.5
        for letter, speaker in (("F", women[i]), ("M", men[i])):
            for turn, (emotion, (pitch, rate, level)) in enumerate(_EMOTIONS.items()):
                text = _LINES[(turn + i) % len(_LINES)]
                samples = level * _say(text, speaker, pitch=pitch, rate=rate)
                name = f"{dialogue}_{letter}{turn:03d}"
                write_wav(home / "sentences" / "wav" / dialogue / f"{name}.wav", samples)
                end = time + len(samples) / SAMPLE_RATE
                notes += [f"[{time:.4f} - {end:.4f}]\t{name}\t{emotion}\t[3.0000, 3.0000, 3.0000]"]
                notes += ["C-E1:\tOther;\t()", ""]
                transcript.append(f"{name} [{time:08.4f}-{end:08.4f}]: {text}")
                time = end + 0.5
        write_lines(home / "dialog" / "EmoEvaluation" / f"{dialogue}.txt", notes)
        write_lines(home / "dialog" / "transcriptions" / f"{dialogue}.txt", transcript)


# Speakers of TIMIT's first dialect region; MZZZ0 is in neither Kaldi's dev set nor the core test set.
_TIMIT_SPEAKERS = {
    "train": ("FCJF0", "MCPM0", "MDAC0", "MDPK0", "MEDR0", "MGRL0", "MJEB1", "MJWS0", "FDAW0"),
    "dev": ("FAKS0", "MMDB1"),
    "test": ("MDAB0", "MWBT0", "FELC0"),
}
_TIMIT_PHONES = {
    **{symbol: symbol for symbol in ("b", "d", "f", "k", "l", "m", "n", "p", "s", "t", "v", "w", "z")},
    **{"ɡ": "g", "j": "y", "h": "hh", "ɹ": "r", "ð": "dh", "θ": "th", "ŋ": "ng", "ɾ": "dx", "ʔ": "q"},
    **{"ʃ": "sh", "ʒ": "zh", "tʃ": "ch", "dʒ": "jh"},
    **{"iː": "iy", "i": "iy", "ɪ": "ih", "ᵻ": "ix", "ɛ": "eh", "æ": "ae", "a": "ae", "uː": "uw", "ʊ": "uh"},
    **{"ɑː": "aa", "ɒ": "aa", "ɔː": "ao", "ɔ": "ao", "ʌ": "ah", "ɐ": "ah", "ə": "ax", "ɜː": "er", "ɚ": "axr"},
    **{"əʊ": "ow", "oʊ": "ow", "aɪ": "ay", "aʊ": "aw", "eɪ": "ey", "ɔɪ": "oy"},
    **{"ɔːɹ": "ao r", "ɑːɹ": "aa r", "ɪɹ": "ih r", "iə": "iy ax"},
}
"""espeak-ng's IPA -> TIMIT's own symbols."""


def timit(mini_folder: Path, root: Path) -> None:
    """TIMIT in SPHERE files: the sentences of `mini` as SX, and an SA1 for everybody."""
    for split in SPLITS:
        cuts = cuts_of(mini_folder, f"speech_{split}")
        names = dict(zip((speaker.name for speaker in SPEAKERS[split]), _TIMIT_SPEAKERS[split], strict=True))
        part = root / "TIMIT" / ("TRAIN" if split == "train" else "TEST") / "DR1"
        for name in names.values():
            _timit_sentence(cuts[0], part / name / "SA1")
        for i, cut in enumerate(cuts):
            _timit_sentence(cut, part / names[spoken(cut).speaker or ""] / f"SX{i + 1}")
    _timit_sentence(cuts_of(mini_folder, "speech_test")[0], root / "TIMIT" / "TEST" / "DR1" / "MZZZ0" / "SX1")


def _timit_sentence(cut: MonoCut, stem: Path) -> None:
    assert source_of(cut).is_file()
    samples = samples_of(cut)
    write_wav(stem.with_suffix(".WAV"), samples, container="NIST")
    write_lines(stem.with_suffix(".TXT"), [f"0 {len(samples)} {(spoken(cut).text or '').capitalize()}."])
    tiers = spoken(cut).alignment or {}
    words = [(*_span(item), item.symbol) for item in tiers["word"]]
    write_lines(stem.with_suffix(".WRD"), (f"{start} {end} {word}" for start, end, word in words))
    phones = [(start, end, symbol) for item in tiers["phone"] for start, end, symbol in _phones(item)]
    marks = [start for start, _, _ in phones]
    lines = [f"0 {marks[0]} h#"]
    for (start, end, symbol), following in zip(phones, [*marks[1:], phones[-1][1]], strict=True):
        lines.append(f"{start} {end} {symbol}")
        if following > end:
            lines.append(f"{end} {following} pau")
    write_lines(stem.with_suffix(".PHN"), [*lines, f"{phones[-1][1]} {len(samples)} h#"])


def _span(item: AlignmentItem) -> tuple[int, int]:
    """First and last sample."""
    return round(item.start * SAMPLE_RATE), round((item.start + item.duration) * SAMPLE_RATE)


def _phones(item: AlignmentItem) -> Iterator[tuple[int, int, str]]:
    """A phone of espeak-ng as one or two of TIMIT's, of equal length."""
    start, end = _span(item)
    symbols = _TIMIT_PHONES.get(item.symbol, "ax").split()
    for i, symbol in enumerate(symbols):
        yield (
            start + (end - start) * i // len(symbols),
            start + (end - start) * (i + 1) // len(symbols),
            symbol,
        )
