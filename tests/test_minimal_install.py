"""What a box with only torch, torchaudio and Lightning can import, and what importing costs."""

import subprocess
import sys

import pytest

from tests.paths import ROOT

pytestmark = pytest.mark.slow

# Python's own way to make an import fail; a module finder that raises would also break those that only ask.
BLOCK = "import sys; sys.modules.update(dict.fromkeys({names!r}))\n"
EXTRAS = {"lhotse", "omegaconf", "s3prl", "wandb", "transformers", "onnx", "espeakng_loader"}


def run(code: str, blocked: set[str] = EXTRAS) -> str:
    """The output of a fresh interpreter that cannot import some packages."""
    script = BLOCK.format(names=blocked) + code
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, timeout=120
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_the_core_trains_without_lhotse_and_omegaconf():
    """All five modules, and one update by hand."""
    # Lightning's torchmetrics imports transformers where its metadata says that it is installed.
    run(
        blocked=EXTRAS - {"transformers"},
        code="""
import distill.hubert, distill.student, distill.objective, distill.distortions, distill.distillation
import torch
from distill.batch import Batch, View
from distill.distillation import Distillation
from distill.distortions import Distorter, DistortionConfig
from distill.hubert import HubertEncoder
from distill.student import Student
from distill.waveforms import pad

teacher = HubertEncoder.from_preset("mini")
student = Student.from_teacher(teacher, layers=1, targets=(2, 6))
distorter = Distorter.from_config(DistortionConfig(additive=("gaussian",)))
module = Distillation(teacher, student, distorter, cdm="setup1")
waves, lengths = pad([torch.randn(3000), torch.randn(2000)])
plan = distorter.plan(["a", "b"])
batch = Batch(["a", "b"], waves, lengths, {"student": View(plan, [None] * 2, [None] * 2)})
heard, labels = module.distort(batch, "student")
assert heard.shape == waves.shape and labels[:, 1].all()
targets = module.teacher_targets(waves, lengths)
out = student(heard, lengths)
from distill import distillation_loss
distillation_loss(out.predictions, targets, out.lengths).total.backward()
assert not any(sys.modules.get(name) for name in ("lhotse", "omegaconf", "wandb"))
""",
    )


def test_checkpoints_need_none_of_them_either(tmp_path):
    run(f"""
import distill
from distill.checkpoints import export, inspect
teacher = distill.load_teacher("random:mini")
student = distill.Student.from_teacher(teacher, layers=1, targets=(2,))
export(student, "native", {str(tmp_path)!r})
assert inspect({str(tmp_path)!r}).kind == "student"
assert distill.load_student({str(tmp_path)!r}).targets == (2,)
assert distill.load_teacher("tests/golden/hubert_base_fairseq.pt").config.layers
""")


def test_the_block_blocks():
    """Otherwise the tests above could not fail."""
    assert (
        run("""
try:
    import distill.data.loading
except ModuleNotFoundError as error:
    print(error.name.split(".")[0])
""")
        == "lhotse\n"
    )


def test_importing_distill_imports_nothing_big():
    heavy = {"torch", "torchaudio", "lhotse", "pytorch_lightning", "numpy", "omegaconf"}
    assert run("import distill; print(distill.__version__)", blocked=heavy).strip()


def test_help_needs_nothing_big():
    heavy = {"torch", "torchaudio", "lhotse", "pytorch_lightning", "omegaconf"}
    code = "from distill.cli.parser import build_parser; print(build_parser().format_help())"
    assert "adapt" in run(code, blocked=heavy)


ABOVE = {
    "distill": ("data_prep", "upstream", "downstream", "analysis", "recipes"),
    "distill.data_prep": ("upstream", "downstream", "analysis", "recipes"),
    "distill.upstream": ("downstream", "analysis", "recipes"),
    "distill.downstream": ("analysis",),
}
"""Package: its neighbours that it must do without."""


@pytest.mark.parametrize("package", ABOVE)
def test_imports_run_one_way(package):
    """Library <- data_prep <- upstream <- downstream, analysis <- command line."""
    above = {f"distill.{name}" for name in (*ABOVE[package], "cli")}
    found = run(
        f"""
import importlib, pkgutil
package = importlib.import_module({package!r})
for module in pkgutil.walk_packages(package.__path__, {package + "."!r}):
    if not module.name.endswith("__main__") and not module.name.startswith({tuple(above)!r}):
        importlib.import_module(module.name)
        print(module.name)
""",
        blocked=above | {"bench", "wandb", "onnx", "espeakng_loader"},
    )
    assert len(found.splitlines()) > 5


def test_an_unknown_name():
    import distill

    with pytest.raises(AttributeError, match="module 'distill' has no attribute 'load_techer'"):
        distill.load_techer  # noqa: B018
