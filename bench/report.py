"""What every report of a benchmark says: versions, machine, Markdown and JSON."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import platform
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from distill.markdown import table

PACKAGES = ("torch", "torchaudio", "pytorch-lightning", "transformers", "s3prl", "lhotse", "soundfile")


def environment() -> dict[str, Any]:
    """Versions, processor, threads, GPU."""
    import torch

    cuda = torch.cuda.is_available()
    return {
        "python": platform.python_version(),
        "packages": {name: version for name in PACKAGES if (version := _version(name))},
        "cpu": cpu_model(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if cuda else None,
        "cuda": torch.version.cuda if cuda else None,
    }


def heading(found: dict[str, Any]) -> str:
    """The environment in a line or two."""
    versions = ", ".join(f"{name} {version}" for name, version in found["packages"].items())
    where = f"{found['cpu']}, {found['threads']} thread{'s' if found['threads'] > 1 else ''}"
    where += f"; {found['gpu']}, CUDA {found['cuda']}" if found["gpu"] else ""
    return f"{where}\nPython {found['python']}, {versions}"


def cpu_model() -> str:
    """As the system calls it."""
    for line in _cpuinfo():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def has_native_bf16() -> bool:
    """Whether the processor multiplies in bfloat16."""
    flags = next((line.split() for line in _cpuinfo() if line.startswith(("flags", "Features"))), [])
    return any(flag in flags for flag in ("avx512_bf16", "amx_bf16", "bf16"))


def in_rounds(count: int) -> str:
    """How many rounds, in words."""
    return f"{count} round{'s' if count > 1 else ''}"


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Median with least and most."""
    low, high = min(values), max(values)
    return f"{statistics.median(values):.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def positive(word: str) -> int:
    """A whole number above 0, of the command line."""
    if not word.isdecimal() or int(word) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number above 0, not {word}")
    return int(word)


def make_parser(name: str, description: str | None) -> argparse.ArgumentParser:
    """The options of a benchmark; so far --json and --markdown."""
    parser = argparse.ArgumentParser(
        prog=f"python -m bench {name}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", type=Path, help="file to write all figures to")
    parser.add_argument("--markdown", type=Path, help="file to write the tables to, too")
    return parser


def write(options: argparse.Namespace, figures: dict[str, Any], text: str) -> None:
    """The files that were asked for."""
    for path, content in ((options.json, json.dumps(figures, indent=2)), (options.markdown, text)):
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content + "\n", encoding="utf-8")


def rows_to_markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; all but the first column are numbers."""
    return table(header, rows, numbers_from=1)


def _cpuinfo() -> list[str]:
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
