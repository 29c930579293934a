"""Hostile files: what each asks for, made small; `CASES` has them by name.

A file gets the path of a canary: whatever it says, that file must not exist afterwards.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from tests.distill.checkpoints.hostile_pickles import (
    ARCHIVES,
    CODE,
    PICKLES,
    Case,
    raw,
)
from tests.fuzz.checkpoints import files as small_model


def _header(header: bytes, data: bytes = bytes(64), n_bytes: int | None = None) -> bytes:
    return struct.pack("<Q", len(header) if n_bytes is None else n_bytes) + header + data


def _entry(begin: int, end: int, **more: Any) -> dict[str, Any]:
    return {"dtype": "F32", "shape": [(end - begin) // 4], "data_offsets": [begin, end], **more}


def safetensors(contents: bytes) -> Case:
    """Next to a good student.json."""

    def make(folder: Path, _: Path) -> Path:
        (folder / "student.json").write_bytes(small_model("native")["student.json"])
        (folder / "student.safetensors").write_bytes(contents)
        return folder

    return Case(("inspect", "student", "export"), make)


def _described(header: Mapping[str, Any]) -> Case:
    return safetensors(_header(json.dumps(header).encode()))


SAFETENSORS = {
    "a header of 4 exabytes": safetensors(_header(b"{}", n_bytes=1 << 62)),
    "a header of 20 MB": safetensors(_header(b"{" + b" " * (20 << 20) + b"}")),
    "a header of 200 000 empty tensors": safetensors(
        _header(json.dumps({f"w{n}": _entry(0, 0) for n in range(200_000)}).encode(), b"")
    ),
    "tensors that overlap": _described({"a": _entry(0, 64), "b": _entry(32, 64)}),
    "offsets outside of the file": _described({"a": _entry(0, 4096)}),
    "negative offsets": _described({"a": _entry(-64, 0)}),
    "a shape beyond all numbers": _described({"a": _entry(0, 64, shape=[2**62, 2**62])}),
    "NaN in the header": _described({"a": _entry(0, 64, shape=[float("nan")])}),
    "lists in lists in the header": safetensors(_header(b'{"a":' + b"[" * 100_000)),
    "a type that nobody knows": _described({"a": _entry(0, 64, dtype="Q7")}),
    "no JSON in the header": safetensors(_header(b"\xff\xfe" * 50)),
}


def described(format: str, file: str, change: Callable[[dict[str, Any]], Any] | bytes, *doors: str) -> Case:
    """A good model whose description was changed."""

    def make(folder: Path, _: Path) -> Path:
        for name, data in small_model(format).items():
            (folder / name).write_bytes(data)
        if isinstance(change, bytes):
            (folder / file).write_bytes(change)
        else:
            values = json.loads((folder / file).read_bytes())
            change(values)
            (folder / file).write_text(json.dumps(values))
        return folder

    return Case(doors or ("inspect", "teacher" if format == "huggingface" else "student"), make)


def _link(target: str, name: str = "config.json") -> Case:
    """A description that is a link to something that never ends."""

    def make(folder: Path, _: Path) -> Path:
        for file, data in small_model("huggingface").items():
            (folder / file).write_bytes(data)
        (folder / name).unlink()
        (folder / name).symlink_to(target)
        return folder

    return Case(("inspect", "teacher"), make)


def _pipe(folder: Path, _: Path) -> Path:
    os.mkfifo(folder / "x.pt")
    return folder / "x.pt"


def _shards(name: str) -> Case:
    """An index that names a file elsewhere."""

    def make(folder: Path, _: Path) -> Path:
        good = small_model("huggingface")
        (folder / "config.json").write_bytes(good["config.json"])
        (folder.parent / "elsewhere.safetensors").write_bytes(good["model.safetensors"])
        index = {"weight_map": {"a": name.format(folder=folder.parent)}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        return folder

    return Case(("inspect", "teacher"), make)


def finetuned(encoder: dict[str, Any], classifier: dict[str, Any]) -> Case:
    """A fine-tuned model that describes itself so."""

    def make(folder: Path, _: Path) -> Path:
        good = json.loads(small_model("native")["student.json"])["architecture"]["encoder"]
        shape = {"dim": good["dim"], "outputs": 29, "width": 8}
        described = {"encoder": good | encoder, "classifier": shape | classifier}
        about = {"kind": "finetuned", "version": 1, "units": "characters", "architecture": described}
        (folder / "finetuned.json").write_text(json.dumps(about))
        (folder / "finetuned.safetensors").write_bytes(small_model("native")["student.safetensors"])
        return folder

    return Case(("finetuned",), make)


_NATIVE, _HF = ("native", "student.json"), ("huggingface", "config.json")
DESCRIPTIONS = {
    "JSON of 200 000 lists in lists": described(*_HF, b'{"model_type":' + b"[" * 200_000),
    "JSON of 40 MB": described(*_HF, b"{" + b" " * (40 << 20) + b"}"),
    "JSON with a number of 100 000 digits": described(*_HF, b'{"model_type": ' + b"9" * 100_000 + b"}"),
    "JSON that is no text": described(*_HF, b"\xff\xfe\x00"),
    "JSON that is a list": described(*_HF, b"[1, 2]"),
    "a thousand million layers": described(
        *_NATIVE, lambda v: v["architecture"]["encoder"].update(layers=10**9)
    ),
    "a hundred thousand convolutions": described(
        *_NATIVE, lambda v: v["architecture"]["encoder"].update(conv_layers=[[2, 3, 2]] * 100_000)
    ),
    "a width of a thousand million": described(
        *_NATIVE, lambda v: v["architecture"]["encoder"].update(dim=10**9)
    ),
    "a thousand million targets' width": described(
        *_NATIVE, lambda v: v["architecture"].update(target_dim=10**9)
    ),
    "a million targets": described(*_NATIVE, lambda v: v["architecture"].update(targets=[1] * 10**6)),
    "a dropout that is no number": described(
        *_NATIVE, lambda v: v["architecture"]["encoder"].update(dropout=float("nan"))
    ),
    "sections that are lists": described(*_NATIVE, lambda v: v.update(architecture=[1, [2, [3]]])),
    "heads as large as can be": described(*_HF, lambda v: v.update(num_attention_heads=10**30)),
    "strides that are no numbers": described(*_HF, lambda v: v.update(conv_stride=[float("inf")] * 7)),
    "a fine-tuned model of a thousand million layers": finetuned({"layers": 10**9}, {}),
    "a classifier of a thousand million layers": finetuned({}, {"convolutions": 10**9}),
    "a description without end": _link("/dev/zero"),
    "settings without end": _link("/dev/zero", "model.safetensors"),
    "a link to itself": _link("config.json"),
    "a pipe": Case(("inspect", "teacher", "student"), _pipe),
    "shards in the folder above": _shards("../elsewhere.safetensors"),
    "shards by their whole path": _shards("{folder}/elsewhere.safetensors"),
    "shards with a control character": _shards("a\x1b[2J.safetensors"),
}


def recipe(data: bytes, *doors: str) -> Case:
    return raw("x.yaml", data, *(doors or ("recipe", "train")))


def _bomb(levels: int) -> bytes:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, levels)]
    return "\n".join(lines).encode()


def _chain(folder: Path, _: Path) -> Path:
    for n in range(60):
        (folder / f"r{n}.yaml").write_text(f"extends: r{n + 1}.yaml\n")
    (folder / "r60.yaml").write_text("extends: s4\n")
    return folder / "r0.yaml"


def _python(folder: Path, canary: Path) -> Path:
    (folder / "x.yaml").write_text(f"name: !!python/object/apply:os.system ['touch {canary}']\n")
    return folder / "x.yaml"


def _endless(folder: Path, _: Path) -> Path:
    (folder / "x.yaml").symlink_to("/dev/zero")
    return folder / "x.yaml"


_RECIPE_DOORS = ("recipe", "train")
RECIPES = {
    "aliases of aliases": recipe(_bomb(12)),
    "aliases of aliases, merged": recipe(
        b"a: &a {"
        + b", ".join(b"k%d: 1" % n for n in range(300))
        + b"}\nb: {<<: ["
        + b"*a, " * 3000
        + b"*a]}\n"
    ),
    "a list that contains itself": recipe(b"trainer: &a [*a]\n"),
    "a section that contains itself": recipe(b"trainer: &a {b: *a}\n"),
    "Python's objects": Case(_RECIPE_DOORS, _python),
    "a date": recipe(b"extends: s4\nseed: 2020-01-01\n"),
    "bytes": recipe(b"extends: s4\nname: !!binary aGVsbG8=\n"),
    "a set": recipe(b"extends: s4\nname: !!set {a, b}\n"),
    "a text of 10 MB": recipe(b"extends: s4\ndescription: " + b"x" * (10 << 20) + b"\n"),
    "a text of half characters": recipe(b'extends: s4\ndescription: "\\ud800"\n'),
    "a number of 5000 digits": recipe(b"extends: s4\nseed: " + b"9" * 5000 + b"\n"),
    "a number of 30 digits": recipe(b"extends: s4\nseed: " + b"9" * 30 + b"\n"),
    "100 000 lists in lists": recipe(b"trainer: " + b"[" * 100_000),
    "100 000 sections": recipe(b"trainer: {" + b"a: {}, " * 30_000 + b"}\n"),
    "one that extends itself": recipe(b"extends: x.yaml\n"),
    "sixty that extend one another": Case(_RECIPE_DOORS, _chain),
    "one that extends a list": recipe(b"extends: [s4]\n"),
    "one that extends what is no name": recipe(b"extends: " + b"a" * 5000 + b".yaml\n"),
    "one that never ends": Case(_RECIPE_DOORS, _endless),
    "no text": recipe(b"\xff\xfe\x00\x01"),
    "zeros": recipe(bytes(1000)),
    "an environment variable": recipe(b"extends: s4\nteacher: ${oc.env:HOME}\n"),
    "keys that are lists": recipe(b"extends: s4\n? [a, b]\n: 1\n"),
    "NaN for a rate": recipe(b"extends: s4\noptim: {lr: .nan}\n"),
    "two documents": recipe(b"seed: 1\n---\nseed: 2\n"),
}


def _nodes(n: int) -> bytes:
    """Empty nodes in an ONNX graph: two bytes each."""
    size = bytes([n * 2 >> 7 * k & 127 | 128 for k in range(3)] + [n * 2 >> 21])
    return b"\x3a" + size + b"\x0a\x00" * n


ONNX = {
    "an ONNX file of 30 million nodes": raw("x.onnx", _nodes(30_000_000), "inspect"),
    "an ONNX file of zeros": raw("x.onnx", bytes(1000), "inspect"),
    "an ONNX file whose text is longer than it": raw("x.onnx", b"\x3a\xff\xff\xff\xff\x07abc", "inspect"),
    "an ONNX file of groups in groups": raw("x.onnx", b"\x3b" * 100_000, "inspect"),
}


def _resumed(**changes: Any) -> Case:
    """What is replaced in the last checkpoint of a run."""

    def make(folder: Path, _: Path) -> Path:
        torch.save(changes, folder / "x.pt")
        return folder / "x.pt"

    return Case(("continue",), make)


RESUMED = {
    "a run of 10 ** 18 steps": _resumed(global_step=10**18, epoch=10**18),
    "loops that are lists": _resumed(loops=[[1]]),
    "callbacks that are numbers": _resumed(callbacks=[2]),
    "optimisers of another kind": _resumed(optimizer_states=[{"state": {0: 1}}]),
    "schedules of another kind": _resumed(lr_schedulers=["x"]),
    "weights that are none": _resumed(state_dict={"x": 1}),
    "a description that is a list": _resumed(distill=[1]),
}
CASES: dict[str, Case] = {
    f"{group}: {name}": case
    for group, cases in {
        "code": CODE,
        "pickle": PICKLES,
        "archive": ARCHIVES,
        "safetensors": SAFETENSORS,
        "description": DESCRIPTIONS,
        "recipe": RECIPES,
        "onnx": ONNX,
        "run": RESUMED,
    }.items()
    for name, case in cases.items()
}
