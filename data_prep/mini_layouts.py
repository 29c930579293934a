"""The synthetic corpora laid out as the published ones: their names, folders, transcripts and lists.

With these everything from `distill data prepare librispeech` on can be tried offline. The tasks' corpora, in
which other words are spoken than in the `mini` sentences, are in `distill.data_prep.mini_tasks`.
"""

from __future__ import annotations

import csv
import json
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from lhotse import MonoCut
from scipy.signal import resample_poly
from tqdm import tqdm

from distill.data_prep import mini, mini_tasks
from distill.data_prep.mini_files import cuts_of, samples_of, source_of, spoken, write_lines, write_wav
from distill.data_prep.written import Written
from distill.errors import DataError


def prepare(out: Path, *, seed: int = 0, size: str = "tiny") -> Path:
    """Make the `mini` corpora in `out/mini` and lay them out below `out` as every published corpus.

    Args:
        out: folder that is then the `--root` of any of `LAYOUTS`.
        seed: of `distill.data_prep.mini.prepare`.
        size: "tiny" (20 MB), or "full".

    Returns:
        `out`.

    Raises:
        DataError: `out` has something else in it.
        UserError: espeak-ng is not installed.
        ValueError: an option is out of range.
    """
    out = Path(out)
    ours = Written(out).has("mini") or (out / "mini" / "prepared.json").exists()
    if not ours and out.is_dir() and any(out.iterdir()):
        raise DataError(f"{out} is not empty, and nothing is overwritten: choose another --out")
    Written(out).claim(["mini"], known=["mini"])
    mini.prepare(out / "mini", seed=seed, size=size)
    for corpus in tqdm(LAYOUTS, desc="layouts", unit="corpus", disable=None):
        write_layout(corpus, out / "mini", out)
    return out


def write_layout(corpus: str, mini_folder: Path, root: Path) -> None:
    """Lay the `mini` corpora out as a published corpus.

    Args:
        corpus: one of `LAYOUTS`.
        mini_folder: what `distill.data_prep.mini.prepare` made.
        root: the corpus's own folder goes below it.

    Raises:
        ValueError: no such layout.
    """
    if corpus not in LAYOUTS:
        raise ValueError(f"corpus must be one of {', '.join(LAYOUTS)}, not {corpus!r}")
    LAYOUTS[corpus](Path(mini_folder), Path(root))


def _kind(cut: MonoCut) -> str:
    assert cut.custom is not None
    return cut.custom["kind"]


# LibriSpeech: every mini speaker goes to one of the parts, so that no speaker is in two of them.
_PARTS = {
    "train": ("train-clean-100", "train-clean-360", "train-other-500"),
    "dev": ("dev-clean", "dev-other"),
    "test": ("test-clean", "test-other"),
}
_MINI_PARTS = {"train": ("train-clean-5",), "dev": ("dev-clean-2",)}
_FIRST_SPEAKER = {"train": 1000, "dev": 2000, "test": 3000}


def _librispeech(mini_folder: Path, root: Path) -> None:
    _readings(mini_folder, root / "LibriSpeech", _PARTS)


def _mini_librispeech(mini_folder: Path, root: Path) -> None:
    _readings(mini_folder, root / "LibriSpeech", _MINI_PARTS)


def _readings(mini_folder: Path, root: Path, parts: dict[str, tuple[str, ...]]) -> None:
    for split, names in parts.items():
        for index, cuts in enumerate(_by_speaker(cuts_of(mini_folder, f"speech_{split}"))):
            speaker = _FIRST_SPEAKER[split] + index
            _chapter(cuts, root / names[index % len(names)] / str(speaker) / "1", f"{speaker}-1")


def _by_speaker(cuts: Iterable[MonoCut]) -> list[list[MonoCut]]:
    groups = defaultdict(list)
    for cut in cuts:
        groups[spoken(cut).speaker].append(cut)
    return [groups[speaker] for speaker in sorted(groups)]


def _chapter(cuts: Sequence[MonoCut], folder: Path, name: str) -> None:
    """FLAC files, their transcripts, and word alignments as in CorentinJ/librispeech-alignments."""
    transcripts, alignments = [], []
    folder.mkdir(parents=True, exist_ok=True)
    for i, cut in enumerate(cuts):
        utterance = f"{name}-{i:04d}"
        shutil.copyfile(source_of(cut), folder / f"{utterance}.flac")
        transcripts.append(f"{utterance} {(spoken(cut).text or '').upper()}")
        words, ends = [""], []  # an empty word is a pause
        for item in (spoken(cut).alignment or {})["word"]:
            words += [item.symbol.upper(), ""]
            ends += [item.start, item.start + item.duration]
        times = ",".join(f"{time:.3f}" for time in [*ends, cut.duration])
        alignments.append(f'{utterance} "{",".join(words)}" "{times}"')
    write_lines(folder / f"{name}.trans.txt", transcripts)
    write_lines(folder / f"{name}.alignment.txt", alignments)


_MUSAN = {"music": ("music", "fma"), "noise": ("noise", "free-sound"), "babble": ("speech", "librivox")}


def _musan(mini_folder: Path, root: Path) -> None:
    counts: dict[str, int] = defaultdict(int)
    for split in mini.SPLITS:
        for cut in cuts_of(mini_folder, f"musan_{split}"):
            kind, source = _MUSAN[_kind(cut)]
            name = f"{kind}-{source}-{counts[kind]:04d}"
            counts[kind] += 1
            write_wav(root / "musan" / kind / source / f"{name}.wav", samples_of(cut))
    music = (f"music-fma-{i:04d} electronic N nobody" for i in range(counts["music"]))
    write_lines(root / "musan" / "music" / "fma" / "ANNOTATIONS", music)


def _wham(mini_folder: Path, root: Path) -> None:
    for split, part in zip(mini.SPLITS, ("tr", "cv", "tt"), strict=True):
        for i, cut in enumerate(cuts_of(mini_folder, f"wham_{split}")):
            samples = samples_of(cut)
            # A second microphone a hand's breadth away: WHAM! is binaural.
            both = np.stack([samples, 0.8 * np.roll(samples, 8)], axis=1)
            write_wav(root / "wham_noise" / part / f"01ac{i:04d}_1.5_02bo{i:04d}_-1.5.wav", both)


def _fsd50k(mini_folder: Path, root: Path) -> None:
    cuts = cuts_of(mini_folder, "fsd_test")
    for part, chosen in (("dev", cuts[::2]), ("eval", cuts[1::2])):
        rows = []
        for i, cut in enumerate(chosen):
            name = str(1000 + i if part == "dev" else 9000 + i)
            wave = 0.5 * resample_poly(samples_of(cut), 441, 160)
            write_wav(root / "FSD50K" / f"FSD50K.{part}_audio" / f"{name}.wav", wave, 44_100)
            rows.append(
                [name, f"{_kind(cut)},Synthetic", "/m/000,/m/001", *(["train"] if part == "dev" else [])]
            )
        table = root / "FSD50K" / "FSD50K.ground_truth" / f"{part}.csv"
        table.parent.mkdir(parents=True, exist_ok=True)
        with table.open("w", encoding="utf-8", newline="") as lines:
            head = ["fname", "labels", "mids", *(["split"] if part == "dev" else [])]
            csv.writer(lines).writerows([head, *rows])


def _dns(mini_folder: Path, root: Path) -> None:
    for i, cut in enumerate(cuts_of(mini_folder, "dns_test")):
        wave = 0.5 * resample_poly(samples_of(cut), 3, 1)
        write_wav(root / "datasets_fullband" / "noise_fullband" / f"{_kind(cut)}_{i:04d}.wav", wave, 48_000)
    responses = root / "datasets" / "impulse_responses"
    for i, cut in enumerate(cuts_of(mini_folder, "rir_test")):
        room = f"Room{i + 1:03d}"
        write_wav(
            responses / "SLR26/simulated_rirs_16k/smallroom" / room / f"{room}-00001.wav", samples_of(cut)
        )
    noise = samples_of(cuts_of(mini_folder, "dns_test")[0])  # the noises among the room responses
    real = responses / "SLR28/RIRS_NOISES/real_rirs_isotropic_noises"
    write_wav(real / "RVB2014_type1_noise_largeroom1_1.wav", noise)
    write_wav(responses / "SLR28/RIRS_NOISES/pointsource_noises/noise-free-sound-0000.wav", noise)


def _chime3(mini_folder: Path, root: Path) -> None:
    home = root / "CHiME3" / "data"
    noises = cuts_of(mini_folder, "wham_test")
    lines, notes = [], []
    for i, cut in enumerate(cuts_of(mini_folder, "speech_test")):
        place = ("BUS", "CAF", "PED", "STR")[i % 4]
        speaker, sentence = f"M{5 + i % 2:02d}", f"{440 + i}C0201"
        name = f"{speaker}_{sentence}_{place}"
        speech = samples_of(cut)
        noise = np.resize(samples_of(noises[i % len(noises)]), len(speech))
        for channel in range(7):
            level = (0.05, 0.6, 1.5, 0.6, 0.5, 0.4, 0.5)[channel]  # near the mouth; at the back; at the front
            wave = 0.5 * (speech * (0.4 if channel == 2 else 1) + level * noise)
            folder = home / "audio" / "16kHz" / "isolated" / f"et05_{place.lower()}_real"
            write_wav(folder / f"{name}.CH{channel}.wav", wave)
        text = f"<NOISE> {(spoken(cut).text or '').capitalize()} ."
        lines.append(f"{text} ({name})")
        notes.append({"speaker": speaker, "wsj_name": sentence, "environment": place, "dot": text})
    write_lines(home / "transcriptions" / "et05_real.dot_all", lines)
    write_lines(home / "annotations" / "et05_real.json", [json.dumps(notes, indent=1)])


LAYOUTS: dict[str, Callable[[Path, Path], None]] = {
    "librispeech": _librispeech,
    "mini_librispeech": _mini_librispeech,
    "musan": _musan,
    "wham": _wham,
    "fsd50k": _fsd50k,
    "dns": _dns,
    "chime3": _chime3,
    "speech_commands": mini_tasks.speech_commands,
    "fluent_commands": mini_tasks.fluent_commands,
    "slurp": mini_tasks.slurp,
    "iemocap": mini_tasks.iemocap,
    "timit": mini_tasks.timit,
}
"""Corpus -> writes (mini folder, root)."""
