"""Files by URL: what they are called here."""

from pathlib import Path

import torch

from distill.errors import CheckpointError
from distill.upstream.download import download


def test_names_that_lead_out_of_the_cache(tmp_path, monkeypatch):
    """The slashes of a name can be quoted; nothing is written but plain names in the folder of the URL."""
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
    written = []
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda url, path, **_: written.append(path))
    outside = str(tmp_path / "outside.pt").replace("/", "%2F")
    for quoted in (outside, "..%2F..%2Fx.pt", "%2E%2E", "x%00.pt", "a%5C..%5Cx.pt", "%1b%5B2J.pt", "x" * 300):
        try:
            found = download(f"http://host/a/{quoted}")
        except CheckpointError as error:
            assert "names no file" in str(error) and str(error).isprintable()
        else:
            assert found.name in ("outside.pt", "x.pt")
    folders = {Path(path).parent.parent for path in written}
    assert folders == {Path(torch.hub.get_dir()) / "robust_distilhubert"}
