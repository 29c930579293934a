"""Fluent Speech Commands: action, object and location of spoken commands (Lugosch et al. 2019).

lhotse's recipe `slu` gives no speakers and reads headers one by one.
"""

from __future__ import annotations

from pathlib import Path

from distill.data.text import read_table
from distill.data_prep.corpus import Clip, Corpus, Split
from distill.data_prep.files import first_folder

SLOTS = ("action", "object", "location")


def find(root: Path, split: str) -> list[Clip] | None:
    """Rows of `data/SPLIT_data.csv`.

    `custom` holds the three slots, and in `label` all of them as `action|object|location`: SUPERB counts a
    command as right if all three are.
    """
    home = first_folder(root, "fluent_speech_commands_dataset") or root
    table = home / "data" / f"{split}_data.csv"
    if not table.is_file():
        return None
    columns = ("path", "speakerId", "transcription", *SLOTS)
    return [_clip(home, row) for _, row in read_table(table, columns)]


def _clip(home: Path, row: dict[str, str]) -> Clip:
    path = home / row["path"]
    slots = {slot: row[slot] for slot in SLOTS}
    return Clip(
        id=path.stem,
        path=path,
        text=row["transcription"],
        speaker=row["speakerId"],
        custom={**slots, "label": "|".join(slots.values())},
    )


FLUENT_COMMANDS = Corpus(
    name="fluent_commands",
    title="Fluent Speech Commands",
    splits=(  # Table 1 of the paper
        Split(name="train", files=23132, hours=14.7),
        Split(name="valid", files=3118, hours=1.9),
        Split(name="test", files=3793, hours=2.4),
    ),
    find=find,
    layout="fluent_speech_commands_dataset/data/train_data.csv",
    source="https://fluent.ai/fluent-speech-commands-a-dataset-for-spoken-language-understanding-research",
    size="1.5 GB",
    licence="Fluent Speech Commands Public License: academic research only",
)
