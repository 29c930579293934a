"""Stand-ins for `ShardMaker` that misbehave; in a module of their own, so that other processes find them."""

import os
from dataclasses import dataclass

from distill.errors import DataError


@dataclass
class PlayedJob:
    folder: str
    layer: int | None = None


class Misbehaving:
    """Writes a file for each shard; shard 3 is killed, or raises."""

    def __init__(self, job, device):
        self.job, self.device = job, device

    def __call__(self, kind, index, tick):
        if index == 3 and kind == "killed":
            os._exit(9)
        if index == 3 and kind == "mistake":
            raise DataError("shard 3 is bad")
        with open(os.path.join(self.job.folder, f"{kind}-{index}"), "w") as file:
            file.write(f"{os.getpid()}")
        tick(2)
