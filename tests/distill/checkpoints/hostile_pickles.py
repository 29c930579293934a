"""Hostile pickles, and the torch files around them: what each asks for, made small."""

from __future__ import annotations

import pickle
import struct
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

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
    "a WavLM of nothing": torch_case(fairseq(mapping(grep_a=b"N", relative_attention_bias=b"N"))),
    "a WavLM with a list for a configuration": torch_case(fairseq(mapping(grep_a=b"N"), b"]")),
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
