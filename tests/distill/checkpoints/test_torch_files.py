"""The containers of torch.save: what is one, what is two, and that TorchScript never runs."""

import json
import shutil
import struct
import warnings
import zipfile
from pathlib import Path

import pytest
import torch

from distill.adaptation.heads import read_head
from distill.checkpoints import export, inspect, load_student, load_teacher, safe_pickle
from distill.checkpoints.loading import load_any
from distill.errors import CheckpointError
from distill.hubert import HubertEncoder
from distill.student import Student
from tests.distill.checkpoints.polyglots import polyglot, script
from tests.paths import ROOT

SMALL = {"layers": 1, "dim": 16, "ffn_dim": 16, "heads": 2, "position_groups": 2, "position_kernel": 4}
CONVOLUTIONS = ((8, 10, 5), *[(8, 3, 2)] * 4, *[(8, 2, 2)] * 2)  # a frame every 320 samples, as s3prl has it


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    """Good checkpoints of every format that is a torch file."""
    folder = tmp_path_factory.mktemp("good")
    teacher = HubertEncoder.from_preset("mini", conv_layers=CONVOLUTIONS, **SMALL)
    student = Student.from_teacher(teacher, layers=1, targets=(1,))
    described = {"kind": "student", "architecture": student.to_dict()}
    weights = {f"student.{name}": value for name, value in student.state_dict().items()}
    lightning = {"pytorch-lightning_version": "2.6", "state_dict": weights, "distill": described}
    torch.save(lightning, folder / "last.ckpt")
    hugging_face = export(teacher, "huggingface", folder / "hf")
    torch.save({"w": torch.zeros(1)}, hugging_face / "pytorch_model.bin")
    (hugging_face / "model.safetensors").unlink()
    return {
        "fairseq": export(teacher, "fairseq", folder / "hubert.pt"),
        "s3prl": export(student, "s3prl", folder / "distiller.ckpt"),
        "lightning": folder / "last.ckpt",
        "huggingface": hugging_face / "pytorch_model.bin",
    }


def hidden(original: Path, folder: Path, mark: Path) -> Path:
    """A polyglot made of a copy of a good checkpoint."""
    shutil.copytree(original.parent, folder, dirs_exist_ok=True)
    return polyglot(folder / original.name, mark)


def test_the_polyglot_is_one(files, tmp_path):
    """To Python it is the good file; torch runs it, unless told not to, as Lightning is by us on resuming."""
    mark = tmp_path / "mark"
    path = hidden(files["fairseq"], tmp_path / "x", mark)
    with zipfile.ZipFile(path) as made, zipfile.ZipFile(files["fairseq"]) as good:
        assert made.testzip() is None
        assert {name: made.read(name) for name in good.namelist()} == {
            n: good.read(n) for n in good.namelist()
        }
    with pytest.raises(RuntimeError, match="TorchScript"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.load(path, weights_only=True)
    assert not mark.exists()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.load(path, weights_only=False)
    assert mark.exists()


@pytest.mark.parametrize("read", [inspect, load_teacher, load_student, load_any, read_head])
@pytest.mark.parametrize("format", ["fairseq", "s3prl", "lightning", "huggingface"])
def test_polyglots_do_not_run(files, tmp_path, format, read):
    mark = tmp_path / "mark"
    path = hidden(files[format], tmp_path / "x", mark)
    with pytest.raises(CheckpointError, match="several in one file") as error:
        read(path)
    assert not mark.exists() and "\n" not in str(error.value) and str(path) in str(error.value)


@pytest.mark.parametrize("read", [inspect, load_teacher, load_student, load_any, read_head])
@pytest.mark.parametrize("name", ["model.pt", "last.ckpt", "pytorch_model.bin"])
def test_torchscript_is_refused(tmp_path, read, name):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "hubert"}))
    path = script(tmp_path / name, tmp_path / "mark")
    with pytest.raises(CheckpointError, match="TorchScript archive"):
        read(path)
    assert not (tmp_path / "mark").exists()


def rewritten(path: Path, change) -> Path:
    """A file of torch.save with other records: `change` gets the dict of them."""
    torch.save({"w": torch.arange(6.0)}, path)
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    compression = change(records) or zipfile.ZIP_STORED
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in records.items():
            archive.writestr(name, content)
    return path


def test_archives_that_torch_does_not_write(tmp_path):
    def shorter(records: dict) -> None:
        records["x/data/0"] = records["x/data/0"][:-4]

    def two(records: dict) -> None:
        records["y/data.pkl"] = records["x/data.pkl"]

    changes = {
        "compressed inside": lambda records: zipfile.ZIP_DEFLATED,
        "another byte order": lambda records: records.update({"x/byteorder": b"big"}),
        "data/0 is shorter than": shorter,
        "several in one file": two,
        "damaged, or a download": lambda records: records.pop("x/data/0") and None,
    }
    for message, change in changes.items():
        with pytest.raises(CheckpointError, match=message):
            safe_pickle.load(rewritten(tmp_path / "x.pt", change))
    path = rewritten(tmp_path / "x.pt", lambda records: None)
    assert safe_pickle.load(path)["w"].tolist() == [0, 1, 2, 3, 4, 5]
    path.write_bytes(b"PK\3\4 in front" + path.read_bytes())
    with pytest.raises(CheckpointError, match="several in one file"):
        safe_pickle.load(path)


def test_every_type_of_number(tmp_path):
    types = ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")
    contents = {name: torch.tensor([[0, 1, 1]]).to(getattr(torch, name)) for name in (*types, "complex64")}
    contents["none"] = torch.zeros(0, 3)
    for zipped in (True, False):
        torch.save(contents, tmp_path / "x.pt", _use_new_zipfile_serialization=zipped)
        loaded = safe_pickle.load(tmp_path / "x.pt")
        for name, value in contents.items():
            assert loaded[name].dtype == value.dtype and torch.equal(loaded[name], value), name


def test_loaded_tensors_can_be_changed_and_the_file_stays(tmp_path):
    path = tmp_path / "x.pt"
    torch.save({"w": torch.zeros(3)}, path)
    before = path.read_bytes()
    loaded = safe_pickle.load(path)["w"]
    loaded += 1
    assert loaded.tolist() == [1, 1, 1] and path.read_bytes() == before


def test_legacy_files_that_lie_about_their_sizes(tmp_path):
    path = tmp_path / "x.pt"
    torch.save({"w": torch.zeros(1000)}, path, _use_new_zipfile_serialization=False)
    whole = path.read_bytes()
    for number in (2**31 - 1, 500):  # larger than the file; fewer than there are
        path.write_bytes(whole.replace(b"M\xe8\x03", b"J" + struct.pack("<i", number)))
        with pytest.raises(CheckpointError, match="larger than the file|cut short|out of bounds"):
            safe_pickle.load(path)


def test_nothing_of_ours_reads_torch_files_by_other_means():
    root = ROOT
    packages = ("distill", "upstream", "downstream", "analysis", "data_prep", "bench")
    for path in (file for package in packages for file in (root / package).rglob("*.py")):
        code = path.read_text(encoding="utf-8")
        found = [call for call in ("torch.load(", "jit.load(", "allow_pickle=True") if f" {call}" in code]
        assert not found, f"{path} calls {found}: `safe_pickle.load` reads files of torch.save"
