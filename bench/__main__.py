"""Benchmarks, as ratios measured in one run, and figures of accuracy.

python -m bench step --help         what one of them measures, and its options
python -m bench all --rounds 3      all of them, each in a process of its own; make bench does that
"""

from __future__ import annotations

import argparse
import importlib
import os
import subprocess
import sys
from pathlib import Path

from bench import report

GOLDEN = Path(__file__).parents[1] / "tests" / "golden" / "sox_effects.npz"
WITH_OPTIONS = {
    "step": "seconds of a distillation step, beside other libraries' models",
    "where": "where the time of a step goes",
    "losses": "losses of 200 steps, beside those of a plain implementation",
    "data": "the data loader, beside a bare decode",
    "students": "what students cost a device: parameters, arithmetic, latency, size",
    "resume": "runs that are killed and resumed, beside one that is not",
}
"""Those that have options of their own."""
ON_ONE_THREAD = {
    "distortions": "the distortions, beside other libraries' and a chain of sox effects",
    "sox-accuracy": "how near reverb, band rejection and pitch are to sox's",
    "several": "several students from one pass of the teacher, beside as many runs",
    "adapt": "masked prediction, and making its targets",
    "pretrain": "SPIRAL's pre-training, beside HuBERT's",
    "heads": "SUPERB's heads, with the feature cache and without",
    "cca": "layer-wise CCA, beside the published code's way",
    "onnx-latency": "latency and accuracy of ONNX exports",
    "manifest": "manifests of up to ten million utterances (writes 5 GB, removed at the end)",
}
"""Those that take --rounds and --golden only."""
ROUNDS = {"step": "--rounds", "where": "--rounds", "data": "--rounds", "students": "--rounds"}
"""The option of the former that says how often."""


def main(arguments: list[str]) -> int:
    """Run one benchmark, or all."""
    what = {**WITH_OPTIONS, **ON_ONE_THREAD}
    if not arguments or arguments[0] in ("-h", "--help"):
        print(f"{__doc__}\n" + "\n".join(f"  {name:<14}{line}" for name, line in what.items()))
        return 0
    name = arguments[0]
    if name == "all":
        return all_of_them(arguments[1:])
    if name not in what:
        print(f"bench: no benchmark is called {name!r}; there are {', '.join(what)}, all", file=sys.stderr)
        return 2
    rest = arguments[1:]
    os.environ.setdefault("KINETO_LOG_LEVEL", "5")  # torch's profiler says there what it does
    os.environ["OMP_NUM_THREADS"] = threads(name, rest)  # read when torch and numba are imported
    module = importlib.import_module(f"bench.{name.replace('-', '_')}")
    if name in WITH_OPTIONS:
        return module.main(rest)
    return on_one_thread(name, module, rest)


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
    parser.add_argument("--rounds", type=report.positive, default=7, help="rounds to take the median of (7)")
    parser.add_argument("--golden", type=Path, default=GOLDEN, help="sox's outputs (%(default)s)")
    options = parser.parse_args(arguments)
    if not options.golden.is_file():
        print(f"bench: {options.golden} is missing: name sox_effects.npz with --golden", file=sys.stderr)
        return 1
    module.main(options.golden, options.rounds)
    return 0


def all_of_them(arguments: list[str]) -> int:
    """Every benchmark in turn; a failed one does not keep the others from running."""
    parser = argparse.ArgumentParser(prog="python -m bench all", description=all_of_them.__doc__)
    parser.add_argument("--rounds", type=report.positive, help="to take medians of (the benchmarks' own)")
    rounds = parser.parse_args(arguments).rounds
    failed = []
    names = [*WITH_OPTIONS, *ON_ONE_THREAD]
    for number, name in enumerate(names, 1):
        print(f"\n== {name} ({number} of {len(names)})", flush=True)
        option = "--rounds" if name in ON_ONE_THREAD else ROUNDS.get(name)
        given = [option, str(rounds)] if option and rounds else []
        if subprocess.run([sys.executable, "-m", "bench", name, *given]).returncode:
            failed.append(name)
    if failed:
        print(f"bench: failed: {', '.join(failed)}", file=sys.stderr)
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
