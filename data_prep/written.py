"""Which files of a folder `distill data prepare` wrote: others are neither overwritten nor deleted."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from distill.atomic import read_json, write_json
from distill.errors import DataError
from distill.hashing import hash_files

_FILE = ".written.json"
_UNFINISHED = "unfinished"


class Written:
    """The files that were written to an output folder, with their hashes.

    Args:
        out: the folder, which may not exist yet.
    """

    def __init__(self, out: Path):
        self.out = out
        self._path = out / _FILE
        self._files: dict[str, Any] = {}
        try:
            found = read_json(self._path)["files"]
            self._files = found if isinstance(found, dict) else {}
        except (OSError, ValueError, KeyError):
            pass  # there is none, or it is damaged: nothing is known to be ours

    def has(self, name: str) -> bool:
        """Whether a file is noted."""
        return name in self._files

    def claim(self, names: Iterable[str], *, known: Iterable[str] = ()) -> None:
        """Refuse to replace files of others, and note that these are about to be written.

        Args:
            names: of the files, and of folders that are ours with all that is in them.
            known: those that are known to be ours from elsewhere, such as the ledger of an earlier version.

        Raises:
            DataError: naming one that is somebody else's, or was changed since it was written.
        """
        names, known = list(names), set(known)
        for name in names:
            if os.path.lexists(self.out / name) and name not in known and not self._is_ours(name):
                what = "was changed since it was prepared" if name in self._files else "was not prepared here"
                raise DataError(
                    f"{self.out / name} {what}, and is not overwritten: move or delete it, or choose another "
                    "--out"
                )
        self._files |= dict.fromkeys(names, _UNFINISHED)
        self._save()

    def note(self, name: str) -> None:
        """Note that a file is written, or was removed."""
        path = self.out / name
        if path.is_file():
            self._files[name] = hash_files([path], digest_size=16)
        elif not path.is_dir():
            self._files.pop(name, None)
        self._save()

    def _is_ours(self, name: str) -> bool:
        noted, path = self._files.get(name), self.out / name
        if noted is None or path.is_symlink():
            return False
        return noted == _UNFINISHED or (path.is_file() and noted == hash_files([path], digest_size=16))

    def _save(self) -> None:
        write_json(self._path, {"files": self._files})
