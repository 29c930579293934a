"""Makers of blocks that misbehave; in a module of their own, so that spawned processes find them."""

import os
import time
from pathlib import Path

from distill.errors import DataError


class FileMaker:
    """Writes a file for each block, with the process and the device that made it.

    Of the kinds "killed", "mistake", "full" and "slow" block 3 never ends well.
    """

    device = ""

    def __init__(self, folder: Path):
        self.folder = folder

    def missing(self, kind: str, n_blocks: int) -> list[int]:
        return [block for block in range(n_blocks) if not (self.folder / f"{kind}-{block}").exists()]

    def __call__(self, kind, block, tick):
        if block == 3:
            self.go_wrong(kind)
        tick(2)
        (self.folder / f"{kind}-{block}").write_text(f"{os.getpid()} {self.device}")
        return True

    def go_wrong(self, kind):
        if kind == "killed":
            os._exit(9)
        if kind == "mistake":
            raise DataError("block 3 is bad")
        if kind == "full":
            raise OSError(28, "No space left on device", "labels")
        if kind == "slow":
            (self.folder / "slow").write_text(str(os.getpid()))
            time.sleep(600)
