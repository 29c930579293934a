"""Whether the audio of which something was made is still the same, wherever it lies by now."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

from lhotse.cut import Cut

from distill.data.contents import contents_of
from distill.downstream.identity import audio_of
from distill.hashing import hash_lines


class AudioMarks:
    """A mark for each block of utterances: the state of their files, and on a second line what those hold.

    While the state is the same (sizes and times of change) files are not read. Marks of earlier versions have
    no second line.

    Args:
        blocks: the utterances.
    """

    def __init__(self, blocks: Sequence[Sequence[Cut]]):
        self.blocks = blocks
        locations, states = audio_of([cut for block in blocks for cut in block])
        rest = iter(states)
        self.locations = hash_lines(locations)
        self.states = [hash_lines(itertools.islice(rest, len(block))) for block in blocks]
        self.is_here = all(all(state.split("\t")) for state in states)  # URLs have no state
        self.is_moved = False
        """Since the marks were made: then only what files hold is asked for."""
        self._contents: dict[int, str] = {}

    def mark(self, block: int) -> str:
        """What to write down of the audio as it is, or was when a mark of the block was first asked for."""
        if block not in self._contents:
            self._contents[block] = contents_of(self.blocks[block], in_full=True, missing_ok=True)
        return f"{self.states[block]}\n{self._contents[block]}\n"

    def is_of(self, block: int, path: Path) -> bool:
        """Whether the mark in a file is of the same audio."""
        text = path.read_text(encoding="utf-8", errors="replace").strip()
        if text.partition("\n")[0] == self.states[block] and not self.is_moved:
            return True
        return self._holds_the_same(block, text)

    def have_moved(self, paths: Sequence[Path]) -> bool:
        """Whether all marks that are there, one path for each block, are of audio that is here as well."""
        there = [(block, path) for block, path in enumerate(paths) if path.exists()]
        if not there or not self.is_here:
            return False
        return all(
            self._holds_the_same(block, path.read_text(encoding="utf-8", errors="replace"))
            for block, path in there
        )

    def _holds_the_same(self, block: int, text: str) -> bool:
        contents = text.split()[1:]
        return bool(contents) and contents == self.mark(block).split()[1:]
