"""Identities of models and audio: text that changes with their contents."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

from lhotse.cut import Cut
from lhotse.cut.data import DataCut

from distill.atomic import complete
from distill.checkpoints import split_source
from distill.data.contents import plain
from distill.data.files import state_of
from distill.data.recordings import parts_of
from distill.hashing import hash_files

_CONFIGS = ("config.json", "preprocessor_config.json")  # of Hugging Face: the same weights, other features
_WEIGHTS = (".safetensors", ".ckpt", ".pt", ".bin", ".onnx")


def audio_of(cuts: Sequence[Cut]) -> tuple[list[str], list[str]]:
    """Location of each utterance's audio, and state of its files.

    Returns:
        Paths or URLs with the offset in them; sizes and modification times, which URLs do not have.
    """
    seen: dict[str, str] = {}
    locations, states = [], []
    for cut in cuts:
        location, state = [], []
        for part in parts_of(cut):
            for source in part.recording.sources if part.recording else ():
                name = source.source if isinstance(source.source, str | Path) else "memory"
                location.append(f"{name} {part.start}{_other_reading(part)}")
                file = str(name).rpartition("#")[0] if source.type == "shar" else str(name)
                state.append(seen[file] if file in seen else seen.setdefault(file, state_of(file)))
        locations.append("\t".join(location))
        states.append("\t".join(state))
    return locations, states


def _other_reading(part: DataCut) -> str:
    """How a part is read, if not as the first channel, at most resampled."""
    channel = getattr(part, "channel", 0)
    changes = map(plain, part.recording.transforms or ()) if part.recording else ()
    found = [channel] if channel not in (0, [0]) else []
    found += [change for change in changes if change.get("name") != "Resample"]
    return f" {json.dumps(found, sort_keys=True, default=str)}" if found else ""


def student_folder(checkpoint: str) -> str:
    """Name of a model's folder of evaluations: the model's, with a hash of its files if they are local."""
    plain, normalize = split_source(checkpoint)
    path = Path(plain)
    files = [path] if path.is_file() else []
    if path.is_dir():
        files = sorted(file for file in complete(path.iterdir()) if file.suffix in _WEIGHTS)
        files += [path / name for name in _CONFIGS if files and (path / name).is_file()]
        files = files or sorted(path.glob("checkpoints/last.ckpt"))
    if not files:
        return _slug(checkpoint)
    name = path.resolve().name if path.is_dir() else f"{path.resolve().parent.name}-{path.stem}"
    suffix = "" if normalize is None else f"-normalize-{str(normalize).lower()}"
    return f"{_slug(name)}-{hash_files(files, digest_size=4)}{suffix}"


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "_", text).strip("._") or "_"
