"""The restricted unpickler: what it reads, and that hostile files neither run nor change anything."""

import argparse
import io
import os
import pickle
import pickletools
import sys
import zipfile
from collections import Counter, OrderedDict, defaultdict
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path, PurePosixPath
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch._utils import _rebuild_tensor_v2

from distill.checkpoints import inspect, safe_pickle
from distill.errors import CheckpointError
from tests.distill.checkpoints.small_models import made, write_again
from tests.paths import GOLDEN


class Call:
    """Pickles as the call `function(*args)`."""

    def __init__(self, function, *args):
        self.reduction = (function, args)

    def __reduce__(self):
        return self.reduction


def zip_of(path: Path, pickled: bytes) -> Path:
    """A torch.save file around a hand-written pickle."""
    torch.save({}, path)
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in records.items():
            archive.writestr(name, pickled if name.endswith("data.pkl") else content)
    return path


def as_text(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_reads_what_torch_save_wrote(tmp_path, zipped):
    torch.manual_seed(0)
    shared = torch.randn(4, 6)
    contents = {
        "float": shared,
        "view": shared[1:3, ::2],
        "half": torch.randn(3).half(),
        "long": torch.arange(3),
        "parameter": torch.nn.Parameter(torch.randn(2)),
        "ordered": OrderedDict(a=1),
        "counts": defaultdict(list, b=[2.5]),
        "set": {1, 2},
        "dtype": torch.float16,
        "none": None,
        "text": "naïve",
    }
    path = tmp_path / "plain.pt"
    torch.save(contents, path, _use_new_zipfile_serialization=zipped)
    loaded = safe_pickle.load(path)
    for key, value in contents.items():
        if isinstance(value, torch.Tensor):
            assert loaded[key].dtype == value.dtype
            torch.testing.assert_close(loaded[key], value.detach(), rtol=0, atol=0)
        else:
            assert loaded[key] == value


def test_namespaces_paths_and_numpy_become_inert(tmp_path):
    path = tmp_path / "objects.pt"
    namespace = argparse.Namespace(normalize=True, inner=argparse.Namespace(heads=4))
    torch.save(
        {"args": namespace, "path": PurePosixPath("/a/b"), "array": np.arange(3), "scalar": np.float32(1)},
        path,
    )
    loaded = safe_pickle.load(path)
    assert all(isinstance(value, safe_pickle.StandIn) for value in loaded.values())
    assert safe_pickle.plain(loaded["args"]) == {"normalize": True, "inner": {"heads": 4}}


def test_omegaconf_becomes_plain():
    from omegaconf import OmegaConf

    values = {"model": {"heads": 4, "name": "x", "flags": [True, None, {"deep": 1.5}]}}
    stream = io.BytesIO(pickle.dumps(OmegaConf.create(values), protocol=2))
    before = OmegaConf.__module__
    loaded = safe_pickle._Unpickler(stream, lambda saved: saved).load()
    assert isinstance(loaded, safe_pickle.StandIn) and loaded.name.startswith("omegaconf.")
    assert safe_pickle.plain(loaded) == values
    assert OmegaConf.__module__ == before


def test_golden_needs_no_foreign_package(monkeypatch):
    for package in ("omegaconf", "fairseq"):
        monkeypatch.setitem(sys.modules, package, None)  # importing it would raise
    contents = safe_pickle.load(GOLDEN / "hubert_base_fairseq.pt")
    assert safe_pickle.plain(contents["cfg"])["model"]["encoder_attention_heads"] == 4
    assert contents["task_state"]["dictionaries"][0].name == "fairseq.data.dictionary.Dictionary"


HOSTILE = {
    "os.system": Call(os.system, "echo run > {mark}"),
    "eval": Call(eval, "open({mark!r}, 'w')"),
    "exec": Call(exec, "open({mark!r}, 'w')"),
    "getattr": Call(getattr, os, "system"),
    "import": Call(__import__, "os"),
    "open": Call(open, "{mark}", "w"),
    "print": Call(print, "hello"),
    "torch.load": Call(torch.load, "{mark}"),
    "torch.hub": Call(torch.hub.load, "x", "y"),
    "jit": Call(torch.jit.load, "{mark}"),
    "partial": Call(__import__("functools").partial, os.system, "x"),
    "operator": Call(__import__("operator").attrgetter("system"), os),
    "tensor class": Call(torch.Tensor, 3),
    "numpy.load outside": Call(torch.from_numpy, np.zeros(2)),
}


def hostile(name: str, mark: Path):
    """The object, its strings naming the file that it would make."""
    function, arguments = HOSTILE[name].reduction
    filled = [value.format(mark=str(mark)) if isinstance(value, str) else value for value in arguments]
    if any(value is os for value in filled):  # a module cannot be pickled: bring it in by importing it
        filled = [Call(__import__, "os") if value is os else value for value in filled]
    return Call(function, *filled)


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_hostile_calls_are_refused(tmp_path, name, zipped):
    mark, path = tmp_path / "mark", tmp_path / "bad.pt"
    payload = hostile(name, mark)
    contents = {"model": {"w": torch.zeros(1)}, "cfg": argparse.Namespace(model=payload), "args": None}
    torch.save(contents, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match="no checkpoint needs") as error:
        safe_pickle.load(path)
    assert not mark.exists()
    assert "\n" not in str(error.value) and str(path) in str(error.value)


def test_the_refused_name_is_in_the_message(tmp_path):
    torch.save(Call(os.system, "true"), tmp_path / "bad.pt")
    with pytest.raises(
        CheckpointError, match=rf"bad\.pt asks for {os.name}\.system, which no checkpoint needs"
    ):
        safe_pickle.load(tmp_path / "bad.pt")


def test_names_cannot_steer_the_terminal(tmp_path):
    evil = b"\x80\x04\x8c\x07os\x1b[2J\n\x8c\x06system\x93."
    assert [op.name for op, _, _ in pickletools.genops(evil)][-2] == "STACK_GLOBAL"
    with pytest.raises(CheckpointError) as error:
        safe_pickle.load(zip_of(tmp_path / "bad.pt", evil))
    assert "\x1b" not in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "name",
    [
        "fairseq_evil.run",
        "omegaconfx.y",
        "xfairseq.y",
        "torch.nn.Linear",
        "torch.Tensor",
        "builtins.type",
        "builtins.object",
        "argparse.ArgumentParser",
        "typing.Callable",
        "collections.namedtuple",
    ],
)
def test_names_next_to_the_allowed_ones_are_refused(tmp_path, name):
    module, _, attribute = name.rpartition(".")
    path = zip_of(tmp_path / "bad.pt", as_text(module, attribute) + b".")
    with pytest.raises(CheckpointError, match=f"asks for {name},"):
        safe_pickle.load(path)


def test_a_dotted_name_reaches_nothing(tmp_path):
    """Protocol 4 lets a name walk attributes: OrderedDict.__init__.__globals__ and friends."""
    pickled = b"\x80\x04\x8c\x0bcollections\x8c\x14OrderedDict.__init__\x93."
    with pytest.raises(CheckpointError, match="asks for collections.OrderedDict.__init__"):
        safe_pickle.load(zip_of(tmp_path / "bad.pt", pickled))
    inert = b"\x80\x04\x8c\x07fairseq\x8c\x09os.system\x93(\x8c\x04true" + b"tR."
    loaded = safe_pickle.load(zip_of(tmp_path / "inert.pt", inert))
    assert isinstance(loaded, safe_pickle.StandIn) and loaded.args == ("true",)


@pytest.mark.parametrize(
    "name",
    [
        "torch._utils._rebuild_tensor_v2",
        "fairseq.tasks.Task",
        "collections.OrderedDict",
        "builtins.dict",
        "torch.Size",
        "torch.float16",
    ],
)
@pytest.mark.parametrize("slots", [True, False])
def test_build_cannot_change_what_files_share(tmp_path, name, slots):
    """The opcode BUILD sets attributes: of a function's defaults, say, for every later file."""
    module, _, attribute = name.rpartition(".")
    state = b"(S'evil'\nI1\nd"
    pickled = as_text(module, attribute) + (b"(N" + state + b"t" if slots else state) + b"b."
    with pytest.raises(CheckpointError):
        safe_pickle.load(zip_of(tmp_path / "bad.pt", pickled))
    for shared in (OrderedDict, dict, torch.Size, torch.float16, *safe_pickle._ALLOWED.values()):
        assert not hasattr(shared, "evil")
    assert not hasattr(safe_pickle.StandIn, "evil")


def test_stand_ins_of_one_file_do_not_reach_the_next(tmp_path):
    path = zip_of(tmp_path / "x.pt", as_text("fairseq.tasks", "Task") + b")\x81.")
    assert type(safe_pickle.load(path)) is not type(safe_pickle.load(path))


def test_hooks_in_a_tensor_are_dropped(tmp_path):
    """A tensor's pickle may carry backward hooks, called much later."""
    storage, hooks = torch.ones(2)._typed_storage(), OrderedDict({0: dict})
    torch.save(Call(_rebuild_tensor_v2, storage, 0, (2,), (1,), True, hooks), tmp_path / "hooked.pt")
    loaded = safe_pickle.load(tmp_path / "hooked.pt")
    assert loaded.tolist() == [1, 1]
    assert not loaded.requires_grad and not loaded._backward_hooks


def test_a_tensor_cannot_look_outside_its_storage(tmp_path):
    path = tmp_path / "big.pt"
    torch.save({"w": torch.zeros(4)}, path)
    with zipfile.ZipFile(path) as archive:
        pickled = next(archive.read(name) for name in archive.namelist() if name.endswith("data.pkl"))
        records = {name: archive.read(name) for name in archive.namelist()}
    four = b"K\x04\x85"  # the size (4,)
    assert pickled.count(four) == 1
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in records.items():
            bigger = content.replace(four, b"K\xff\x85") if name.endswith("data.pkl") else content
            archive.writestr(name, bigger)
    with pytest.raises(CheckpointError):
        safe_pickle.load(path)


def test_containers_that_contain_themselves(tmp_path):
    loop: list = []
    loop.append(loop)
    torch.save(loop, tmp_path / "loop.pt")
    with pytest.raises(CheckpointError, match="contains itself"):
        safe_pickle.plain(safe_pickle.load(tmp_path / "loop.pt"))


def test_damaged_files(tmp_path):
    whole = (GOLDEN / "hubert_base_fairseq.pt").read_bytes()
    legacy = tmp_path / "legacy.pt"
    torch.save({"w": torch.zeros(1000)}, legacy, _use_new_zipfile_serialization=False)
    damaged = {
        "half.pt": whole[: len(whole) // 2],
        "empty.pt": b"",
        "text.pt": b"hello world\n",
        "legacy_half.pt": legacy.read_bytes()[:-2000],
        "magic.pt": b"PK\x03\x04",
        "pickle.pt": b"\x80\x02",
        "not_torch.pt": pickle.dumps({"a": 1}),
    }
    for name, content in damaged.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CheckpointError) as error:
            safe_pickle.load(tmp_path / name)
        assert name in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(CheckpointError, match="cannot be read"):
        safe_pickle.load(tmp_path / "missing.pt")


def test_torchscript_is_refused(tmp_path):
    torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), tmp_path / "script.pt")
    with pytest.raises(CheckpointError, match="TorchScript archive"):
        safe_pickle.load(tmp_path / "script.pt")


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("\x1b[33;20mno such record\x1b[0m in the file\nmore", "no such record in the file"),
        ("two\twords\x07 \x1b]0;title\x07here", "two words  here"),
        (
            "This file contains pickled (object) data. If you trust the file you can load it unsafely "
            "using the `allow_pickle=` keyword argument.",
            "This file contains pickled (object) data.",
        ),
        ("Weights only load failed. In PyTorch 2.6, re-run with `weights_only=False`", "RuntimeError"),
        ("certificate verify failed; pass verify=False to go on", "certificate verify failed;"),
        ("", "RuntimeError"),
    ],
)
def test_what_is_repeated_of_other_libraries_errors(said, kept):
    """Neither advice to switch a protection off, nor anything that steers a terminal."""
    assert safe_pickle.first_line(RuntimeError(said)) == kept


def test_torchs_own_advice_is_not_repeated(tmp_path):
    torch.save({"w": Call(os.system, "true")}, tmp_path / "x.pt")
    with pytest.raises(pickle.UnpicklingError) as error:
        torch.load(tmp_path / "x.pt", weights_only=True)
    assert "trust" in str(error.value)
    assert safe_pickle.first_line(error.value) == "UnpicklingError"


def test_harmless_values_of_training_programs(tmp_path):
    path = made("fairseq", tmp_path)
    contents = safe_pickle.load(path)
    contents.pop("task_state")
    contents["extra_state"] |= {
        "counts": Counter("hubert"),
        "when": datetime(2021, 6, 14, tzinfo=UTC),
        "loss": Decimal("1.5"),
        "space": SimpleNamespace(a=1),
    }
    write_again(contents, path)
    assert inspect(path).format == "fairseq"
    extra = safe_pickle.load(path)["extra_state"]
    assert all(isinstance(extra[name], safe_pickle.StandIn) for name in ("counts", "when", "loss", "space"))
    assert safe_pickle.plain(extra["counts"]) == dict(Counter("hubert"))
