"""The mini corpora in the layouts of the published ones, and prepared."""

from pathlib import Path

import pytest
from lhotse import CutSet

from distill.data_prep import CORPORA, PUBLISHED, headers, mini_layouts


@pytest.fixture(scope="session")
def layouts(mini_data, tmp_path_factory) -> Path:
    """Root of all layouts."""
    root = tmp_path_factory.mktemp("layouts")
    for corpus in mini_layouts.LAYOUTS:
        mini_layouts.write_layout(corpus, mini_data, root)
    return root


@pytest.fixture(scope="session")
def manifests(layouts, tmp_path_factory):
    """Manifest (as a list of cuts) by corpus and split; each corpus is prepared once."""
    out = tmp_path_factory.mktemp("manifests")
    for name, prepare in CORPORA.items():
        if name in PUBLISHED:
            prepare(layouts, out / name)
    return lambda corpus, split: list(CutSet.from_file(out / corpus / f"{split}.jsonl.gz"))


@pytest.fixture(scope="session")
def espeak():
    """Skips tests where espeak-ng is not installed."""
    return pytest.importorskip("espeakng_loader")


@pytest.fixture
def reads(monkeypatch):
    """Names of the files whose headers are read."""
    names = []

    def counted(path, read=headers.read_header):
        names.append(path.name)
        return read(path)

    monkeypatch.setattr(headers, "read_header", counted)
    return names
