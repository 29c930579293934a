"""Find out what a checkpoint is, by its content, and load it."""

from __future__ import annotations

import difflib
import math
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from distill.atomic import read_yaml
from distill.checkpoints import (
    fairseq,
    files,
    huggingface,
    native,
    nemo,
    s3prl,
    safe_pickle,
    torchaudio,
    wavlm,
    weights,
)
from distill.checkpoints.native import Kind
from distill.encoder import Encoder, EncoderConfig
from distill.errors import CheckpointError, UserError, first_line, listed
from distill.hubert import PRESETS as HUBERTS
from distill.hubert import HubertEncoder
from distill.spiral.encoder import PRESETS as SPIRALS
from distill.student import Student, encoder_of

_Wanted = Literal["teacher", "student", "any"]
PRESETS: dict[str, EncoderConfig] = {**HUBERTS, **{f"spiral_{name}": SPIRALS[name] for name in SPIRALS}}
"""What "random:NAME" makes."""
_EXPECTED: dict[_Wanted, str] = {
    "teacher": "expected a teacher: a fairseq, WavLM or torchaudio .pt, a torchaudio bundle such as "
    "HUBERT_BASE, a Hugging Face folder or hub id (org/name), a .ckpt of SPIRAL's authors, "
    "teacher.safetensors, a run folder, or random:" + "|".join(PRESETS),
    "student": "expected a student: student.safetensors with its .json, a Lightning .ckpt, an s3prl "
    "Distiller .ckpt, or a run folder",
    "any": "expected a checkpoint: a fairseq, WavLM or torchaudio .pt, a torchaudio bundle, a Hugging Face "
    "folder or hub id (org/name), an s3prl Distiller .ckpt, a .ckpt of SPIRAL's authors, our .safetensors "
    "with its .json, a Lightning .ckpt, our .onnx, or a run folder",
}
_CHOICES = {"normalize=true": True, "normalize=false": False}
_LONGEST_NOTE = 10_000
"""Letters of a text in a provenance."""
_HEAD = "head.safetensors"  # next to the teacher that `distill adapt` makes
EXPORT_NAMES = {
    "s3prl": "distiller.ckpt",
    "fairseq": "hubert.pt",
    "torchaudio": "torchaudio.pt",
    "onnx": "student.onnx",
}
"""What `export` calls the formats that are one file; a folder with one of them stands for it."""


@dataclass(frozen=True)
class Opened:
    """A checkpoint that has been read."""

    format: str
    """As `CheckpointInfo.format`."""
    model: Encoder | Student
    """In eval mode."""
    provenance: dict[str, Any]
    """Where it comes from, plain values."""
    recipe: dict[str, Any] | None = None
    """Of its run, if it lies in a run folder."""


def load_teacher(source: str | Path, *, normalize_input: bool | None = None) -> Encoder:
    """Load an encoder of HuBERT or SPIRAL, in eval mode.

    A Hugging Face folder holds a plain encoder: an exported student can be loaded too, without its heads.

    Args:
        source: a fairseq checkpoint, a torchaudio state dict or bundle name (HUBERT_BASE), a Hugging Face
            folder or hub id, a Lightning checkpoint of SPIRAL's authors (of which the student's encoder is
            taken), `teacher.safetensors`, a run folder, a Lightning checkpoint of `distill adapt`, or
            "random:base", "random:large", "random:mini", "random:spiral_base", ... for random weights (from
            torch's global generator). HuBERT, wav2vec 2.0 and WavLM alike. Each may end in "?normalize=true"
            or "?normalize=false", see `split_source`.
        normalize_input: whether waveforms of HuBERT are normalised to zero mean and unit variance first;
            None: as the source says, where a Hugging Face folder of a model with group norm is taken not to.

    Raises:
        CheckpointError: saying what was found and what was expected.
    """
    opened = open_source(str(source), "teacher", normalize_input)
    if isinstance(opened.model, Student):
        raise CheckpointError(f"{source} holds a student, {_EXPECTED['teacher']}; load_student reads it")
    return opened.model


def load_hubert(source: str | Path) -> HubertEncoder:
    """`load_teacher` for what only HuBERT can do: masked prediction of clusters, and clusters of its layers.

    Raises:
        CheckpointError: as `load_teacher`, and for a SPIRAL.
    """
    encoder = load_teacher(source)
    if not isinstance(encoder, HubertEncoder):
        raise CheckpointError(
            f"{source} is a SPIRAL encoder: masked prediction of clusters (distill adapt, its targets) is "
            "how HuBERT is trained, name one; SPIRAL is trained by distill train spiral_base"
        )
    return encoder


def load_student(path: str | Path, *, normalize_input: bool | None = None) -> Student:
    """Load a student with its prediction heads, in eval mode.

    Args:
        path: `student.safetensors` or its .json, a Lightning checkpoint, an s3prl Distiller checkpoint, or a
            run folder.
        normalize_input: as for `load_teacher`.

    Raises:
        CheckpointError: saying what was found and what was expected.
    """
    opened = open_source(str(path), "student", normalize_input)
    if not isinstance(opened.model, Student):
        raise CheckpointError(
            f"{path} holds an encoder without prediction heads ({opened.format}), {_EXPECTED['student']}; "
            "load_teacher reads it"
        )
    return opened.model


def load_any(
    source: str | Path,
) -> tuple[Encoder | Student, dict[str, Any], dict[str, Any] | None]:
    """Load a teacher or a student, whichever it is.

    Returns:
        The model, in eval mode; where it comes from; the recipe of its run, if it lies in a run folder.

    Raises:
        CheckpointError: as `load_teacher`.
    """
    opened = open_source(str(source), "any")
    return opened.model, opened.provenance, opened.recipe


def teacher_facts(source: str) -> dict[str, str]:
    """What a run notes down in its provenance about the teacher that it just loaded.

    Returns:
        "teacher", the source; where that is a model of the hub also "teacher_hub_id": later, and elsewhere,
        nothing tells an id from a path such as models/hubert_base.pt.
    """
    plain = split_source(source)[0]
    return {"teacher": source} | ({"teacher_hub_id": plain} if huggingface.is_hub_id(plain) else {})


def split_source(source: str) -> tuple[str, bool | None]:
    """A source without its "?normalize=true" or "?normalize=false", and what that says.

    So a user decides, wherever a model can be named, whether waveforms are normalised to zero mean and unit
    variance first; what the checkpoint says about it does not count then.

    Returns:
        The source, and None if nothing is said.

    Raises:
        CheckpointError: for anything else after a "?", unless the source exists under its full name.
    """
    plain, mark, choice = source.rpartition("?")
    with suppress(OSError):  # too long for a path, say: then it is none
        if Path(source).expanduser().exists():
            return source, None
    if not mark:
        return source, None
    if choice not in _CHOICES:
        raise CheckpointError(
            f"{source}: there is {ascii(choice)[:40]} after the '?', expected {' or '.join(_CHOICES)}"
        )
    return plain, _CHOICES[choice]


def open_source(source: str, wanted: _Wanted, normalize_input: bool | None = None) -> Opened:
    """Load whatever the source is; `wanted` decides between two models in one folder, and words errors."""
    source, stated = split_source(source)
    choice = stated if normalize_input is None else normalize_input
    opened = _open_plain(source, wanted, choice)
    if choice is not None:
        encoder = opened.model.encoder if isinstance(opened.model, Student) else opened.model
        if not isinstance(encoder, HubertEncoder):
            raise CheckpointError(
                f"{source}: whether waveforms are normalised is a choice for HuBERT; SPIRAL always scales "
                'them to their peak and normalises its features: leave "?normalize=..." out'
            )
        encoder.config = replace(encoder.config, normalize_input=choice)
    recipe = None if opened.recipe is None else _noted(safe_pickle.plain(opened.recipe))
    return replace(opened, provenance=_noted(safe_pickle.plain(opened.provenance)), recipe=recipe)


def _noted(value: Any) -> Any:
    """Plain values so that they can be printed and written to any file, whatever they said."""
    if isinstance(value, dict):
        return {_noted(key): _noted(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_noted(item) for item in value]
    if isinstance(value, str):
        text = value if len(value) <= _LONGEST_NOTE else f"{value[:_LONGEST_NOTE]}..."
        return text.encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, int) and value.bit_length() > 64:
        return f"a number of {value.bit_length()} bits"
    return value


def _open_plain(source: str, wanted: _Wanted, choice: bool | None) -> Opened:
    """`open_source` of a source without "?..."; what the user chose goes before what a format says."""
    path = Path(source).expanduser()
    if source.startswith("random:"):
        name = source.removeprefix("random:")
        if name not in PRESETS:
            raise CheckpointError(f"{source}: there is no preset {name!r}, expected {', '.join(PRESETS)}")
        return Opened("random", encoder_of(PRESETS[name]).eval(), {"preset": name})
    try:
        return _open_path(path, source, wanted, choice)
    except UserError:
        raise
    except OSError as error:
        raise CheckpointError(f"{source} cannot be read: {error.strerror or error}") from error
    except Exception as error:  # a file can be wrong in more ways than its reader asks about
        raise CheckpointError(
            f"{source} holds something that no checkpoint of its kind does ({type(error).__name__}: "
            f"{first_line(error)}): it is damaged, or was written by another program"
        ) from error


def _open_path(path: Path, source: str, wanted: _Wanted, choice: bool | None) -> Opened:
    if not path.exists():
        if torchaudio.is_bundle(source):
            return _filled("torchaudio", *torchaudio.read_bundle(source), source)
        if huggingface.is_hub_id(source):
            return _hugging_face(source, choice)
        raise CheckpointError(_missing(source, wanted))
    if not path.is_file() and not path.is_dir():
        raise CheckpointError(f"{source} is neither a file nor a folder, {_EXPECTED[wanted]}")
    if path.is_file() and path.stat().st_size == 0:
        raise CheckpointError(f"{source} is empty (0 bytes), {_EXPECTED[wanted]}")
    if path.is_file() and nemo.mentioned(path):
        return _torch_file(path, wanted)
    prefer: Kind = "teacher" if wanted == "teacher" else "student"
    if native.locate(path, prefer) is not None:
        model, provenance = native.read(path, prefer=prefer)
        head = (path if path.is_dir() else path.parent) / _HEAD
        if isinstance(model, HubertEncoder) and path.suffix != ".ckpt" and head.is_file():
            tensors = files.read_safetensors(head)
            weights.check_finite(tensors, head)
            model.pretraining_head = fairseq.Head(tensors)
        return Opened("native", model, provenance, _recipe(path))
    folder = path if path.is_dir() else path.parent
    if huggingface.matches(folder) and (path.is_dir() or path.name in huggingface.FILES):
        return _hugging_face(folder, choice)
    if path.is_dir():
        exported = exported_files(path)
        if len(exported) == 1:
            return _torch_file(exported[0], wanted)
        names = listed(sorted(entry.name for entry in path.iterdir()))
        raise CheckpointError(f"{source} is a folder with {names}, {_EXPECTED[wanted]}")
    return _torch_file(path, wanted)


def exported_files(folder: Path) -> list[Path]:
    """The files in a folder that have the names of `export`."""
    return [folder / name for name in EXPORT_NAMES.values() if (folder / name).is_file()]


def _hugging_face(source: str | Path, choice: bool | None) -> Opened:
    return _filled("huggingface", *huggingface.read(source, normalize_input=choice), source)


def _filled(
    format: str,
    config: EncoderConfig,
    state: dict[str, Tensor],
    provenance: dict[str, Any],
    source: str | Path,
) -> Opened:
    return Opened(format, weights.fill_encoder(config, state, source), provenance)


def _recipe(path: Path) -> dict[str, Any] | None:
    """The resolved recipe of the run that a checkpoint of ours lies in, at most two folders up."""
    for folder in (path, path.parent, path.parent.parent):
        if (folder / "recipe.yaml").is_file():
            try:
                recipe = read_yaml(folder / "recipe.yaml")
            except (OSError, ValueError):
                return None
            return recipe if isinstance(recipe, dict) else None
    return None


def _torch_file(path: Path, wanted: _Wanted) -> Opened:
    """A file that is neither ours nor part of a Hugging Face folder: fairseq, s3prl, torchaudio, or else."""
    if not safe_pickle.matches(path):
        raise CheckpointError(f"{path} is {_describe_file(path)}, {_EXPECTED[wanted]}")
    contents = safe_pickle.load(path)
    if wavlm.matches(contents):
        return _filled("wavlm", *wavlm.parse(contents, path), path)
    if fairseq.matches(contents):
        opened = _filled("fairseq", *fairseq.parse(contents, path), path)
        assert isinstance(opened.model, HubertEncoder)
        opened.model.pretraining_head = fairseq.parse_head_and_labels(contents, path)
        return opened
    if s3prl.matches(contents):
        return Opened("s3prl", *s3prl.parse(contents, path))
    if nemo.matches(contents):
        return _filled("nemo", *nemo.parse(contents, path), path)
    if torchaudio.matches(contents):
        return _filled("torchaudio", *torchaudio.parse(contents, path), path)
    raise CheckpointError(f"{path} is {_describe_contents(contents)}, {_EXPECTED[wanted]}")


def _describe_file(path: Path) -> str:
    """What a file that torch did not write seems to be."""
    with path.open("rb") as stream:
        start = stream.read(256)
    if path.suffix == ".onnx":
        return "an ONNX model, which runs in onnxruntime and cannot be loaded back"
    if path.suffix == ".safetensors" or start[8:9] == b"{":
        return "a safetensors file without its .json or config.json next to it"
    try:
        start.decode("ascii")
    except UnicodeDecodeError:
        return "an unknown binary file"
    return "a text file"


def _describe_contents(contents: Any) -> str:
    """What the contents of a torch file that we cannot load seem to be."""
    if not isinstance(contents, dict):
        return f"a torch file with a {type(contents).__name__}"
    keys = list(map(str, contents))
    if "Config" in keys and ("Args" in keys or "Upstream_Config" in keys):
        return "an s3prl checkpoint of another upstream or of a downstream task"
    if any(key.removeprefix("hubert.").startswith("feature_projection.") for key in keys):
        return "the weights of a Hugging Face model without the config.json that belongs next to them"
    return f"a torch file with {listed(keys)}"


def _missing(source: str, wanted: _Wanted) -> str:
    """The message for a source that does not exist, with the nearest name that does."""
    path = Path(source)
    hint = ""
    if path.parent.is_dir():
        names = [entry.name for entry in path.parent.iterdir()]
        close = difflib.get_close_matches(path.name, names, n=1)
        hint = f" (did you mean {path.parent / close[0]}?)" if close else ""
    elif path.parent != path:
        hint = f" (there is no folder {path.parent} either)"
    return f"{source} does not exist{hint}, {_EXPECTED[wanted]}"
