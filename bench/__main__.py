"""Benchmarks, as ratios measured in one run, and the figures of accuracy: python -m bench [NAME]."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

GOLDEN = Path(__file__).parents[1] / "tests" / "golden" / "sox_effects.npz"


def main() -> int:
    """Run one benchmark, or all."""
    os.environ["OMP_NUM_THREADS"] = "1"  # read when torch and numba are imported, below
    from bench import (
        adapt,
        cca,
        distortions,
        heads,
        manifest,
        onnx_latency,
        pretrain,
        sox_accuracy,
    )

    benchmarks = {
        "distortions": distortions.main,
        "sox-accuracy": sox_accuracy.main,
        "manifest": manifest.main,
        "onnx-latency": onnx_latency.main,
        "adapt": adapt.main,
        "heads": heads.main,
        "cca": cca.main,
        "pretrain": pretrain.main,
    }
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("name", nargs="?", choices=sorted(benchmarks), help="default: all")
    parser.add_argument("--rounds", type=int, default=7, help="rounds to take the median of (7)")
    parser.add_argument("--golden", type=Path, default=GOLDEN, help="sox's outputs (%(default)s)")
    options = parser.parse_args()
    if not options.golden.is_file():
        print(f"bench: {options.golden} is missing: name sox_effects.npz with --golden", file=sys.stderr)
        return 1
    for name, benchmark in benchmarks.items():
        if options.name in (None, name):
            benchmark(options.golden, options.rounds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
