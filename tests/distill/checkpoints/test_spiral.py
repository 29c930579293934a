"""SPIRAL encoders and their students in every format: kept, refused, named."""

import json
from pathlib import Path

import pytest
import torch

from distill import load_student, load_teacher
from distill.checkpoints import FORMATS, export, inspect, native, split_source
from distill.checkpoints.loading import PRESETS
from distill.downstream.features import hash_encoder
from distill.errors import CheckpointError
from distill.hubert import HubertEncoder
from distill.spiral.encoder import SpiralEncoder
from distill.student import Student

WAVES = torch.randn(2, 5000, generator=torch.Generator().manual_seed(0))
LENGTHS = torch.tensor([5000, 3001])


@pytest.fixture(scope="module")
def teacher() -> SpiralEncoder:
    torch.manual_seed(0)
    return SpiralEncoder.from_preset("mini").eval()


@pytest.fixture(scope="module")
def student(teacher) -> Student:
    torch.manual_seed(1)
    return Student.from_teacher(teacher, layers=1, targets=(2, 4)).eval()


@torch.no_grad()
def test_native_round_trip(tmp_path, teacher, student):
    for model, load in ((teacher, load_teacher), (student, load_student)):
        path = native.write(model, tmp_path, {"recipe": "spiral_mini"})
        again = load(path)
        assert type(again) is type(model) and not again.training
        assert again.state_dict().keys() == model.state_dict().keys()  # the mask's vector too
        one, other = (m.encoder if isinstance(m, Student) else m for m in (model, again))
        assert one.config == other.config and hash_encoder(one) == hash_encoder(other)
        outs = [encoder(WAVES, LENGTHS).last_hidden_state for encoder in (one, other)]
        assert torch.equal(*outs)
    described = json.loads((tmp_path / "teacher.json").read_text())["architecture"]
    assert described["family"] == "spiral"
    assert "family" not in native_description(HubertEncoder.from_preset("mini", layers=1), tmp_path / "h")


def native_description(model, folder) -> dict:
    return json.loads(native.write(model, folder).with_suffix(".json").read_text())["architecture"]


@pytest.mark.parametrize("name", ["spiral_base", "spiral_large", "spiral_mini"])
def test_random_ones_by_name(name, monkeypatch):
    assert PRESETS[name].hop == 1280
    if name == "spiral_mini":
        encoder = load_teacher(f"random:{name}")
        assert isinstance(encoder, SpiralEncoder) and not encoder.training


def test_inspect_says_what_they_are(tmp_path, teacher, student):
    lines = "\n".join(inspect(native.write(teacher, tmp_path)).lines())
    for fact in ("SPIRAL", "12.5 Hz (every 80 ms)", "block 1: 3 convolutions, 1 layers of 128; block 2: 2"):
        assert fact in lines
    info = inspect(native.write(student, tmp_path))
    assert (info.kind, info.family, info.layers, info.targets) == ("student", "spiral", 1, (2, 4))
    assert inspect("random:mini").family == "hubert" and inspect("random:mini").hop == 320


@pytest.mark.parametrize("format", [name for name in FORMATS if name not in ("native", "onnx")])
def test_formats_of_hubert_refuse_them_with_the_reason(tmp_path, teacher, student, format):
    for model, name in ((teacher, "SPIRAL encoder"), (student, "SPIRAL student")):
        with pytest.raises(CheckpointError) as error:
            export(model, format, tmp_path / "x")
        assert str(error.value).startswith(f"a {name} cannot be exported to {format}: it is for HuBERT")
        assert "; it goes to onnx and native" in str(error.value) and "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def rewritten(path: Path, **changes) -> Path:
    described = path.with_suffix(".json")
    values = json.loads(described.read_text())
    values["architecture"] |= changes
    described.write_text(json.dumps(values))
    return path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"family": "whisper"}, "of the unknown family 'whisper', expected hubert or spiral"),
        ({"family": ["spiral"]}, "of the unknown family"),
        ({"family": "hubert"}, "has the unknown field"),
        ({"conv_norm": "group"}, "has the unknown field 'conv_norm'"),
        ({"layers": 5}, "described with 5 layers in block 2 but holds 4"),
        ({"block1_layers": 900}, "described with 900 layers in block 1 but holds 1"),
        ({"block1_heads": 3}, r"dim \(128\) must be a multiple of heads \(3\)"),
        ({"conv_layers": [[256, 3, 2], [128, 1, 1]]}, "kernels of 5 or 1"),
        ({"conv_layers": "wide"}, "conv_layers is 'wide'"),
        ({"bands": 64}, "does not fit its architecture"),
    ],
)
def test_a_description_that_does_not_fit(tmp_path, teacher, changes, message):
    path = rewritten(native.write(teacher, tmp_path), **changes)
    with pytest.raises(CheckpointError, match=message) as error:
        load_teacher(path)
    assert "\n" not in str(error.value)


def test_other_heads_or_strides_are_another_identity(teacher):
    def like(**changes) -> str:
        other = SpiralEncoder.from_preset("mini", **changes)
        other.load_state_dict(teacher.state_dict())
        return hash_encoder(other)

    convolutions = ((96, 5, 2), (128, 5, 1), (128, 1, 2))
    hashes = {like(), like(heads=8), like(block1_heads=8), like(block1_conv_layers=convolutions)}
    assert len(hashes) == 4 and hash_encoder(teacher) in hashes


def test_the_choice_of_normalising_waveforms_is_refused(tmp_path, teacher):
    source = f"{native.write(teacher, tmp_path)}?normalize=true"
    assert split_source(source)[1] is True
    with pytest.raises(CheckpointError, match="is a choice for HuBERT; SPIRAL always"):
        load_teacher(source)
