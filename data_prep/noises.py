"""Noise and rooms: MUSAN, WHAM!, FSD50K, and the noises and room responses of the DNS challenges.

lhotse has recipes for MUSAN and WHAM!, which read headers one by one and start again after an interruption.
Here it is enough to say where the files are.
"""

from __future__ import annotations

from pathlib import Path

from distill.data.files import audio_files
from distill.data.text import read_table
from distill.data_prep.corpus import Clip, Corpus, Split
from distill.data_prep.files import first_folder

MUSAN_KINDS = ("music", "noise", "speech")


def find_musan(root: Path, split: str) -> list[Clip] | None:
    """All of `music`, `noise` and `speech`; the folder's name is the clip's `kind`."""
    home = first_folder(root, "musan") or root
    kinds = [kind for kind in MUSAN_KINDS if (home / kind).is_dir()]
    return [
        Clip(id=path.stem, path=path, custom={"kind": kind})
        for kind in kinds
        for path in audio_files(home / kind)
    ]


def find_wham(root: Path, split: str) -> list[Clip] | None:
    """`tr`, `cv` or `tt`; the files have two channels, of which the first is used."""
    folder = first_folder(root, f"wham_noise/{split}", split)
    return folder and [Clip(id=path.stem, path=path) for path in audio_files(folder)]


_FSD50K = {"dev": "dev", "test": "eval"}  # our name of the split -> theirs


def find_fsd50k(root: Path, split: str) -> list[Clip] | None:
    """Clips that the ground truth lists, with their `labels`; all clips if it was not downloaded."""
    part = _FSD50K[split]
    audio = first_folder(root, f"FSD50K/FSD50K.{part}_audio", f"FSD50K.{part}_audio")
    if audio is None:
        return None
    truth = audio.parent / "FSD50K.ground_truth" / f"{part}.csv"
    if not truth.is_file():
        return [Clip(id=path.stem, path=path) for path in audio_files(audio)]
    return [
        Clip(
            id=row["fname"],
            path=audio / f"{row['fname']}.wav",
            custom={"labels": tuple(row["labels"].split(","))},
        )
        for _, row in read_table(truth, ["fname", "labels"])
    ]


# 16 kHz (challenges 1-3) before 48 kHz (3-5), which is resampled while loading.
_DNS = {
    "noise": (
        "datasets/noise",
        "noise",
        "datasets_fullband/noise_fullband",
        "datasets_fullband/noise",
        "noise_fullband",
    ),
    "rir": ("datasets/impulse_responses", "datasets_fullband/impulse_responses", "impulse_responses"),
}


def find_dns(root: Path, split: str) -> list[Clip] | None:
    """Every noise, or every room response. An id is the path below the folder, without suffix."""
    folder = first_folder(root, *_DNS[split])
    return folder and [
        Clip(id=path.relative_to(folder).with_suffix("").as_posix(), path=path)
        for path in audio_files(folder)
        if split == "noise" or _is_response(path)
    ]


def _is_response(path: Path) -> bool:
    """OpenSLR 28, part of the room responses, also holds noises."""
    return "pointsource_noises" not in path.parts and "_noise_" not in path.name


MUSAN = Corpus(
    name="musan",
    title="MUSAN",
    # 660 of music, 930 of noise, 426 of speech (the paper says 929 of noise); hours: the paper's abstract
    splits=(Split(name="all", files=2016, hours=109),),
    find=find_musan,
    layout="musan/{music,noise,speech}/*/*.wav",
    source="https://www.openslr.org/17",
    size="11 GB",
    licence="CC BY 4.0 (collection); every file's own in its folder's LICENSE",
)

WHAM = Corpus(
    name="wham",
    title="WHAM! noise",
    splits=(
        Split(name="tr", files=20000, hours=58.03),
        Split(name="cv", files=5000, hours=14.65),
        Split(name="tt", files=3000, hours=9),
    ),
    find=find_wham,
    layout="wham_noise/tr/*.wav",
    source="http://wham.whisper.ai (wham_noise.zip)",
    size="17 GB",
    licence="CC BY-NC 4.0: non-commercial use only, which may bind models trained with it",
)

FSD50K = Corpus(
    name="fsd50k",
    title="FSD50K",
    splits=(Split(name="dev", files=40966, hours=80.4), Split(name="test", files=10231, hours=27.9)),
    find=find_fsd50k,
    layout="FSD50K.dev_audio/*.wav and FSD50K.ground_truth/dev.csv",
    source="https://zenodo.org/record/4060432",
    size="34 GB unpacked",
    licence="CC BY 4.0 (collection); clips are CC0, CC BY, CC BY-NC or CC Sampling+",
)

DNS = Corpus(
    name="dns",
    title="DNS challenge",
    splits=(Split(name="noise"), Split(name="rir")),  # they differ from challenge to challenge
    find=find_dns,
    layout="datasets_fullband/noise_fullband/*.wav and datasets/impulse_responses/SLR*/**/*.wav",
    source="https://github.com/microsoft/DNS-Challenge",
    size="58 GB of noise at 48 kHz, 4 to 6 GB of room responses",
    licence="noise: AudioSet CC BY 4.0, Freesound CC0, DEMAND CC BY-SA 3.0; room responses: Apache-2.0",
)
