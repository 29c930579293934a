"""`distill` with a fault in the second process; run by test_processes.py in two processes.

Usage: faulty_worker.py FAULT WORD ...
"""

import os
import signal
import sys

import torch

from distill.batch import Batch
from distill.cli import main
from distill.data.dataset import SpeechDataset
from distill.errors import DataError

if __name__ == "__main__":
    torch.set_num_threads(1)
    fault, *words = sys.argv[1:]
    if fault == "other" and os.environ["LOCAL_RANK"] == "1":
        words.append("dat.enabled=true")
    read = SpeechDataset.__getitem__

    def broken(self, item):
        batch = read(self, item)
        if fault == "other" or os.environ["LOCAL_RANK"] == "0" or self.fixed_epoch or item[:2] != (0, 2):
            return batch
        if fault == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if fault == "alone":
            raise DataError("this one alone")
        empty = torch.zeros(0, 400), torch.zeros(0, dtype=torch.int64)
        return Batch([], *empty, position=batch.position, skipped=[("lost", "by the second")])

    SpeechDataset.__getitem__ = broken
    sys.exit(main(words))
