"""Write sox_bands.npz: the impulse responses of `sinc -a 120 HIGH-LOW` for random bands; needs a sox binary.

python -m tests.distill.distortions.make_sox_bands
"""

from pathlib import Path

import numpy as np

from bench import sox
from bench.sox_accuracy import sinc
from distill.distortions import Distorter

N_BANDS, REACH = 60, 200


def main() -> None:
    """Draw bands as WavAugment does and send an impulse through each."""
    impulse = np.zeros(2000, dtype=np.float32)
    impulse[1000] = 0.5  # sox clips at 1
    plan = Distorter.from_config("2-dist").plan([f"band {i}" for i in range(N_BANDS)], seed=1)
    edges = np.array([(p.low_hz, p.high_hz) for p in plan])
    responses = [2 * sox.apply(impulse, *sinc(*pair))[1000 - REACH : 1001 + REACH] for pair in edges]
    np.savez_compressed(Path(__file__).with_name("sox_bands.npz"), edges_hz=edges, responses=responses)


if __name__ == "__main__":
    main()
