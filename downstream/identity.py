"""What students, utterances and their audio are called, so that results are not mixed up."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

from lhotse.cut import Cut
from lhotse.cut.data import DataCut

from distill.checkpoints import split_source
from distill.data.contents import plain
from distill.data.files import state_of
from distill.data.recordings import parts_of
from distill.hashing import hash_files

_CONFIGS = ("config.json", "preprocessor_config.json")  # of Hugging Face: the same weights, other features
_WEIGHTS = (".safetensors", ".ckpt", ".pt", ".bin", ".onnx")


def audio_of(cuts: Sequence[Cut]) -> tuple[list[str], list[str]]:
    """Where the audio of each utterance is, and the state of those files.

    Returns:
        Paths or URLs with the place in them; sizes and times of change, which URLs do not have.
    """
    seen: dict[str, str] = {}
    places, states = [], []
    for cut in cuts:
        place, state = [], []
        for part in parts_of(cut):
            for source in part.recording.sources if part.recording else ():
                name = source.source if isinstance(source.source, str | Path) else "memory"
                place.append(f"{name} {part.start}{_otherwise(part)}")
                file = str(name).rpartition("#")[0] if source.type == "shar" else str(name)
                state.append(seen[file] if file in seen else seen.setdefault(file, state_of(file)))
        places.append("\t".join(place))
        states.append("\t".join(state))
    return places, states


def _otherwise(part: DataCut) -> str:
    """How a part is read, unless it is the first channel, at most resampled."""
    channel = getattr(part, "channel", 0)
    changes = map(plain, part.recording.transforms or ()) if part.recording else ()
    found = [channel] if channel not in (0, [0]) else []
    found += [change for change in changes if change.get("name") != "Resample"]
    return f" {json.dumps(found, sort_keys=True, default=str)}" if found else ""


def student_folder(checkpoint: str) -> str:
    """Name of a student's folder: its own, with a hash of its files' bytes if they are on this machine."""
    plain, normalize = split_source(checkpoint)
    path = Path(plain)
    files = [path] if path.is_file() else []
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix in _WEIGHTS)
        files += [path / name for name in _CONFIGS if files and (path / name).is_file()]
        files = files or sorted(path.glob("checkpoints/last.ckpt"))
    if not files:
        return _slug(checkpoint)
    name = path.resolve().name if path.is_dir() else f"{path.resolve().parent.name}-{path.stem}"
    wish = "" if normalize is None else f"-normalize-{str(normalize).lower()}"
    return f"{_slug(name)}-{hash_files(files, digest_size=4)}{wish}"


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "_", text).strip("._") or "_"
