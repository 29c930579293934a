"""Reading the mini corpora."""

import numpy as np
from lhotse import CutSet


def cuts_of(folder, name):
    return list(CutSet.from_file(folder / f"{name}.jsonl.gz"))


def rms_db(samples):
    return 10 * np.log10(np.mean(np.square(samples, dtype=np.float64)))
