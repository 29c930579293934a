"""Our own format: releases, Lightning checkpoints, run folders."""

import json
from pathlib import Path

import pytest
import torch

from distill.checkpoints import export, inspect, load_student, load_teacher, native
from distill.errors import CheckpointError
from distill.hubert import HubertEncoder
from distill.student import Student


def small_teacher(**changes) -> HubertEncoder:
    return HubertEncoder.from_preset("mini", layers=3, dim=32, heads=4, ffn_dim=48, **changes).eval()


@pytest.fixture
def teacher() -> HubertEncoder:
    torch.manual_seed(0)
    return small_teacher()


@pytest.fixture
def student(teacher) -> Student:
    torch.manual_seed(1)
    return Student.from_teacher(teacher, layers=2, targets=(1, 3)).eval()


def same(first: torch.nn.Module, second: torch.nn.Module) -> bool:
    a, b = first.state_dict(), second.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def lightning(model: HubertEncoder | Student, path: Path) -> Path:
    """What our training modules save; the optimiser's states and other modules are there too."""
    kind, prefix = ("student", "student.") if isinstance(model, Student) else ("teacher", "encoder.")
    architecture = model.to_dict() if isinstance(model, Student) else model.config.to_dict()
    state = {prefix + key: value for key, value in model.state_dict().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(
        {
            "pytorch-lightning_version": "2.6.6",
            "state_dict": state | {"classifier.weight": torch.zeros(7, 32)},
            "optimizer_states": [{"state": {0: {"step": torch.tensor(3.0)}}}],
            "distill": {"kind": kind, "architecture": architecture, "provenance": {"step": 3}},
        },
        path,
    )
    return path


def test_student_round_trip(tmp_path, student):
    path = native.write(student, tmp_path / "a" / "b", {"recipe": "s4", "step": 20_000})
    assert path == tmp_path / "a" / "b" / "student.safetensors"
    for source in (path, path.with_suffix(".json"), path.parent, str(path)):
        loaded = load_student(source)
        assert same(loaded, student) and not loaded.training
        assert loaded.to_dict() == student.to_dict() | {"targets": [1, 3]}
    waves = torch.randn(1, 4000)
    with torch.no_grad():
        assert torch.equal(load_student(path)(waves).predictions, student(waves).predictions)
    assert sorted(entry.name for entry in path.parent.iterdir()) == ["student.json", "student.safetensors"]


@pytest.mark.parametrize("large", [False, True])
def test_teacher_round_trip(tmp_path, large):
    model = (
        small_teacher(conv_norm="layer", pre_norm=True, normalize_input=True) if large else small_teacher()
    )
    path = export(model, "native", tmp_path, provenance={"corpus": "mini"})
    loaded = load_teacher(path)
    assert same(loaded, model) and loaded.config == model.config and not loaded.training
    assert json.loads((tmp_path / "teacher.json").read_text())["provenance"] == {"corpus": "mini"}


def test_weights_can_be_trained_after_loading(tmp_path, student):
    loaded = load_student(native.write(student, tmp_path)).train()
    loaded(torch.randn(1, 4000)).predictions.square().mean().backward()
    assert all(parameter.grad is not None for parameter in loaded.parameters())


def test_lightning_checkpoints(tmp_path, teacher, student):
    path = lightning(student, tmp_path / "run" / "checkpoints" / "last.ckpt")
    assert same(load_student(path), student)
    assert same(load_student(tmp_path / "run"), student)
    assert inspect(path).provenance == {"step": 3}
    adapted = lightning(teacher, tmp_path / "adapted" / "checkpoints" / "last.ckpt")
    assert same(load_teacher(adapted), teacher)
    assert same(load_teacher(tmp_path / "adapted"), teacher)


def test_a_run_folder_prefers_the_release_and_the_kind_asked_for(tmp_path, teacher, student):
    other = Student.from_teacher(teacher, layers=1, targets=(2,)).eval()
    lightning(other, tmp_path / "checkpoints" / "last.ckpt")
    assert same(load_student(tmp_path), other)
    native.write(student, tmp_path)
    assert same(load_student(tmp_path), student)
    native.write(teacher, tmp_path)
    assert same(load_student(tmp_path), student)
    assert same(load_teacher(tmp_path), teacher)


def test_real_lightning_writes_what_we_read(tmp_path, student):
    """Through a Trainer, not by hand: its own loops, callbacks and hyperparameters are in the file."""
    lightning_package = pytest.importorskip("pytorch_lightning")

    class Module(lightning_package.LightningModule):
        def __init__(self):
            super().__init__()
            self.student = student

        def training_step(self, batch, _):
            return self.student(batch[0]).predictions.square().mean()

        def configure_optimizers(self):
            return torch.optim.AdamW(self.parameters(), lr=0.0)

        def on_save_checkpoint(self, checkpoint):
            checkpoint["distill"] = {
                "kind": "student", "architecture": student.to_dict(), "provenance": {},
            }  # fmt: skip

    trainer = lightning_package.Trainer(
        max_steps=1, accelerator="cpu", logger=False, default_root_dir=tmp_path, enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=False,
    )  # fmt: skip
    waves = torch.utils.data.TensorDataset(torch.randn(1, 4000))
    trainer.fit(Module(), torch.utils.data.DataLoader(waves))
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    assert same(load_student(tmp_path / "last.ckpt"), student)


def test_inspect(tmp_path, student):
    info = inspect(native.write(student, tmp_path, {"recipe": "s4"}))
    assert (info.format, info.kind, info.layers, info.dim, info.targets) == (
        "native",
        "student",
        2,
        32,
        (1, 3),
    )
    assert info.parameters_encoder == sum(p.numel() for p in student.encoder.parameters())
    assert info.parameters_total == sum(p.numel() for p in student.parameters())
    text = "\n".join(info.lines())
    assert "student" in text and "1, 3" in text and "s4" in text and f"{info.parameters_total:,}" in text


def test_the_wrong_kind(tmp_path, teacher, student):
    native.write(student, tmp_path / "student")
    native.write(teacher, tmp_path / "teacher")
    with pytest.raises(
        CheckpointError, match="holds a student, expected a teacher: .* load_student reads it"
    ):
        load_teacher(tmp_path / "student")
    with pytest.raises(CheckpointError, match="without prediction heads .* expected a student"):
        load_student(tmp_path / "teacher")


def change(path: Path, **values) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def architecture(path: Path, **values) -> None:
    described = json.loads(path.read_text())
    described["architecture"] |= values
    path.write_text(json.dumps(described))


def encoder(path: Path, **values) -> None:
    described = json.loads(path.read_text())
    described["architecture"]["encoder"] |= values
    path.write_text(json.dumps(described))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda p: p.write_text(p.read_text()[:40]), "not a readable JSON file"),
        (lambda p: p.write_text("[1]"), "holds a list, expected a JSON object"),
        (lambda p: change(p, version=99), "has format version 99, this release reads 1"),
        (lambda p: change(p, kind="other"), "does not say what it holds"),
        (lambda p: change(p, architecture=None), "does not say what it holds"),
        (lambda p: change(p, architecture={"targets": [1]}), "has no encoder, target_dim"),
        (lambda p: architecture(p, targets="all"), "targets is 'all'"),
        (lambda p: architecture(p, targets=[]), r"targets is \[\]"),
        (lambda p: architecture(p, targets=[1, 2, 3]), r"heads.bias is \(2, 1, 32\), not \(3, 1, 32\)"),
        (lambda p: architecture(p, target_dim=-3), "target_dim is -3"),
        (lambda p: encoder(p, dim="32"), "dim is '32', expected a value such as 768"),
        (lambda p: encoder(p, dim=64), r"attention_norm.bias is \(32,\), not \(64,\)"),
        (lambda p: encoder(p, heads=5), "must be a multiple of heads"),
        (lambda p: encoder(p, layers=3), "described with 3 layers but holds 2"),
        (lambda p: encoder(p, layers=900), "described with 900 layers but holds 2"),
        (lambda p: encoder(p, layers=True), "layers is 'True'"),
        (lambda p: encoder(p, conv_layers=[[1, 2]]), "conv_layers is"),
        (lambda p: encoder(p, conv_norm="batch"), "conv_norm must be"),
        (lambda p: encoder(p, dropout=2.0), "dropout must be in"),
        (lambda p: encoder(p, swish=1), "unknown field 'swish'"),
        (lambda p: encoder(p, projection_norm=True), "encoder.projection_norm.weight is missing"),
        (lambda p: p.with_suffix(".safetensors").write_bytes(b"\0" * 20), "not a readable safetensors file"),
        (lambda p: p.with_suffix(".safetensors").unlink(), "not a readable safetensors file"),
        (lambda p: p.unlink(), r"is a safetensors file without its \.json"),
    ],
)  # fmt: skip
def test_damaged_releases(tmp_path, student, edit, message):
    path = native.write(student, tmp_path)
    edit(path.with_suffix(".json"))
    with pytest.raises(CheckpointError, match=message) as error:
        load_student(path if path.exists() else path.with_suffix(".json"))
    assert "\n" not in str(error.value) and str(tmp_path) in str(error.value)


def test_a_student_that_predicts_layer_from_layer(tmp_path, teacher):
    student = Student.from_teacher(teacher, layers=3, targets=(1, 3), layer_to_layer=True, dim=16).eval()
    path = native.write(student, tmp_path)
    again = load_student(path)
    assert same(again, student) and again.sources == (1, 3)
    waves = torch.randn(1, 4000)
    assert torch.equal(again(waves).predictions, student(waves).predictions)
    described = json.loads(path.with_suffix(".json").read_text())
    for sources in ([1], [1, 4], [-1, 3], "13", [True, 3]):
        described["architecture"]["sources"] = sources
        path.with_suffix(".json").write_text(json.dumps(described))
        with pytest.raises(CheckpointError, match=r"sources is .*, expected a layer of the student, 0 to 3"):
            load_student(path)
    del described["architecture"]["sources"]  # other heads than the weights are of
    path.with_suffix(".json").write_text(json.dumps(described))
    with pytest.raises(CheckpointError, match=r"heads.expand.weight is missing"):
        load_student(path)


def test_truncated_weights(tmp_path, student):
    path = native.write(student, tmp_path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="not a readable safetensors file"):
        load_student(path)


def test_damaged_lightning_checkpoints(tmp_path, student):
    path = lightning(student, tmp_path / "last.ckpt")
    contents = torch.load(path, weights_only=True)
    torch.save({key: value for key, value in contents.items() if key != "distill"}, path)
    with pytest.raises(CheckpointError, match="Lightning checkpoint of another program"):
        load_student(path)
    torch.save(contents | {"callbacks": print}, path)
    with pytest.raises(CheckpointError, match="asks for .*print, which no checkpoint needs"):
        load_student(path)
    lightning(student, path).write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(CheckpointError, match="cut short"):
        load_student(path)


def test_an_interrupted_write_leaves_the_old_file(tmp_path, student, monkeypatch):
    path = native.write(student, tmp_path)

    def full_disk(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("distill.checkpoints.files.save_file", full_disk)
    with pytest.raises(CheckpointError, match="cannot write .*No space left on device"):
        native.write(student, tmp_path)
    assert same(load_student(path), student)
    assert len(list(tmp_path.iterdir())) == 2


def test_provenance_must_be_plain(tmp_path, student):
    with pytest.raises(ValueError, match="plain values only"):
        native.write(student, tmp_path, {"model": student})
    assert list(tmp_path.iterdir()) == []
