"""Speech Commands v0.01 as SUPERB's keyword spotting: ten keywords, `_unknown_` and `_silence_`.

lhotse's recipe keeps all words and gives no classes.
"""

from __future__ import annotations

from pathlib import Path

from distill.data.files import audio_files
from distill.data.text import read_lines
from distill.data_prep.corpus import Clip, Corpus, Split

KEYWORDS = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go")
UNKNOWN, SILENCE = "_unknown_", "_silence_"
_NOISE = "_background_noise_"
_TEST = "speech_commands_test_set_v0.01"


def find(root: Path, split: str) -> list[Clip] | None:
    """Clips with `custom["label"]`.

    Train and dev are what the official lists leave and `validation_list.txt` (the lists are made by the hash
    by which s3prl divides the words); the silence of both is all background noise, as in s3prl, cut into
    seconds. `test` is the official test set, a download of its own and what SUPERB reports; `testing_list`
    are the words of `testing_list.txt`.
    """
    home = next((path for path in (root / "speech_commands_v0.01", root) if _is_home(path)), None)
    if split == "test":
        candidates = [root, root / _TEST, *([home.parent / _TEST] if home else [])]
        folder = next((path for path in candidates if (path / SILENCE).is_dir()), None)
        return folder and [_clip(path) for path in audio_files(folder)]
    if home is None:
        return None
    lists = {name: _names(home / f"{name}.txt") for name in ("validation_list", "testing_list")}
    if split == "testing_list":
        return [_clip(home / name) for name in lists["testing_list"]]
    files = audio_files(home)
    noises = [path for path in files if path.parent.name == _NOISE]
    if split == "dev":
        words = [home / name for name in lists["validation_list"]]
    else:
        taken = {*lists["validation_list"], *lists["testing_list"]}
        words = [
            path
            for path in files
            if path.parent.name != _NOISE and path.relative_to(home).as_posix() not in taken
        ]
    return [_clip(path) for path in [*words, *noises]]


def _is_home(folder: Path) -> bool:
    return (folder / "validation_list.txt").is_file() and (folder / "testing_list.txt").is_file()


def _names(path: Path) -> list[str]:
    return sorted(line.strip() for _, line in read_lines(path))


def _clip(path: Path) -> Clip:
    folder = path.parent.name
    if folder in (_NOISE, SILENCE):
        # A second, as every word lasts; the silence of the test set is that long already.
        pieces_s = 1.0 if folder == _NOISE else None
        return Clip(id=f"{folder}/{path.stem}", path=path, custom={"label": SILENCE}, pieces_s=pieces_s)
    word, _, speaker = path.stem.partition("_") if folder == UNKNOWN else (folder, "", path.stem)
    return Clip(
        id=f"{folder}/{path.stem}",
        path=path,
        text=word.upper(),
        speaker=speaker.partition("_")[0],
        custom={"label": folder if folder in KEYWORDS else UNKNOWN},
    )


SPEECH_COMMANDS = Corpus(
    name="speech_commands",
    title="Speech Commands v0.01",
    splits=(  # 64 727 files: 64 721 words and six background noises, which train and dev share
        Split(name="train", files=51088 + 6),
        Split(name="dev", files=6798 + 6),
        Split(name="test", files=3081),
        Split(name="testing_list", files=6835),
    ),
    find=find,
    layout="speech_commands_v0.01/validation_list.txt and speech_commands_test_set_v0.01/yes/*.wav",
    source="http://download.tensorflow.org/data/speech_commands_v0.01.tar.gz and "
    "speech_commands_test_set_v0.01.tar.gz beside it",
    size="1.6 GB",
    licence="CC BY 4.0",
)
