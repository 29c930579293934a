"""Hostile files: what each asks for, made small; `CASES` has them by name.

A file gets the path of a canary: whatever it says, that file must not exist afterwards.
"""

from __future__ import annotations

import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from tests.fuzz.checkpoints import files as small_model

Pickled = bytes


class Case(NamedTuple):
    """A hostile file and the doors that it knocks at."""

    doors: tuple[str, ...]
    """Some of those of `hostile_child`."""
    make: Callable[[Path, Path], Path]
    """Gets a folder and the canary; returns what is opened."""


# What pickles are made of. Protocol 4, without frames.


def text(value: str) -> Pickled:
    data = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(data)) + data


def number(value: int) -> Pickled:
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8b" + struct.pack("<i", len(data)) + data


def mapping(**items: Pickled) -> Pickled:
    return b"}(" + b"".join(text(key) + value for key, value in items.items()) + b"u"


def named(name: str) -> Pickled:
    module, _, attribute = name.rpartition(".")
    return f"c{module}\n{attribute}\n".encode()


def called(name: str, *args: Pickled) -> Pickled:
    return named(name) + b"(" + b"".join(args) + b"tR"


def tensor(key: str, n_stored: int, size: tuple[int, ...], stride: tuple[int, ...]) -> Pickled:
    place = (text("storage"), named("torch.FloatStorage"), text(key), text("cpu"), number(n_stored))
    storage = b"(" + b"".join(place) + b"tQ"
    numbers = [b"(" + b"".join(map(number, values)) + b"t" for values in (size, stride)]
    return called("torch._utils._rebuild_tensor_v2", storage, number(0), *numbers, b"\x89", b"}")


def doubled(levels: int, begin: Pickled = b"]", pair: Pickled = b"]") -> Pickled:
    """A list of two of the same list of two ...: small, and 2 ** levels if it is gone through."""
    if pair == b"t":  # tuples
        return begin + b"q\x00" + b"h\x00\x86q\x00" * levels
    return begin + b"q\x00" + b"0](h\x00h\x00eq\x00" * levels


def archive(path: Path, pickled: Pickled, storages: Mapping[str, bytes] | None = None) -> Path:
    """A torch file around a pickle."""
    with zipfile.ZipFile(path, "w") as out:
        out.writestr("archive/data.pkl", b"\x80\x04" + pickled + b".")
        out.writestr("archive/byteorder", b"little")
        for key, data in (storages or {}).items():
            out.writestr(f"archive/data/{key}", data)
    return path


def torch_case(pickled: Pickled, storages: Mapping[str, bytes] | None = None, *doors: str) -> Case:
    return Case(
        doors or ("inspect", "teacher"), lambda folder, _: archive(folder / "x.pt", pickled, storages)
    )


def fairseq(model: Pickled = b"}", cfg: Pickled = b"}") -> Pickled:
    return mapping(args=b"N", cfg=cfg, model=model)


def changed(change: Callable[[bytearray], None]) -> Case:
    """A good fairseq checkpoint of which bytes were changed."""

    def make(folder: Path, _: Path) -> Path:
        data = bytearray(small_model("fairseq")["model.pt"])
        change(data)
        (folder / "x.pt").write_bytes(data)
        return folder / "x.pt"

    return Case(("inspect", "teacher"), make)


def _flip(data: bytearray, marker: bytes, offset: int) -> None:
    data[data.index(marker) + offset] ^= 0x10


def _in_table(data: bytearray, field: int, value: int) -> None:
    """Change two bytes of every entry of the table of contents."""
    start = 0
    while (start := data.find(b"PK\1\2", start)) >= 0:
        data[start + field : start + field + 2] = struct.pack("<H", value)
        start += 4


def _many_entries(folder: Path, _: Path) -> Path:
    """A table of contents of 400 000 entries."""
    archive(folder / "x.pt", b"}")
    data = (folder / "x.pt").read_bytes()
    start = data.index(b"PK\1\2")
    entry = data[start : data.index(b"PK\1\2", start + 1)]
    table = entry * 400_000
    end = b"PK\5\6" + struct.pack("<4H2LH", 0, 0, 0xFFFF, 0xFFFF, len(table), start, 0)
    (folder / "x.pt").write_bytes(data[:start] + table + end)
    return folder / "x.pt"


def _compressed(folder: Path, _: Path) -> Path:
    """300 MB of a pickle in 300 kB."""
    with zipfile.ZipFile(folder / "x.pt", "w", zipfile.ZIP_DEFLATED) as out:
        out.writestr("archive/data.pkl", b"\x80\x04" + b"]" * (300 << 20) + b".")
    return folder / "x.pt"


def _twice(folder: Path, _: Path) -> Path:
    archive(folder / "x.pt", b"}")
    with zipfile.ZipFile(folder / "x.pt", "a") as out:
        out.writestr("archive/data.pkl ", b"\x80\x04}.")
    path = folder / "x.pt"
    path.write_bytes(path.read_bytes().replace(b"data.pkl ", b"data.pkl"[:8] + b"\x00"))
    return path


def _overlapping(folder: Path, _: Path) -> Path:
    """A thousand storages that are one and the same 4 MB of the file."""
    block = bytes(4 << 20)
    weights = {f"w{n}": tensor(str(n), 1 << 20, (1 << 20,), (1,)) for n in range(1000)}
    pickled = b"\x80\x04" + fairseq(mapping(**weights)) + b"."
    path = folder / "x.pt"
    with zipfile.ZipFile(path, "w") as out:
        out.writestr("archive/data.pkl", pickled)
        out.writestr("archive/data/0", block)
        first = out.infolist()[1]
        for n in range(1, 1000):
            info = zipfile.ZipInfo(f"archive/data/{n}")
            info.header_offset, info.CRC = first.header_offset, first.CRC
            info.file_size = info.compress_size = first.file_size
            out.filelist.append(info)
            out.NameToInfo[info.filename] = info
    return path


def _legacy(*pickles: Pickled) -> Case:
    """A file of torch before 1.6: magic, version, system, contents, keys; then storages."""
    head = [pickle.dumps(value, 2) for value in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})]
    return raw("x.pt", b"".join([*head, *pickles]), "inspect", "teacher")


def raw(name: str, data: bytes, *doors: str) -> Case:
    """A file of these bytes."""

    def make(folder: Path, _: Path) -> Path:
        (folder / name).write_bytes(data)
        return folder / name

    return Case(doors, make)


def code(make_pickle: Callable[[Pickled], Pickled]) -> Case:
    """A pickle that runs a command of a shell; gets the command as a pickled text."""

    def make(folder: Path, canary: Path) -> Path:
        command = text(f"touch {canary}")
        return archive(folder / "x.pt", fairseq(mapping(w=make_pickle(command))))

    return Case(("inspect", "teacher", "student", "export"), make)


CODE = {
    "GLOBAL and REDUCE": code(lambda command: called("os.system", command)),
    "posix": code(lambda command: called("posix.system", command)),
    "STACK_GLOBAL": code(lambda c: text("os") + text("system") + b"\x93(" + c + b"tR"),
    "INST": code(lambda c: b"(" + c + b"ios\nsystem\n"),
    "OBJ": code(lambda c: b"(" + named("os.system") + c + b"o"),
    "NEWOBJ": code(lambda c: named("subprocess.Popen") + b"(" + c + b"t\x81"),
    "BUILD of what a stand-in is": code(
        lambda c: named("fairseq.x") + b"}" + text("__setstate__") + named("os.system") + b"sb" + c + b"b"
    ),
    "a dotted name": code(lambda c: text("fairseq") + text("tasks.os.system") + b"\x93(" + c + b"tR"),
    "eval": code(lambda c: called("builtins.eval", c)),
    "EXT1": code(lambda c: b"\x82\x01(" + c + b"tR"),
    "PERSID": code(lambda c: b"Pos.system\n0" + c),
}
PICKLES = {
    "a list of lists of the same list": torch_case(fairseq(doubled(60), doubled(60))),
    "the same as weights of a run": torch_case(mapping(state_dict=doubled(60), distill=doubled(60))),
    "a key of tuples of the same tuple": torch_case(b"}" + doubled(60, b")", b"t") + b"K\x01s"),
    "a key of 200 000 tuples in one another": torch_case(b"})" + b"\x85" * 200_000 + b"K\x01s"),
    "the same in a set": torch_case(called("builtins.set", b"](" + b")" + b"\x85" * 200_000 + b"e")),
    "the same in pairs": torch_case(
        called("collections.OrderedDict", b"](](" + b")" + b"\x85" * 200_000 + b"K\x01ee")
    ),
    "lists in lists": torch_case(fairseq(b"]" * 100_000 + b"a" * 99_999)),
    "a list that contains itself": torch_case(fairseq(b"]q\x00h\x00a")),
    "a configuration that contains itself": torch_case(fairseq(cfg=b"}q\x00" + text("model") + b"h\x00s")),
    "the last place of the memo": torch_case(b"}r\xff\xff\xff\x7f"),
    "the text of a list of lists": torch_case(fairseq(called("builtins.str", doubled(60)))),
    "copies of a long list": torch_case(
        b"]q\x00(" + b"N" * 500_000 + b"e0(" + called("builtins.list", b"h\x00") * 2000 + b"t"
    ),
    "half a million classes": torch_case(
        b"(" + b"".join(b"cfairseq\n%d\n" % n for n in range(500_000)) + b"t"
    ),
    "keys of the same hash": torch_case(
        b"}(" + b"".join(number(n * (2**61 - 1)) + b"N" for n in range(1, 60_000)) + b"u"
    ),
    "a number of 8 million bits": torch_case(
        fairseq(cfg=mapping(model=mapping(encoder_attention_heads=number(1 << 8_000_000))))
    ),
    "a name with half a character": torch_case(fairseq(mapping(**{"\ud800": b"N"}), mapping(model=b"}"))),
    "a name that steers a terminal": torch_case(fairseq(mapping(**{"\x1b[2J\n": b"N"}), mapping(model=b"}"))),
    "lists where sections belong": torch_case(fairseq(b"]", b"](K\x01K\x02e")),
    "attributes of a state dict": torch_case(
        fairseq(called("collections.OrderedDict") + b"}" + text("items") + named("builtins.dict") + b"sb")
    ),
    "attributes of a tensor": torch_case(
        fairseq(mapping(w=tensor("0", 4, (4,), (1,)) + b"(NNNtb")), {"0": bytes(16)}
    ),
    "a tensor of stride 0": torch_case(
        fairseq(mapping(w=tensor("0", 4, (1 << 31,), (0,)))), {"0": bytes(16)}, "inspect", "teacher", "resume"
    ),
    "many tensors of stride 0": torch_case(
        fairseq(mapping(**{f"w{n}": tensor("0", 4, (1 << 24,), (0,)) for n in range(100)})), {"0": bytes(16)}
    ),
    "a tensor beyond its storage": torch_case(
        fairseq(mapping(w=tensor("0", 4, (1 << 31,), (1,)))), {"0": bytes(16)}
    ),
    "a storage of a terabyte": torch_case(
        fairseq(mapping(w=tensor("0", 1 << 40, (4,), (1,)))), {"0": bytes(16)}
    ),
    "a negative size": torch_case(fairseq(mapping(w=tensor("0", 4, (-4,), (1,)))), {"0": bytes(16)}),
    "a storage named by a tuple of tuples": torch_case(
        b"("
        + text("storage")
        + named("torch.FloatStorage")
        + doubled(60, b")", b"t")
        + text("cpu")
        + b"K\x00tQ"
    ),
    "convolutions times convolutions": torch_case(
        fairseq(
            mapping(w=b"N"),
            mapping(model=mapping(conv_feature_layers=text("[(1,1,1)]" + "*100" * 8), _name=text("hubert"))),
        )
    ),
    "convolutions in a million brackets": torch_case(
        fairseq(cfg=mapping(model=mapping(conv_feature_layers=text("-" * 1_000_000 + "1"))))
    ),
}
ARCHIVES = {
    "cut in half": changed(lambda data: data.__delitem__(slice(len(data) // 2, None))),
    "a bit of the pickle": changed(lambda data: _flip(data, b"encoder_attention_heads", 30)),
    "a bit of a weight": changed(lambda data: _flip(data, b"/data/0", 70)),
    "a bit of the table of contents": changed(lambda data: _flip(data, b"PK\1\2", 20)),
    "encrypted": changed(lambda data: _in_table(data, 8, 1)),
    "compressed in a way that nobody knows": changed(lambda data: _in_table(data, 10, 99)),
    "compressed with LZMA, it says": changed(lambda data: _in_table(data, 10, 14)),
    "bad zlib, it says": changed(lambda data: _in_table(data, 10, 8)),
    "a pickle of 300 MB in 300 kB": Case(("inspect", "teacher", "student"), _compressed),
    "two pickles": Case(("inspect", "teacher"), _twice),
    "400 000 records": Case(("inspect", "teacher"), _many_entries),
    "a thousand storages in one place": Case(("inspect", "teacher"), _overlapping),
    "an old file of a terabyte": _legacy(
        b"\x80\x02" + fairseq(mapping(w=tensor("0", 1 << 40, (4,), (1,))))[: -0 or None] + b".",
        b"\x80\x02]X\x01\x00\x00\x000a.",
    ),
    "an old file with a line that never ends": _legacy(b"\x80\x02c" + b"a" * (80 << 20)),
    "an old file whose text is 4 GB long, it says": _legacy(b"\x80\x02X\xff\xff\xff\xff..."),
    "empty": raw("x.pt", b"", "inspect", "teacher", "student"),
    "nothing but zeros": raw("x.pt", bytes(1 << 20), "inspect", "teacher", "student"),
}


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
