"""torch.hub entries: from the repository, from the folder `upstream`, by URL."""

import os
import shutil
import subprocess
import sys
from typing import Any

import pytest
import torch

from distill.errors import CheckpointError
from distill.upstream import hubconf
from tests.paths import ROOT

pytestmark = pytest.mark.slow

WAVS = [torch.linspace(-1, 1, 8_000).sin()]


@pytest.fixture(autouse=True)
def hub_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))


@pytest.fixture
def expected(student_folder) -> torch.Tensor:
    return hubconf.robust_distilhubert_local(student_folder)(WAVS)["paper"]


@pytest.mark.parametrize("folder", [ROOT, ROOT / "upstream"])
def test_torch_hub(folder, student_folder, expected):
    for name in ("robust_distilhubert_local", "robust_distilhubert_custom"):
        expert: Any = torch.hub.load(str(folder), name, ckpt=str(student_folder), source="local")
        torch.testing.assert_close(expert(WAVS)["paper"], expected)


@pytest.mark.parametrize("inside", [".", "upstream"])
@pytest.mark.parametrize("unpacked", [False, True], ids=["clone", "zip"])
def test_torch_hub_where_nothing_is_installed(
    unpacked, inside, zip_of_the_repository, student_folder, tmp_path
):
    """In a clone, and in a zip of the repository, whose links Python unpacks as text files."""
    root = zip_of_the_repository if unpacked else ROOT
    code = f"""
import sys
sys.path[:] = [entry for entry in sys.path if entry not in ("", {str(ROOT)!r})]
sys.meta_path[:] = [finder for finder in sys.meta_path if "editable" not in str(finder)]
try:
    import distill
except ModuleNotFoundError:
    import torch
    source, ckpt = {str(root / inside)!r}, {str(student_folder)!r}
    expert = torch.hub.load(source, "robust_distilhubert_local", ckpt, source="local")
    print(tuple(expert([torch.zeros(8000)])["paper"].shape), "s3prl" in sys.modules)
    import distill.data_prep, distill.downstream
    print(distill.__file__)
"""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    expected = ["(1, 24, 128) False", str(root / "distill" / "__init__.py")]
    assert done.stdout.splitlines()[-2:] == expected, done.stderr[-2000:]


def test_the_example_of_the_documentation(student_folder, monkeypatch):
    code = (ROOT / "docs" / "upstream.md").read_text(encoding="utf-8").split("```python")[2].split("```")[0]
    scope: dict = {}
    monkeypatch.chdir(ROOT)
    exec(code.replace("runs/s4", str(student_folder)), scope)
    assert scope["z"].shape == (2, 99, 128)


def test_a_release_by_url_is_downloaded_once(student_folder, expected, tmp_path):
    server = tmp_path / "server"
    shutil.copytree(student_folder, server)
    url = (server / "student.safetensors").as_uri()
    torch.testing.assert_close(hubconf.robust_distilhubert_url(url)(WAVS)["paper"], expected)
    shutil.rmtree(server)
    torch.testing.assert_close(hubconf.robust_distilhubert_custom(url)(WAVS)["paper"], expected)
    with pytest.raises(CheckpointError, match=r"student\.json cannot be downloaded"):
        hubconf.robust_distilhubert_url(url, refresh=True)


def test_half_a_release(student_folder, tmp_path):
    shutil.copy(student_folder / "student.safetensors", tmp_path)
    with pytest.raises(CheckpointError, match=r"student\.json cannot be downloaded"):
        hubconf.robust_distilhubert_url((tmp_path / "student.safetensors").as_uri())


@pytest.mark.parametrize("url", ["https://", "nonsense", "ftp:/x"])
def test_what_is_no_url(url):
    with pytest.raises(CheckpointError, match="expected the URL|cannot be downloaded"):
        hubconf.robust_distilhubert_url(url)


@pytest.mark.parametrize("entry", hubconf.ENTRIES)
def test_without_a_checkpoint(entry):
    with pytest.raises(CheckpointError, match="needs a checkpoint"):
        getattr(hubconf, entry)(ckpt=None, refresh=False, model_config=None)
