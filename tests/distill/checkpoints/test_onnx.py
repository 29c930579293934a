"""The ONNX export in onnxruntime, against the model it was made of."""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from distill.checkpoints import export, inspect, load_student
from distill.checkpoints.onnx import _TwoOutputs, describe, int8_path
from distill.errors import CheckpointError
from distill.hubert import HubertEncoder
from distill.spiral.encoder import SpiralEncoder
from distill.student import Student
from tests.paths import ROOT

pytestmark = pytest.mark.slow

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
runtime = pytest.importorskip("onnxruntime")

TOLERANCE = 1e-4  # measured: 5e-6; 1.2e-5 at the base size


@pytest.fixture(scope="module")
def student() -> Student:
    torch.manual_seed(0)
    teacher = HubertEncoder.from_preset("mini", layers=6)
    return Student.from_teacher(teacher, layers=2, targets=(2, 4, 6))


@pytest.fixture(scope="module")
def exported(student, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("onnx")
    assert student.training
    path = export(
        student, "onnx", folder, provenance={"teacher": "/home/someone/runs/teacher", "recipe": "s4"}
    )
    assert path == folder / "student.onnx" and student.training
    student.eval()
    return path


def session(path: Path):
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    return runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def run(path: Path, waves: torch.Tensor, lengths: torch.Tensor) -> list[np.ndarray]:
    return session(path).run(None, {"waveforms": waves.numpy(), "lengths": lengths.numpy()})


@torch.no_grad()
def test_any_length_and_batch_size(student, exported):
    model = session(exported)
    generator = torch.Generator().manual_seed(1)
    for lengths in ([400], [16_000], [719, 720], [31_999, 400, 20_001], [8000] * 5):
        waves = torch.randn(len(lengths), max(lengths), generator=generator) * 0.3
        valid = torch.tensor(lengths)
        for row, length in enumerate(lengths):
            waves[row, length:] = 100.0  # padding must not count, whatever it is
        expected = student(waves, valid)
        features, frames = model.run(None, {"waveforms": waves.numpy(), "lengths": valid.numpy()})
        assert frames.tolist() == expected.lengths.tolist()
        for row, count in enumerate(frames):
            difference = torch.from_numpy(features[row, :count]) - expected.z[row, :count]
            assert difference.abs().max() < TOLERANCE


@torch.no_grad()
def test_the_last_state_of_a_large_model_is_behind_its_final_norm():
    """In what is traced: the export itself takes seconds."""
    torch.manual_seed(0)
    large = HubertEncoder.from_preset("mini", layers=1, pre_norm=True).eval()
    torch.nn.init.uniform_(large.norm.weight, 0.5, 1.5)
    waves = torch.randn(1, 4000, generator=torch.Generator().manual_seed(2))
    features, _ = _TwoOutputs(large)(waves, torch.tensor([4000]))
    torch.testing.assert_close(features, large.norm(large(waves).hidden_states[-1]), atol=1e-5, rtol=0)


def test_lengths_that_cannot_be_are_clamped(exported):
    """To one frame and to all there is: `frames` says so."""
    waves = torch.randn(3, 4000, generator=torch.Generator().manual_seed(2))
    features, frames = run(exported, waves, torch.tensor([100, 5000, 4000]))
    expected, counted = run(exported, waves, torch.tensor([400, 4000, 4000]))
    assert frames.tolist() == counted.tolist() == [1, 12, 12]
    np.testing.assert_array_equal(features, expected)


def test_a_padded_utterance_as_if_it_were_alone(exported):
    waves = torch.randn(2, 16_000, generator=torch.Generator().manual_seed(2))
    batch, frames = run(exported, waves, torch.tensor([16_000, 9000]))
    alone, _ = run(exported, waves[1:, :9000], torch.tensor([9000]))
    np.testing.assert_allclose(batch[1, : frames[1]], alone[0], atol=TOLERANCE)


@torch.no_grad()
def test_int8(student, exported):
    waves = torch.randn(1, 16_000, generator=torch.Generator().manual_seed(3)) * 0.1
    features, _ = run(int8_path(exported), waves, torch.tensor([16_000]))
    expected = student(waves).z
    error = torch.linalg.vector_norm(torch.from_numpy(features) - expected)
    relative = (error / torch.linalg.vector_norm(expected)).item()
    # Measured: 0.0079, 0.013 where sums of 16 bits overflow; zero would mean that nothing was quantised.
    assert 1e-4 < relative < 0.011
    nodes = onnx.load(str(int8_path(exported))).graph.node
    products = [node for node in nodes if node.op_type == "MatMulInteger"]
    # The projection, six linear layers in each of two layers, the 8 groups of the positional convolution.
    assert len(products) == 13 + 8
    assert sum(node.op_type == "Conv" for node in nodes) == 7
    assert int8_path(exported).stat().st_size < 0.6 * exported.stat().st_size


def test_the_positional_convolution_of_a_file_of_old(student, exported, tmp_path, monkeypatch):
    """It was in float32 in int8 files, too."""
    monkeypatch.setattr("distill.checkpoints.onnx.quantize_grouped", lambda model: None)
    old = int8_path(export(student, "onnx", tmp_path))
    student.eval()
    names = {tensor.name for tensor in onnx.load(str(old)).graph.initializer}
    assert "encoder.position.conv.parametrizations.weight.original1" in names
    assert describe(old)[0] == describe(int8_path(exported))[0] == student.encoder.config


@torch.no_grad()
def test_int8_of_any_length_and_batch_size(student, exported):
    model = session(int8_path(exported))
    for lengths in ([400], [719, 720], [31_999, 400, 20_001]):
        waves, valid = loud_padding(lengths)
        expected = student(waves, valid)
        features, frames = model.run(None, {"waveforms": waves.numpy(), "lengths": valid.numpy()})
        assert frames.tolist() == expected.lengths.tolist() and features.shape == expected.z.shape
        for row, count in enumerate(frames):
            wanted = expected.z[row, :count]
            error = torch.linalg.vector_norm(torch.from_numpy(features[row, :count]) - wanted)
            assert error < 0.1 * torch.linalg.vector_norm(wanted)


@torch.no_grad()
@pytest.mark.parametrize(("layers", "preset"), [(2, "mini"), (3, "wavlm_mini")])
def test_a_map_used_twice_is_made_once(tmp_path, layers, preset):
    torch.manual_seed(0)
    teacher = HubertEncoder.from_preset(preset, layers=3)
    shake_relative(teacher)
    student = Student.from_teacher(teacher, layers=layers, targets=(3,), reuse_attention=True).eval()
    path = export(student, "onnx", tmp_path)
    assert sum(node.op_type == "Softmax" for node in onnx.load(str(path)).graph.node) == (layers + 1) // 2
    assert inspect(tmp_path).layers == layers
    waves, lengths = torch.randn(2, 9000) * 0.1, torch.tensor([9000, 6000])
    features, _ = run(path, waves, lengths)
    expected = student(waves, lengths)
    for row, count in enumerate(expected.lengths):
        difference = torch.from_numpy(features[row, :count]) - expected.z[row, :count]
        assert difference.abs().max() < TOLERANCE


def shake_relative(encoder: HubertEncoder) -> None:
    """A bias that matters."""
    for name, parameter in encoder.named_parameters():
        if "relative" in name or "gate" in name:
            torch.nn.init.normal_(parameter)


@torch.no_grad()
def test_a_student_of_wavlm(tmp_path):
    torch.manual_seed(0)
    teacher = HubertEncoder.from_preset("wavlm_mini", layers=2)
    shake_relative(teacher)
    student = Student.from_teacher(teacher, layers=2, targets=(2,)).eval()
    path = export(student, "onnx", tmp_path)
    assert inspect(tmp_path).layers == 2 and inspect(tmp_path).relative_buckets == 32
    for lengths in ([400], [32_000], [40_000, 400, 20_001]):
        waves, valid = torch.randn(len(lengths), max(lengths)) * 0.1, torch.tensor(lengths)
        features, _ = run(path, waves, valid)
        rough, _ = run(int8_path(path), waves, valid)
        expected = student(waves, valid)
        for row, count in enumerate(expected.lengths):
            wanted = expected.z[row, :count]
            assert (torch.from_numpy(features[row, :count]) - wanted).abs().max() < TOLERANCE
            error = torch.linalg.vector_norm(torch.from_numpy(rough[row, :count]) - wanted)
            assert error / torch.linalg.vector_norm(wanted) < 0.15


@pytest.mark.parametrize("preset", ["mini", "wavlm_mini"])
@torch.no_grad()
def test_a_mel_front_is_in_the_file(tmp_path, preset):
    torch.manual_seed(0)
    teacher = HubertEncoder.from_preset(preset, layers=2)
    student = Student.from_teacher(teacher, layers=2, targets=(2,), front="mel").eval()
    path = export(student, "onnx", tmp_path)
    for lengths in ([400], [16_000], [719, 720], [31_999, 400, 24_001]):
        waves = torch.randn(len(lengths), max(lengths)) * 0.3
        valid = torch.tensor(lengths)
        for row, length in enumerate(lengths):
            waves[row, length:] = 100.0
        expected = student(waves, valid)
        features, frames = run(path, waves, valid)
        assert frames.tolist() == expected.lengths.tolist() and features.shape == expected.z.shape
        for row, count in enumerate(frames):
            difference = torch.from_numpy(features[row, :count]) - expected.z[row, :count]
            assert difference.abs().max() < TOLERANCE  # measured: 2.4e-5
    quantised = onnx.load(str(int8_path(path))).graph
    assert any(tensor.name.startswith("encoder.logmel.") for tensor in quantised.initializer), "the filters"
    for file in (path, int8_path(path)):
        assert describe(file)[0] == student.encoder.config
        refuses(file, {"front": "cnn", "mel_bands": 64, "conv_layers": [[16, 3, 1], [32, 3, 2]]})


def refuses(file: Path, lies: dict) -> None:
    """Each field of the description that the graph contradicts is named; the file is left as it was."""
    good = file.read_bytes()
    for key, lie in lies.items():
        model = onnx.load_from_string(good)
        entry = next(entry for entry in model.metadata_props if entry.key == "distill")
        described = json.loads(entry.value)
        described["architecture"][key] = lie
        entry.value = json.dumps(described)
        file.write_bytes(model.SerializeToString())
        with pytest.raises(CheckpointError, match=rf"{key} is .* in its metadata but .* by the weights"):
            describe(file)
    file.write_bytes(good)


def test_inspect(student, exported):
    for path, precision in ((exported, "float32"), (int8_path(exported), "int8")):
        info = inspect(path)
        assert (info.format, info.kind, info.layers, info.dim) == ("onnx", "student", 2, 128)
        assert info.targets == (2, 4, 6)
        assert info.parameters_encoder == sum(p.numel() for p in student.encoder.parameters())
        assert info.provenance == {"precision": precision, "teacher": "teacher", "recipe": "s4"}


def test_inspect_a_folder(exported, tmp_path, monkeypatch):
    """As `distill export --to onnx` leaves it; with other models beside them one has to say which."""
    folder = inspect(exported.parent)
    assert folder.path == str(exported.parent)
    assert folder.provenance["precision"] == "float32, int8"
    alone = inspect(exported)
    assert replace(folder, path="", provenance={}) == replace(alone, path="", provenance={})
    with pytest.raises(CheckpointError, match="is an ONNX model, which runs in onnxruntime"):
        load_student(exported.parent)
    shutil.copy(exported, tmp_path / "student.onnx")
    assert inspect(tmp_path).provenance["precision"] == "float32"
    (tmp_path / "distiller.ckpt").touch()
    with pytest.raises(CheckpointError, match=r"is a folder with distiller\.ckpt, student\.onnx, expected"):
        inspect(tmp_path)
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(CheckpointError, match=r"ONNX needs onnx: .*robust-distilhubert\[onnx\]") as error:
        inspect(exported.parent)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("package", ["onnxscript", "onnxruntime"])
def test_inspect_needs_the_package_onnx_alone(exported, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    assert inspect(exported.parent).format == "onnx"


def test_the_file_says_nothing_about_this_machine(exported):
    contents = exported.read_bytes()
    assert b"site-packages" not in contents and b"distill/hubert.py" not in contents
    assert str(ROOT).encode() not in contents
    names = {output.name: output for output in session(exported).get_outputs()}
    assert names["last_hidden_state"].shape == ["batch", "frames", 128]


def test_other_onnx_files(tmp_path, exported):
    with pytest.raises(CheckpointError, match="is an ONNX model, which runs in onnxruntime"):
        load_student(exported)
    (tmp_path / "broken.onnx").write_bytes(b"\xff" * 100)
    with pytest.raises(CheckpointError, match="is not a readable ONNX file"):
        inspect(tmp_path / "broken.onnx")
    model = onnx.load(str(exported))
    del model.metadata_props[:]
    onnx.save(model, str(tmp_path / "theirs.onnx"))
    with pytest.raises(CheckpointError, match="is an ONNX model of another program"):
        inspect(tmp_path / "theirs.onnx")
    model.metadata_props.add(key="distill", value=json.dumps({"architecture": {"dim": "wide"}}))
    onnx.save(model, str(tmp_path / "wrong.onnx"))
    with pytest.raises(CheckpointError, match="dim is 'wide'"):
        inspect(tmp_path / "wrong.onnx")


def test_metadata_of_another_model(tmp_path):
    teacher = HubertEncoder.from_preset("mini", layers=2)
    path = export(Student.from_teacher(teacher, layers=2, targets=(1,)), "onnx", tmp_path)
    for file in (path, int8_path(path)):
        assert describe(file)[0].layers == 2
        lies = {"layers": 3, "dim": 256, "position_kernel": 16, "position_groups": 4}
        refuses(file, lies | {"conv_layers": [[32, 10, 5]] * 7})


@pytest.fixture(scope="module")
def spiral() -> Student:
    torch.manual_seed(0)
    teacher = SpiralEncoder.from_preset("mini", layers=1)
    return Student.from_teacher(teacher, layers=1, targets=(1,)).eval()


@pytest.fixture(scope="module")
def spiral_exported(spiral, tmp_path_factory) -> Path:
    return export(spiral, "onnx", tmp_path_factory.mktemp("spiral"))


def loud_padding(lengths: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    waves = torch.randn(len(lengths), max(lengths), generator=torch.Generator().manual_seed(1)) * 0.3
    for row, length in enumerate(lengths):
        waves[row, length:] = 100.0
    return waves, torch.tensor(lengths)


@torch.no_grad()
def test_a_spiral_of_any_length_and_batch_size(spiral, spiral_exported):
    model = session(spiral_exported)
    for lengths in ([16_000], [161, 162], [24_001, 24_080, 24_159], [31_999, 400, 20_001]):
        waves, valid = loud_padding(lengths)
        expected = spiral(waves, valid)
        features, frames = model.run(None, {"waveforms": waves.numpy(), "lengths": valid.numpy()})
        assert frames.tolist() == expected.lengths.tolist() and features.shape[1] == max(frames)
        for row, count in enumerate(frames):
            difference = torch.from_numpy(features[row, :count]) - expected.z[row, :count]
            assert difference.abs().max() < TOLERANCE
    for n_samples in (1, 160):  # too short for the model: as silence behind it
        features, frames = run(spiral_exported, torch.ones(1, n_samples), torch.tensor([n_samples]))
        assert frames.tolist() == [1] and np.isfinite(features).all()
        longer = torch.nn.functional.pad(torch.ones(1, n_samples), (0, 161 - n_samples))
        np.testing.assert_allclose(features, spiral(longer).z.numpy(), atol=TOLERANCE)


@torch.no_grad()
def test_int8_of_a_spiral_leaves_its_features_alone(spiral, spiral_exported):
    waves = torch.randn(1, 16_000, generator=torch.Generator().manual_seed(3)) * 0.1
    features, _ = run(int8_path(spiral_exported), waves, torch.tensor([16_000]))
    expected = spiral(waves).z.numpy()
    assert 1e-4 < np.linalg.norm(features - expected) / np.linalg.norm(expected) < 0.1
    nodes = onnx.load(str(int8_path(spiral_exported))).graph.node
    # Six in each of two layers, and the 8 groups of both positional convolutions.
    assert sum(node.op_type == "MatMulInteger" for node in nodes) == 12 + 16
    info = inspect(spiral_exported)
    assert (info.family, info.kind, info.hop, info.targets) == ("spiral", "student", 1280, (1,))


@pytest.mark.parametrize("find", [Path, int8_path])
def test_metadata_of_another_spiral(spiral_exported, tmp_path, find):
    lies = {"layers": 2, "block1_layers": 2, "conv_layers": [[256, 5, 2], [64, 1, 1]], "position_kernel": 8}
    for key, lie in lies.items():
        model = onnx.load(str(find(spiral_exported)))
        entry = next(entry for entry in model.metadata_props if entry.key == "distill")
        described = json.loads(entry.value)
        described["architecture"][key] = lie
        entry.value = json.dumps(described)
        onnx.save(model, str(tmp_path / "lie.onnx"))
        with pytest.raises(CheckpointError, match=r"is .* in its metadata but .* by the weights"):
            describe(tmp_path / "lie.onnx")


@torch.no_grad()
def test_a_fixed_length(student, tmp_path):
    path = export(student, "onnx", tmp_path, n_samples=8000)
    shapes = [value.shape for value in session(path).get_inputs()]
    assert shapes == [[1, 8000], [1]] and session(path).get_outputs()[0].shape == [1, 24, 128]
    waves = torch.randn(1, 8000, generator=torch.Generator().manual_seed(4))
    for length in (8000, 5000):  # a shorter utterance is padded
        features, frames = run(path, waves, torch.tensor([length]))
        expected = student(waves, torch.tensor([length]))
        assert frames.tolist() == expected.lengths.tolist()
        np.testing.assert_allclose(
            features[0, : frames[0]], expected.z[0, : frames[0]].numpy(), atol=TOLERANCE
        )
        rough, counted = run(int8_path(path), waves, torch.tensor([length]))
        wanted = expected.z[0, : frames[0]].numpy()
        assert counted.tolist() == frames.tolist()
        assert np.linalg.norm(rough[0, : frames[0]] - wanted) < 0.1 * np.linalg.norm(wanted)
    assert inspect(path).provenance["samples"] == "8000, one utterance"
    with pytest.raises(CheckpointError, match="399 samples are too few"):
        export(student, "onnx", tmp_path, n_samples=399)
    with pytest.raises(CheckpointError, match="a fixed length is for onnx"):
        export(student, "native", tmp_path, n_samples=8000)
