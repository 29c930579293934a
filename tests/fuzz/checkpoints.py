"""Readers of checkpoints: every format, through the doors that users have."""

from __future__ import annotations

import argparse
import io
import json
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from distill import load_student, load_teacher
from distill.checkpoints import export, inspect, safe_pickle, wavlm, weights
from distill.hubert import HubertEncoder
from distill.student import Student
from distill.training.saving import read_checkpoint
from tests.fuzz.target import Target, read_json, write_json
from tests.paths import GOLDEN

CONVOLUTIONS = ((2, 10, 5), *[(2, 3, 2)] * 4, *[(2, 2, 2)] * 2)  # a frame every 320 samples, as s3prl has it
SMALL = {"layers": 1, "dim": 4, "ffn_dim": 4, "heads": 2, "position_groups": 2, "position_kernel": 2}
SHARD = "model-00001-of-00001.safetensors"
PICKLE_WORDS = (
    *(b"cos\nsystem\n", b"(", b")", b"}", b"]", b"\x85", b"R", b"\x81", b"b", b"Q", b"0", b"2", b"h\x00"),
    *(
        b"ccollections\nOrderedDict\n",
        b"cargparse\nNamespace\n",
        b"ctorch\nSize\n",
        b"\x8a\xffx",
        b"\x82\x01",
    ),
)


@cache
def files(format: str) -> dict[str, bytes]:
    """A small model in a format: the files of its folder."""
    torch.manual_seed(0)
    teacher = HubertEncoder.from_preset("mini", conv_layers=CONVOLUTIONS, **SMALL).eval()
    student = Student.from_teacher(teacher, layers=1, targets=(1,)).eval()
    model = student if format in ("s3prl", "native") else teacher
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if format == "last.ckpt":
            described = {"kind": "student", "architecture": student.to_dict(), "provenance": {"a": 1}}
            state = {f"student.{key}": value for key, value in student.state_dict().items()}
            about = {"pytorch-lightning_version": "2.6", "global_step": 3, "loops": {}, "callbacks": {}}
            rest = {"optimizer_states": [{"state": {}}], "lr_schedulers": []}
            torch.save(about | rest | {"state_dict": state, "distill": described}, folder / "last.ckpt")
        elif format == "wavlm":
            torch.save(_wavlm(), folder / "model.pt")
        else:
            suffixes = {"fairseq": ".pt", "torchaudio": ".pt", "s3prl": ".ckpt", "onnx": ".onnx"}
            export(model, format, folder / f"model{suffixes[format]}" if format in suffixes else folder)
        return {path.name: path.read_bytes() for path in folder.iterdir()}


def _wavlm() -> dict[str, Any]:
    """A small WavLM as Microsoft lays it out."""
    changes = {"conv_layers": CONVOLUTIONS, "relative_buckets": 8, "relative_distance": 20}
    model = HubertEncoder.from_preset("mini", **SMALL, **changes)
    names = {ours: theirs for theirs, ours in wavlm._NAMES.items()}
    cfg = {"encoder_attention_heads": SMALL["heads"], "normalize": False, "relative_position_embedding": True}
    cfg |= {"conv_feature_layers": str(list(CONVOLUTIONS)), "num_buckets": 8, "max_distance": 20}
    return {"cfg": cfg, "model": weights.rename(model.state_dict(), names)[0]}


def _beside(format: str, file: str) -> Callable[[Path], None]:
    """Writes the other files of a model into a folder."""

    def write(folder: Path) -> None:
        for name, data in files(format).items():
            if name != file:
                (folder / name).write_bytes(data)

    return write


def _torch_tree(data: bytes) -> Any:
    """The contents of a torch file without its objects."""
    with tempfile.NamedTemporaryFile(suffix=".pt") as file:
        file.write(data)
        file.flush()
        return _plain(safe_pickle.load(file.name))


def _plain(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.clone()
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return safe_pickle.plain(value)


def _as_torch(value: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(value, stream)
    return stream.getvalue()


def _legacy(data: bytes) -> bytes:
    stream = io.BytesIO()
    torch.save(_torch_tree(data), stream, _use_new_zipfile_serialization=False)
    return stream.getvalue()


ODD_TENSORS: tuple[Callable[[], Any], ...] = (
    lambda: torch.zeros(0),
    lambda: torch.zeros(()),
    lambda: torch.zeros(1).expand(1 << 20, 1 << 10),
    lambda: torch.full((4,), float("nan")),
    lambda: torch.zeros(4, dtype=torch.int8),
    lambda: torch.zeros(4, dtype=torch.complex64),
    lambda: torch.zeros(2, 2, 2, 2, 2),
    lambda: argparse.Namespace(x=1),
    lambda: (1, (2, (3,))),
    lambda: {(1, 2): 3, b"x": 4},
)


def _torch_target(
    name: str, file: str, seeds: Callable[[], Sequence[bytes]], read: Any, beside: Any = None
) -> Target:
    return Target(
        name=name,
        file=file,
        seeds=seeds,
        read=read,
        beside=beside,
        words=PICKLE_WORDS,
        parse=_torch_tree,
        dump=_as_torch,
        odd=ODD_TENSORS,
    )


def _json_target(name: str, format: str, file: str, read: Any) -> Target:
    return Target(
        name=name,
        file=file,
        seeds=lambda: [files(format)[file]],
        read=read,
        beside=_beside(format, file),
        parse=read_json,
        dump=write_json,
        words=(b'"', b"{", b"}", b"[", b"]", b",", b":"),
    )


def _of(format: str, file: str) -> Callable[[], Sequence[bytes]]:
    """Seeds: a file as zip, and as torch wrote it before."""
    return lambda: [files(format)[file], _legacy(files(format)[file])]


def _pickle_of(data: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return next(archive.read(name) for name in archive.namelist() if name.endswith("/data.pkl"))


def _in_archive(path: Path) -> None:
    """Read a pickle within an archive whose checksums are right: then the unpickler gets it."""
    pickled, whole = path.read_bytes(), path.with_name("whole.pt")
    with (
        zipfile.ZipFile(io.BytesIO(files("fairseq")["model.pt"])) as good,
        zipfile.ZipFile(whole, "w") as out,
    ):
        for name in good.namelist():
            out.writestr(name, pickled if name.endswith("/data.pkl") else good.read(name))
    load_teacher(whole)


def _index() -> bytes:
    names = safetensors.torch.load(files("huggingface")["model.safetensors"])
    return json.dumps({"metadata": {}, "weight_map": dict.fromkeys(names, SHARD)}).encode()


def _shard(folder: Path) -> None:
    """A model of one shard, without its index."""
    good = files("huggingface")
    (folder / "config.json").write_bytes(good["config.json"])
    (folder / SHARD).write_bytes(good["model.safetensors"])


TARGETS = [
    Target(
        name="pickle",
        file="data.pkl",
        seeds=lambda: [_pickle_of(files("fairseq")["model.pt"])],
        read=_in_archive,
        words=PICKLE_WORDS,
    ),
    Target(
        name="shards",
        file="model.safetensors.index.json",
        seeds=lambda: [_index()],
        read=lambda path: load_teacher(path.parent),
        beside=_shard,
        parse=read_json,
        dump=write_json,
    ),
    _torch_target("fairseq", "model.pt", _of("fairseq", "model.pt"), load_teacher),
    _torch_target("wavlm", "model.pt", _of("wavlm", "model.pt"), load_teacher),
    _torch_target("s3prl", "model.ckpt", _of("s3prl", "model.ckpt"), load_student),
    _torch_target(
        "torchaudio",
        "model.pt",
        _of("torchaudio", "model.pt"),
        inspect,
        beside=_beside("torchaudio", "model.pt"),
    ),
    _torch_target(
        "spiral", "x.ckpt", lambda: [(GOLDEN / "spiral" / "nemo_checkpoint.ckpt").read_bytes()], load_teacher
    ),
    _torch_target("last.ckpt", "last.ckpt", lambda: [files("last.ckpt")["last.ckpt"]], inspect),
    _torch_target("resume", "last.ckpt", lambda: [files("last.ckpt")["last.ckpt"]], read_checkpoint),
    Target(
        name="safetensors",
        file="student.safetensors",
        seeds=lambda: [files("native")["student.safetensors"]],
        read=load_student,
        beside=_beside("native", "student.safetensors"),
        words=(b'"F32"', b'"F64"', b'"BF16"', b'"data_offsets"', b'"shape"', b'"dtype"', b"[0,0]", b"[-1,4]"),
    ),
    _json_target("student.json", "native", "student.json", load_student),
    _json_target("huggingface", "huggingface", "config.json", lambda path: load_teacher(path.parent)),
    _json_target(
        "preprocessor", "huggingface", "preprocessor_config.json", lambda path: load_teacher(path.parent)
    ),
    _json_target(
        "torchaudio.json", "torchaudio", "model.json", lambda path: load_teacher(path.with_suffix(".pt"))
    ),
]
