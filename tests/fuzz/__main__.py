"""Fuzz a reader.

`python -m tests.fuzz` lists the readers; `python -m tests.fuzz NAME --seconds 600 --seed 3` tries one.
A file that crashes one is written to `--keep`; once mended, it belongs into `tests/fuzz/seeds/NAME/`.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import resource
import sys
from pathlib import Path

from bench.report import positive
from tests.fuzz.campaign import campaign
from tests.fuzz.targets import TARGETS

MEMORY = 8 << 30
"""Bytes of address space: a reader that wants more gets a MemoryError, and the machine lives on."""


def main() -> int:
    """Run one campaign; returns 1 if something crashed."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("name", nargs="?", choices=sorted(TARGETS))
    parser.add_argument("--seconds", type=positive, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=Path("crashes"), help="folder for the files that crash")
    options = parser.parse_args()
    if options.name is None:
        print("\n".join(sorted(TARGETS)))
        return 0
    logging.disable(logging.WARNING)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    result = campaign(TARGETS[options.name], options.seconds, options.seed)
    for place, (data, trace) in result.crashes.items():
        kept = options.keep / f"{options.name}-{hashlib.sha256(data).hexdigest()[:12]}"
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_bytes(data)
        print(f"{place}\n{trace}{kept}\n")
    print(
        f"{options.name}: {result.tried} files tried, {result.refused} refused in a line, "
        f"{result.tried - result.refused - len(result.crashes)} read, {len(result.crashes)} kinds of crash"
    )
    return bool(result.crashes)


if __name__ == "__main__":
    sys.exit(main())
