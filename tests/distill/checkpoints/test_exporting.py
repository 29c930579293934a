"""Which pair of model and format is possible, where it is written, the model card, and the hub."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from distill.checkpoints import (
    FORMATS,
    export,
    export_checkpoint,
    exporting,
    huggingface,
    inspect,
    load_student,
    load_teacher,
    native,
    push,
    safe_pickle,
    teacher_facts,
)
from distill.checkpoints.loading import load_any
from distill.checkpoints.model_card import read_scores
from distill.errors import CheckpointError
from distill.hubert import HubertEncoder
from distill.student import Student
from tests.paths import GOLDEN


def one_line(error: pytest.ExceptionInfo) -> bool:
    return "\n" not in str(error.value)


@pytest.fixture(scope="module")
def models() -> dict[str, HubertEncoder | Student]:
    teacher = HubertEncoder.from_preset("mini", layers=2, dim=64, ffn_dim=32, position_kernel=8)
    student = Student.from_teacher(teacher, layers=1, targets=(2,))
    return {"teacher": teacher, "student": student, "encoder": student.encoder}


NORM = ".*layer norm before the projection, and a student has none; it goes to "


@pytest.mark.parametrize(
    ("kind", "format", "message"),
    [
        ("student", "fairseq", f"a student cannot be exported to fairseq: {NORM}s3prl, huggingface, onnx"),
        ("student", "torchaudio", f"a student cannot be exported to torchaudio: {NORM}s3prl"),
        ("encoder", "fairseq", f"a student without heads cannot be exported to fairseq: {NORM}huggingface"),
        ("encoder", "torchaudio", "a student without heads cannot be exported to torchaudio"),
        ("encoder", "s3prl", "a student without heads cannot be exported to s3prl: .*prediction heads"),
        ("teacher", "s3prl", "a teacher cannot be exported to s3prl: it is for students; it goes to fairseq"),
        ("teacher", "onnx", "a teacher cannot be exported to onnx: it is for students"),
    ],
)
def test_exports_that_are_refused(tmp_path, models, kind, format, message):
    with pytest.raises(CheckpointError, match=message) as error:
        export(models[kind], format, tmp_path / "out")
    assert one_line(error) and not (tmp_path / "out").exists()


def test_only_our_formats_hold_a_mel_front(tmp_path, models):
    student = Student.from_teacher(models["teacher"], layers=1, targets=(2,), front="mel").eval()
    for format in ("huggingface", "s3prl", "fairseq"):
        reason = "layer norm before" if format == "fairseq" else "hear log-mels"
        places = (
            "onnx and native; in s3prl itself our upstream reads" if format == "s3prl" else "onnx and native$"
        )
        with pytest.raises(CheckpointError, match=f"{reason} .*; it goes to {places}") as error:
            export(student, format, tmp_path / "refused")
        assert one_line(error) and not (tmp_path / "refused").exists()
    again = load_student(export(student, "native", tmp_path))
    waves = torch.randn(1, 4000)
    assert torch.equal(again(waves).predictions, student(waves).predictions)
    info = inspect(tmp_path)
    assert "log-mels, 80 bands" in "\n".join(info.lines())


def test_a_wavlm_teacher_is_sent_where_it_can_go(tmp_path):
    teacher = HubertEncoder.from_preset("wavlm_mini", layers=1)
    for format in ("fairseq", "torchaudio", "onnx", "s3prl"):
        with pytest.raises(CheckpointError, match="; it goes to huggingface and native$"):
            export(teacher, format, tmp_path)


def test_slim_and_thin_students_go_where_others_do(tmp_path, models):
    waves = torch.randn(1, 4000)
    shape = {"front": "slim", "dim": 32, "ffn_dim": 48}
    student = Student.from_teacher(models["teacher"], layers=1, targets=(2,), **shape).eval()
    expected = student(waves)
    folder = export(student, "huggingface", tmp_path / "hf")
    assert torch.equal(load_teacher(folder)(waves).last_hidden_state, expected.z)
    again = load_student(export(student, "s3prl", tmp_path / "s3prl"))
    torch.testing.assert_close(again(waves).predictions, expected.predictions)


def test_layer_to_layer_students_go_where_their_heads_are_not_needed(tmp_path, models):
    student = Student.from_teacher(models["teacher"], layers=2, targets="all", dim=32).eval()
    with pytest.raises(CheckpointError, match="cannot be exported to s3prl: it predicts layer from layer"):
        export(student, "s3prl", tmp_path)
    waves = torch.randn(1, 4000)
    folder = export(student, "huggingface", tmp_path / "hf")
    assert torch.equal(load_teacher(folder)(waves).last_hidden_state, student(waves).z)


@pytest.mark.parametrize("format", ["huggingface", "s3prl", "fairseq", "torchaudio"])
@pytest.mark.parametrize("heads", [True, False])
def test_only_our_formats_hold_a_map_used_twice(tmp_path, models, format, heads):
    teacher = models["teacher"]
    student = Student.from_teacher(teacher, layers=2, targets=(2,), reuse_attention=True).eval()
    with pytest.raises(CheckpointError, match=r"cannot be exported to .*; it goes to ") as error:
        export(student if heads else student.encoder, format, tmp_path / "refused")
    assert one_line(error) and not (tmp_path / "refused").exists()
    if format in ("huggingface", "s3prl") and heads:
        assert "reuse them (reuse_attention); it goes to onnx and native" in str(error.value)
    again = load_student(export(student, "native", tmp_path))
    waves = torch.randn(1, 4000)
    assert torch.equal(again(waves).predictions, student(waves).predictions)
    native.write(student.encoder, tmp_path)
    description = json.loads((tmp_path / "teacher.json").read_text())
    description["architecture"]["reuse_attention"] = False
    (tmp_path / "teacher.json").write_text(json.dumps(description))
    with pytest.raises(CheckpointError, match=r"layers\.1\.query\.weight is missing"):
        load_teacher(tmp_path / "teacher.safetensors")


def test_export_arguments(tmp_path, models):
    with pytest.raises(ValueError, match="unknown format 'keras'"):
        export(models["teacher"], "keras", tmp_path)
    for more in ({"license": "mit"}, {"scores": {"clean": {"KS": 90.0}}}):
        with pytest.raises(CheckpointError, match="for huggingface's model card: native has none"):
            export(models["teacher"], "native", tmp_path, **more)
    (tmp_path / "file").write_text("mine")
    for format in ("native", "s3prl", "huggingface"):
        with pytest.raises(CheckpointError, match="is a file, expected a folder"):
            export(models["student"], format, tmp_path / "file")
    with pytest.raises(CheckpointError, match="cannot write"):
        export(models["student"], "huggingface", tmp_path / "file" / "below")
    with pytest.raises(CheckpointError, match="cannot write"):
        export(models["student"], "s3prl", tmp_path / "file" / "below" / "x.ckpt")
    assert (tmp_path / "file").read_text() == "mine"
    (tmp_path / "folder.ckpt").mkdir()
    with pytest.raises(CheckpointError, match=r"folder\.ckpt is a folder, expected a file"):
        export(models["student"], "s3prl", tmp_path / "folder.ckpt")


@pytest.mark.parametrize(
    ("kind", "format", "suffix"),
    [("student", "s3prl", ".ckpt"), ("teacher", "fairseq", ".pt"), ("teacher", "torchaudio", ".pt")],
)
def test_a_folder_or_the_file_itself(tmp_path, models, kind, format, suffix):
    named = tmp_path / "deep" / f"mine{suffix}"
    for _ in range(2):  # the second time over the first
        assert export(models[kind], format, named) == named
    inside = export(models[kind], format, tmp_path / "folder")
    assert inside.parent == tmp_path / "folder" and inside.suffix == suffix
    leftovers = [path.name for path in tmp_path.rglob("*") if path.name.startswith(".")]
    assert not leftovers


PLACE = "/home/someone/secret place/below"
PRIVATE_PROVENANCE = {
    "teacher": f"{PLACE}/teacher",
    "versions": {"git": "abc", PLACE: [f"~someone/{PLACE}", {"deep": "file:///home/someone/x.pt"}]},
    "command": "distill adapt t1 --teacher /home/someone/t1.pt --out=~/someone/runs",
    "step": 400,
}
PRIVATE_RECIPE = {
    "name": f"{PLACE}/s4",
    "description": "made of /home/someone/teacher.pt",
    "kind": "adapt",
    "distort": True,
    "data": {
        "root": "/home/someone/corpora/",
        "train": ["/home/someone/corpora/mine/train.tsv?text=a", f"{PLACE}/other.tsv?split=dev"],
        "dev": ["~/someone/dev.jsonl.gz", "relative/dev.tsv"],
        "noises": {"musan": [f"{PLACE}/musan"]},
    },
    "distortion": {"additive": ["musan"], "rooms": PLACE},
    "targets": {"codebook": f"{PLACE}/codebook.npy", "folder": "/home/someone/targets"},
    "masking": {"probability": 0.5, "codes": PLACE},
}


@pytest.mark.slow
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("kind", ["student", "teacher"])
def test_no_place_of_the_author_gets_into_a_release(tmp_path, models, kind, format):
    if (kind, format) in exporting._IMPOSSIBLE:
        pytest.skip("no such export")
    if format == "onnx":
        pytest.importorskip("onnxscript")
    provenance, recipe = PRIVATE_PROVENANCE, PRIVATE_RECIPE
    export(models[kind], format, tmp_path / "out", provenance=provenance, recipe=recipe)
    written = b"".join(path.read_bytes() for path in (tmp_path / "out").iterdir())
    here = (str(tmp_path), str(Path.home()), str(Path(exporting.__file__).parents[2]))
    for private in ("someone", "secret", "/home", *here):
        assert private.encode() not in written, private
    assert b"abc" in written and b"t1.pt" in written
    if format == "huggingface":
        card = (tmp_path / "out" / "README.md").read_text().splitlines()
        assert "* speech: mine/train.tsv?text=a, other.tsv?split=dev" in card
        assert "* speech for choosing the checkpoint: dev.jsonl.gz, relative/dev.tsv" in card
        assert {"# s4", "* targets.codebook: codebook.npy", "* targets.folder: targets"} <= set(card)


def test_a_file_of_fairseq_with_places_in_its_configuration(tmp_path):
    """What it said is written again, but for those."""
    teacher = load_teacher(GOLDEN / "hubert_base_fairseq.pt")
    places = {"save_dir": PLACE, "restore_file": "/home/someone/last.pt", "keep": 3}
    teacher.pretraining_head = replace(teacher.pretraining_head, settings={"checkpoint": places})
    written = export(teacher, "fairseq", tmp_path)
    assert b"someone" not in written.read_bytes()
    kept = safe_pickle.load(written)["cfg"]["checkpoint"]
    assert kept == {"save_dir": "below", "restore_file": "last.pt", "keep": 3}


def run_folder(folder: Path, student: Student) -> Path:
    """As training leaves it, with places that are nobody's business."""
    provenance = {"recipe": "s4", **teacher_facts("some-lab/hubert-mini"), "step": 400}
    native.write(student, folder, provenance)
    recipe = {
        "name": "s4",
        "description": "DistilHuBERT (Tr2) setup2",
        "cdm": "setup2",
        "data": {
            "root": "/home/someone/corpora",
            "train": ["/home/someone/corpora/librispeech/train.jsonl.gz", "/mnt/secret/other.tsv"],
            "dev": [],
            "noises": {"musan": ["/home/someone/corpora/musan/all.jsonl.gz"]},
            "batch_size": 24,
        },
        "optim": {"lr": 2e-4, "max_steps": 20_000},
        "trainer": {"default": "/home/someone/logs"},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return folder


def test_model_card_of_a_run(tmp_path, models):
    folder = run_folder(tmp_path / "run", models["student"])
    scores = {"clean": {"KS": 95.9, "IC": 94.2}, "fsd": {"KS": 93.125}}
    out = export_checkpoint(folder, "huggingface", tmp_path / "hf", scores=scores)
    card = (out / "README.md").read_text()
    front = yaml.safe_load(card.split("---")[1])
    assert front["library_name"] == "transformers" and front["base_model"] == "some-lab/hubert-mini"
    for line in (
        "# s4",
        "* speech: librispeech/train.jsonl.gz, other.tsv",
        "* noise, musan: musan/all.jsonl.gz",
        "* cdm: setup2",
        "* data.batch_size: 24",
        "* optim.max_steps: 20000",
        "| condition | KS | IC |",
        "| clean | 95.9 | 94.2 |",
        "| fsd | 93.125 |  |",
        "* step: 400",
    ):
        assert line in card.splitlines(), line
    assert "someone" not in card and "secret" not in card
    assert json.loads((out / "config.json").read_text())["distill"]["step"] == 400


def test_the_scale_of_the_cnns_gradient_survives_every_format(tmp_path, models):
    for kind in ("teacher", "student"):
        for format in ("native", "huggingface", "fairseq", "torchaudio", "s3prl"):
            if (kind, format) in exporting._IMPOSSIBLE:
                continue
            model = models[kind]
            encoder = model.encoder if isinstance(model, Student) else model
            with_scale = HubertEncoder(replace(encoder.config, cnn_grad_scale=0.1))
            if isinstance(model, Student):
                with_scale = Student(with_scale.config, model.targets, model.target_dim)
            written = export(with_scale, format, tmp_path / f"{kind}-{format}", provenance={"step": 1})
            again, provenance, _ = load_any(written)
            config = again.encoder.config if isinstance(again, Student) else again.config
            assert config.cnn_grad_scale == 0.1, format
            assert provenance["step"] == 1 and "cnn_grad_scale" not in provenance


@pytest.mark.parametrize("format", ["huggingface", "torchaudio"])
def test_files_of_others_say_nothing_about_that_scale(tmp_path, models, format):
    model = HubertEncoder(replace(models["teacher"].config, cnn_grad_scale=0.1))
    written = export(model, format, tmp_path)
    described = tmp_path / ("config.json" if format == "huggingface" else "torchaudio.json")
    values = json.loads(described.read_text())
    del values["distill"]
    described.write_text(json.dumps(values))
    assert load_teacher(written).config.cnn_grad_scale == 1.0
    described.write_text(json.dumps(values | {"distill": {"cnn_grad_scale": "small"}}))
    with pytest.raises(CheckpointError, match="cnn_grad_scale is 'small'"):
        load_teacher(written)


def test_model_card_of_a_bare_model(tmp_path, models):
    card = (export(models["teacher"], "huggingface", tmp_path) / "README.md").read_text()
    assert "(teacher): 2 transformer layers of 64 features" in card
    assert card.count("Not known") == 3 and "None given." in card and "base_model" not in card


def test_scores_of_a_file(tmp_path):
    path = tmp_path / "scores.json"
    path.write_text('{"clean": {"KS": 95.9, "IC": 94}}')
    assert read_scores(path) == {"clean": {"KS": 95.9, "IC": 94}}
    for text in ('{"clean": 95.9}', '{"clean": {"KS": "good"}}', '{"clean": {"KS": true}}', "[]", "{"):
        path.write_text(text)
        with pytest.raises(CheckpointError, match="scores.json") as error:
            read_scores(path)
        assert one_line(error)


def test_export_checkpoint_takes_any_source(tmp_path, models):
    folder = run_folder(tmp_path / "run", models["student"])
    path = export_checkpoint(folder, "s3prl", tmp_path / "s3prl")
    again = export_checkpoint(path, "native", tmp_path / "native")
    for name, weight in models["student"].state_dict().items():
        assert torch.equal(load_student(again).state_dict()[name], weight)
    with pytest.raises(CheckpointError, match="does not exist"):
        export_checkpoint(tmp_path / "nowhere.ckpt", "s3prl", tmp_path)


@pytest.mark.parametrize(
    ("format", "taken"),
    [
        *(("native", name) for name in ("student.json", "student.safetensors")),
        *(("huggingface", name) for name in ("README.md", "config.json", "model.safetensors")),
        *(("s3prl", "distiller.ckpt"), ("onnx", "student.onnx"), ("onnx", "student.int8.onnx")),
    ],
)
@pytest.mark.parametrize("planted", [False, True])
def test_what_is_there_is_never_written_over(tmp_path, models, format, taken, planted):
    source, out = native.write(models["student"], tmp_path / "run"), tmp_path / "out"
    out.mkdir()
    if planted:
        (out / taken).symlink_to(tmp_path / "elsewhere")
    else:
        (out / taken).write_text("mine")
    with pytest.raises(CheckpointError, match=f"{out / taken} exists: choose another --out"):
        export_checkpoint(source, format, out)
    assert [path.name for path in out.iterdir()] == [taken] and not (tmp_path / "elsewhere").exists()
    assert planted or (out / taken).read_text() == "mine"


def test_missing_packages_are_named(tmp_path, models, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(CheckpointError, match=r"ONNX needs .*onnxscript.*robust-distilhubert\[onnx\]"):
        export(models["student"], "onnx", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_every_format_is_possible_for_something():
    kinds = ("student", "student without heads", "teacher")
    possible = {(kind, format) for kind in kinds for format in FORMATS} - exporting._IMPOSSIBLE.keys()
    for kind in kinds:
        assert {format for of, format in possible if of == kind} == set(exporting._POSSIBLE[kind])


class FakeHub:
    """Stands in for huggingface_hub.HfApi: keeps what it was asked."""

    def __init__(self, error: Exception | None = None):
        self.error = error
        self.calls: list[tuple] = []

    def __call__(self):
        return self

    def create_repo(self, repo_id, *, private, exist_ok):
        if self.error:
            raise self.error
        self.calls.append(("create", repo_id, private, exist_ok))
        return f"https://huggingface.co/{repo_id}"

    def upload_folder(self, *, folder_path, repo_id, allow_patterns, commit_message):
        self.calls.append(("upload", folder_path, repo_id, allow_patterns))


def test_push(tmp_path, models, monkeypatch):
    folder = export(models["student"], "huggingface", tmp_path / "hf")
    hub = FakeHub()
    monkeypatch.setattr("huggingface_hub.HfApi", hub)
    assert push(folder, "some-lab/student", private=True) == "https://huggingface.co/some-lab/student"
    create, upload = hub.calls
    assert create == ("create", "some-lab/student", True, True)
    assert upload[:3] == ("upload", folder, "some-lab/student")
    assert set(upload[3]) == {path.name for path in folder.iterdir()}  # all that was written, nothing else


def test_push_refuses(tmp_path, models, monkeypatch):
    monkeypatch.setattr("huggingface_hub.HfApi", FakeHub(RuntimeError("401 unauthorised\nand more")))
    with pytest.raises(CheckpointError, match="has no config.json"):
        push(tmp_path, "some-lab/student")
    huggingface.write(models["teacher"], tmp_path)
    with pytest.raises(CheckpointError, match="'student' is not the name of a repository"):
        push(tmp_path, "student")
    with pytest.raises(
        CheckpointError, match=r"pushing to some-lab/student failed \(401 unauthorised\)"
    ) as error:
        push(tmp_path, "some-lab/student")
    assert one_line(error)
