"""Hugging Face folders as people have them: shards, and what they say about normalisation."""

import json
import logging
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from distill.checkpoints import export, inspect, load_student, load_teacher, split_source, teacher_facts
from distill.errors import CheckpointError
from distill.hubert import HubertEncoder
from distill.student import Student

SMALL = {"dim": 16, "ffn_dim": 24, "heads": 2, "layers": 2, "position_groups": 2, "position_kernel": 4}
CONVS = ((8, 10, 5), *[(8, 3, 2)] * 4, *[(8, 2, 2)] * 2)
LARGE = {"conv_norm": "layer", "conv_bias": True, "pre_norm": True}


def encoder(**changes) -> HubertEncoder:
    torch.manual_seed(0)
    return HubertEncoder.from_preset("mini", conv_layers=CONVS, **(SMALL | changes)).eval()


def write_json(path: Path, values: dict) -> None:
    path.write_text(json.dumps(values))


def in_shards(folder: Path, suffix: str) -> Path:
    """An exported folder with its weights in three files and an index; returns the index."""
    whole = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    stem = "model" if suffix == "safetensors" else "pytorch_model"
    placed = {}
    for number in range(3):
        name = f"{stem}-0000{number + 1}-of-00003.{suffix}"
        part = dict(list(whole.items())[number::3])
        save_file(part, folder / name) if suffix == "safetensors" else torch.save(part, folder / name)
        placed |= dict.fromkeys(part, name)
    index = folder / f"{stem}.{suffix}.index.json"
    write_json(index, {"metadata": {}, "weight_map": placed})
    return index


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_shards(tmp_path, suffix):
    model = encoder()
    index = in_shards(export(model, "huggingface", tmp_path), suffix)
    for source in (tmp_path, index):
        read = load_teacher(source).state_dict()
        assert all(torch.equal(value, read[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_shards_of_the_hub(tmp_path, monkeypatch, suffix):
    """Only files that are asked for arrive."""
    in_shards(export(encoder(), "huggingface", tmp_path / "hub"), suffix)

    def snapshot_download(repo_id: str, allow_patterns: list[str]) -> str:
        for pattern in allow_patterns:
            for file in (tmp_path / "hub").glob(pattern):
                (tmp_path / "cache").mkdir(exist_ok=True)
                shutil.copy(file, tmp_path / "cache")
        return str(tmp_path / "cache")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    assert load_teacher("some-lab/hubert").config == encoder().config


def test_indices_that_are_refused(tmp_path):
    index = in_shards(export(encoder(), "huggingface", tmp_path / "x"), "safetensors")
    values = json.loads(index.read_text())["weight_map"]
    name, shard = next(iter(values.items()))
    other = next(other for other in values.values() if other != shard)
    shutil.copy(index.parent / shard, tmp_path / "outside.safetensors")
    cases = {
        "has no 'weight_map'": {},
        r"names '\.\./outside\.safetensors', expected \.safetensors files next to it": values
        | {name: "../outside.safetensors"},
        "names '/etc": values | {name: "/etc/x.safetensors"},
        r"names 'x\.bin'": values | {name: "x.bin"},
        "disagree about": values | {name: other},  # in a file that does not have it
        r"disagree about extra\.weight": values | {"extra.weight": shard},
        rf"disagree about {name}": {key: value for key, value in values.items() if key != name},
        "not a readable safetensors file": values | {name: "gone.safetensors"},
    }
    for message, weight_map in cases.items():
        write_json(index, {"weight_map": weight_map})
        with pytest.raises(CheckpointError, match=message) as error:
            load_teacher(index.parent)
        assert "\n" not in str(error.value), message


def as_on_the_hub(folder: Path, do_normalize: bool | None, **changes) -> Path:
    """A folder that transformers wrote: nothing of ours in it."""
    export(encoder(**changes), "huggingface", folder)
    described = json.loads((folder / "config.json").read_text())
    del described["distill"]
    write_json(folder / "config.json", described)
    write_json(folder / "preprocessor_config.json", {"do_normalize": do_normalize})
    return folder


def test_group_norm_is_not_normalised_unless_asked_for(tmp_path, caplog):
    folder = as_on_the_hub(tmp_path / "hub", True)
    caplog.set_level(logging.WARNING)
    assert not load_teacher(folder).config.normalize_input
    (said,) = caplog.messages
    assert "preprocessor_config.json says do_normalize: true, which is not followed" in said
    assert "?normalize=true" in said
    assert not inspect(folder).normalize_input
    assert ["normalises", "waveforms", "no"] in [line.split() for line in inspect(folder).lines()]
    caplog.clear()
    for chosen in (load_teacher(f"{folder}?normalize=true"), load_teacher(folder, normalize_input=True)):
        assert chosen.config.normalize_input
    assert inspect(f"{folder}?normalize=true").normalize_input
    assert not load_teacher(f"{folder}?normalize=false").config.normalize_input
    assert not caplog.messages  # who chose need not be told
    student = Student.from_teacher(load_teacher(folder), layers=1, targets=(1,))
    again = load_student(export(student, "s3prl", tmp_path / "s3prl"))
    assert not again.encoder.config.normalize_input


@pytest.mark.parametrize(("stated", "expected"), [(True, True), (False, False), (None, True)])
def test_layer_norm_models_follow_their_folder(tmp_path, stated, expected, caplog):
    folder = as_on_the_hub(tmp_path, stated, **LARGE)
    assert load_teacher(folder).config.normalize_input == expected
    assert not caplog.messages


@pytest.mark.parametrize(("changes", "normalize"), [({}, True), (LARGE, False), ({}, False), (LARGE, True)])
def test_normalisation_survives_transformers(tmp_path, changes, normalize):
    transformers = pytest.importorskip("transformers")
    model = encoder(normalize_input=normalize, **changes)
    export(model, "huggingface", tmp_path / "ours")
    transformers.HubertModel.from_pretrained(tmp_path / "ours").save_pretrained(tmp_path / "theirs")
    assert not (tmp_path / "theirs" / "preprocessor_config.json").exists()
    for folder in ("ours", "theirs"):
        assert load_teacher(tmp_path / folder).config == model.config


def test_exports_from_before_it_was_noted_down(tmp_path):
    """A student of a normalising group-norm teacher, exported by an earlier version of ours."""
    folder = export(encoder(normalize_input=True), "huggingface", tmp_path)
    described = json.loads((folder / "config.json").read_text())
    del described["distill"]["normalize_input"]
    write_json(folder / "config.json", described)
    assert load_teacher(folder).config.normalize_input


def test_the_choice_is_for_every_format(tmp_path, monkeypatch):
    for format in ("native", "fairseq", "torchaudio", "huggingface"):
        path = export(encoder(), format, tmp_path / format)
        assert load_teacher(f"{path}?normalize=true").config.normalize_input
        assert load_teacher(path, normalize_input=True).config.normalize_input
    assert load_teacher("random:mini?normalize=true").config.normalize_input
    assert teacher_facts("lab/hubert?normalize=true") == {
        "teacher": "lab/hubert?normalize=true",
        "teacher_hub_id": "lab/hubert",
    }
    with pytest.raises(CheckpointError, match=r"'normalise=1' after the '\?', expected normalize=true or"):
        load_teacher("lab/hubert?normalise=1")
    (tmp_path / "is it?normalize=true").mkdir()
    monkeypatch.chdir(tmp_path)
    assert split_source("is it?normalize=true") == ("is it?normalize=true", None)
