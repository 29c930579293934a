"""Benchmarks, as ratios measured in one run: python -m bench [NAME]."""

from __future__ import annotations

import argparse

from bench import distortions

BENCHMARKS = {"distortions": distortions.main}


def main() -> None:
    """Run one benchmark, or all."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("name", nargs="?", choices=sorted(BENCHMARKS), help="default: all")
    parser.add_argument("--rounds", type=int, default=7, help="rounds to take the median of (7)")
    options = parser.parse_args()
    for name, benchmark in BENCHMARKS.items():
        if options.name in (None, name):
            benchmark(options.rounds)


if __name__ == "__main__":
    main()
