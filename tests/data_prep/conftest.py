"""The mini corpora in the layouts of the published ones, and a way to prepare them."""

from pathlib import Path

import pytest

from distill.data_prep import mini_layouts


@pytest.fixture(scope="session")
def layouts(mini_data, tmp_path_factory) -> Path:
    """Root of all layouts."""
    root = tmp_path_factory.mktemp("layouts")
    for corpus in mini_layouts.LAYOUTS:
        mini_layouts.write_layout(corpus, mini_data, root)
    return root
