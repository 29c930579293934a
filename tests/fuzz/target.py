"""What is fuzzed: a reader with valid files for it, and one try of it."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from distill.errors import UserError
from tests.fuzz.mutations import mutated

LONGEST_MESSAGE = 4000
"""Letters: more is not a message, but the contents of a file."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """A reader of files that strangers wrote."""

    name: str
    """What `python -m tests.fuzz NAME` calls it."""
    file: str
    """The name of the file to read, which may be in a folder: "run/recipe.yaml"."""
    seeds: Callable[[], Sequence[bytes]]
    """Contents of small valid files, all of which `read` accepts."""
    read: Callable[[Path], object]
    """The reader. It gets the path of a file in a folder of its own."""
    allowed: tuple[type[BaseException], ...] = (UserError,)
    """How it may refuse; the message must be one line."""
    beside: Callable[[Path], object] | None = None
    """Puts whole files next to it; gets the folder."""
    words: tuple[bytes, ...] = ()
    """What the format is made of, to insert and to swap."""
    parse: Callable[[bytes], Any] | None = None
    """From a seed to new dicts, lists and values, for changes of structure."""
    dump: Callable[[Any], bytes] | None = None
    """The way back."""
    odd: tuple[Callable[[], Any], ...] = ()
    """More values for changes of structure; each makes a new one."""

    def strategy(self) -> st.SearchStrategy[bytes]:
        """Mutations of the seeds."""
        return mutated(self.cached_seeds(), words=self.words, parse=self.parse, dump=self.dump, odd=self.odd)

    def cached_seeds(self) -> Sequence[bytes]:
        """The seeds, made once."""
        return _seeds(self)

    def attempt(self, data: bytes) -> BaseException | None:
        """Read a file with these contents.

        Returns:
            How the reader refused it; None if it did not.

        Raises:
            AssertionError: if it refused in more than a line.
            BaseException: any other way than the allowed ones.
        """
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / self.file
            path.parent.mkdir(parents=True, exist_ok=True)
            if self.beside is not None:
                self.beside(path.parent)
            path.write_bytes(data)
            try:
                self.read(path)
            except self.allowed as error:
                said = str(error)
                assert said and said.isprintable() and len(said) < LONGEST_MESSAGE, (
                    f"not a line: {said!r:.300}"
                )
                return error
        return None


@cache
def _seeds(target: Target) -> Sequence[bytes]:
    return target.seeds()


def read_json(data: bytes) -> Any:
    """`Target.parse` of a JSON file."""
    return json.loads(data)


def write_json(value: Any) -> bytes:
    """`Target.dump` of a JSON file."""
    return json.dumps(value).encode()
