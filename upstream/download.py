"""Fetch a checkpoint from a URL, once."""

from __future__ import annotations

import hashlib
from pathlib import Path, PurePosixPath
from urllib.error import URLError
from urllib.parse import unquote, urlsplit, urlunsplit

import torch

from distill.checkpoints.files import is_plain_name
from distill.errors import CheckpointError


def download(url: str, *, refresh: bool = False) -> Path:
    """Download a checkpoint unless that was done before.

    Args:
        url: of a file. If it ends in .safetensors or .json, the other of the two is fetched too: a release
            (`distill export --to native`) consists of both.
        refresh: download again.

    Returns:
        The file, in a folder of its own below `torch.hub.get_dir()`.

    Raises:
        CheckpointError: if a file cannot be fetched.
    """
    folder = Path(torch.hub.get_dir()) / "robust_distilhubert" / hashlib.sha256(url.encode()).hexdigest()[:16]
    parts = urlsplit(url)
    path, name = PurePosixPath(parts.path), PurePosixPath(unquote(parts.path)).name
    if not is_plain_name(name):  # what is quoted can hold slashes
        raise CheckpointError(
            f"{ascii(url)[1:-1]} names no file: expected the URL of a checkpoint such as student.safetensors"
        )
    suffixes = (".json", ".safetensors") if path.suffix in (".json", ".safetensors") else (path.suffix,)
    for suffix in suffixes:
        remote = urlunsplit(parts._replace(path=str(path.with_suffix(suffix))))
        local = folder / PurePosixPath(name).with_suffix(suffix)
        if refresh or not local.is_file():
            _fetch(remote, local)
    return folder / name


def _fetch(url: str, path: Path) -> None:
    """Download one file; it appears under its name only when it is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        torch.hub.download_url_to_file(url, str(path), progress=False)
    except (URLError, OSError, ValueError) as error:  # ValueError: no URL at all
        reason = getattr(error, "reason", None) or error
        raise CheckpointError(
            f"{url} cannot be downloaded ({reason}): check it, or fetch it by other means and give "
            "robust_distilhubert_local the path"
        ) from error
