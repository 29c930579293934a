"""Bytes of files and of objects in object stores."""

from __future__ import annotations

import functools
import os
from typing import Any
from urllib.parse import unquote, urlsplit

from distill.data.files import regular_file
from distill.errors import DataError, first_line

STORES = ("s3", "gs", "azure")
"""Schemes of URLs that are read. smart_open knows more, some of which run programs or contact any server."""

_MOST_BYTES = 2**30  # of a recording that is read into memory as a whole


def is_url(place: str) -> bool:
    """Whether this is a URL; everything else is a path."""
    return "://" in place


def local_path(place: str) -> str | None:
    """The path of a file on this machine, from a path or a `file://` URL; None: it is elsewhere."""
    if not is_url(place):
        return place
    try:
        parts = urlsplit(place)
    except ValueError:
        return None  # not a URL either, as `check_place` says
    return unquote(parts.path) if parts.scheme == "file" and parts.netloc in ("", "localhost") else None


def check_place(place: str) -> None:
    """Refuse pipes, and URLs of anything but object stores and files of this machine.

    Raises:
        DataError: naming it.
    """
    if place.startswith("pipe:"):
        raise DataError(f"a command ({_short(place)}) is named in place of a file, and commands are not run")
    if not is_url(place) or local_path(place) is not None:
        return
    try:
        parts = urlsplit(place)
    except ValueError as error:
        raise DataError(f"{_short(place)} is not a URL ({error})") from None
    if parts.scheme not in STORES:
        raise DataError(
            f"{_short(place)} is not read: fetch it to this machine; URLs may begin with {', '.join(STORES)}"
        )
    if "@" in parts.netloc:
        raise DataError(
            f"a URL with keys or a server in it ({parts.scheme}) is not read: configure the store"
        )


def _short(place: str) -> str:
    return place if len(place) <= 60 else f"{place[:60]}..."


def read_place(place: str, offset: int = 0, n_bytes: int | None = None) -> bytes:
    """Bytes of a file or an object.

    Args:
        place: path or URL.
        offset: of the first byte.
        n_bytes: how many; None: to the end.

    Raises:
        DataError: it is refused (`check_place`), cannot be read, or is too short.
    """
    check_place(place)
    if (n_bytes or 0) > _MOST_BYTES:
        raise DataError(f"{place}: {n_bytes} bytes are more than a recording in a shard has")
    local = local_path(place)
    if local is not None and regular_file(local).stat().st_size < offset + (n_bytes or 0):
        raise DataError(f"{place} ends too early; fetch or make it again")
    try:
        with open(local, "rb") if local is not None else _remote(place, n_bytes) as stream:
            stream.seek(offset)
            data = stream.read(_MOST_BYTES + 1 if n_bytes is None else n_bytes)
    except ImportError:
        raise DataError(
            f"{place} cannot be read without smart_open: pip install 'robust-distilhubert[shards]'"
        ) from None
    except Exception as error:  # noqa: BLE001 disks and object stores each have exceptions of their own
        raise DataError(f"{place} cannot be read ({first_line(error)})") from None
    if len(data) > _MOST_BYTES:
        raise DataError(f"{place} has more than {_MOST_BYTES >> 30} GB, too much to read at once")
    if n_bytes is not None and len(data) < n_bytes:
        raise DataError(f"{place} ends too early; fetch or make it again")
    return data


def _remote(url: str, n_bytes: int | None) -> Any:
    import smart_open

    options = {}
    if url.startswith("s3://"):
        options = {"client": _s3(os.getpid()), "defer_seek": True}
        options |= {} if n_bytes is None else {"range_chunk_size": n_bytes}  # fetch those bytes only
    return smart_open.open(url, "rb", transport_params=options)


@functools.cache
def _s3(process: int) -> Any:  # noqa: ARG001 connections must not be shared with a parent
    import boto3

    return boto3.client("s3")
