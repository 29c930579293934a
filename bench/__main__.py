"""Benchmarks, as ratios measured in one run, and figures of accuracy.

python -m bench                 all of them, each in a process of its own
python -m bench step --help     what one of them measures, and its options
"""

from __future__ import annotations

import argparse
import importlib
import os
import subprocess
import sys
from pathlib import Path

GOLDEN = Path(__file__).parents[1] / "tests" / "golden" / "sox_effects.npz"
ON_ONE_THREAD = (
    *("distortions", "sox-accuracy", "manifest", "onnx-latency"),
    *("adapt", "heads", "cca", "pretrain", "several"),
)
"""Those that take --rounds and --golden only."""
WITH_OPTIONS = ("step", "where", "losses", "data", "resume")
"""Those that have options of their own."""


def main(arguments: list[str]) -> int:
    """Run one benchmark, or all."""
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        add_help=not arguments or arguments[0].startswith("-"),
    )
    parser.add_argument(
        "name", nargs="?", choices=sorted((*ON_ONE_THREAD, *WITH_OPTIONS)), help="default: all"
    )
    options, rest = parser.parse_known_args(arguments[:1])
    if options.name is None:
        return all_of_them(arguments)
    rest = arguments[1:]
    os.environ["OMP_NUM_THREADS"] = threads(options.name, rest)  # read when torch and numba are imported
    module = importlib.import_module(f"bench.{options.name.replace('-', '_')}")
    if options.name in WITH_OPTIONS:
        return module.main(rest)
    return on_one_thread(options.name, module, rest)


def threads(name: str, arguments: list[str]) -> str:
    """What --threads says, where a benchmark has it, else 1."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--threads", default="1")
    return parser.parse_known_args(arguments)[0].threads if name in WITH_OPTIONS else "1"


def on_one_thread(name: str, module, arguments: list[str]) -> int:
    """One of the benchmarks that have no other options."""
    parser = argparse.ArgumentParser(
        prog=f"python -m bench {name}",
        description=module.__doc__,
        epilog=f"example: python -m bench {name} --rounds 3",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=7, help="rounds to take the median of (7)")
    parser.add_argument("--golden", type=Path, default=GOLDEN, help="sox's outputs (%(default)s)")
    options = parser.parse_args(arguments)
    if not options.golden.is_file():
        print(f"bench: {options.golden} is missing: name sox_effects.npz with --golden", file=sys.stderr)
        return 1
    module.main(options.golden, options.rounds)
    return 0


def all_of_them(arguments: list[str]) -> int:
    """Every benchmark in turn; a failed one does not keep the others from running.

    Options are for those that have no others.
    """
    codes = {}
    for name in (*ON_ONE_THREAD, *WITH_OPTIONS):
        print(f"\n== {name}", flush=True)
        given = arguments if name in ON_ONE_THREAD else []
        codes[name] = subprocess.run([sys.executable, "-m", "bench", name, *given]).returncode
    failed = [name for name, code in codes.items() if code]
    if failed:
        print(f"bench: failed: {', '.join(failed)}", file=sys.stderr)
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
