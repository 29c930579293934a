"""Where speech and noise come from: manifests, tables, folders."""

from __future__ import annotations

import functools
import logging
import operator
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from lhotse import CutSet, MonoCut, Recording

from distill.audio import reason
from distill.errors import DataError
from distill.files import audio_files
from distill.hashing import hash_number
from distill.manifest import Cuts, JoinedCuts, ListedCuts, ManifestCuts

logger = logging.getLogger(__name__)


def open_cuts(sources: str | Path | Sequence[str]) -> CutSet:
    """Open speech or noise.

    Args:
        sources: one or several of: a lhotse cut manifest (.jsonl, .jsonl.gz; opened lazily), a TSV with a
            header and a column `path` (relative to the TSV), a folder of audio (searched recursively).
            `FILE.tsv?column=value&column=value` keeps the rows that match; `SOURCE?part=0.9-1`, of any kind,
            the tenth whose names' hashes are the highest: `part=0-0.9` has the others.

    Raises:
        DataError: for a source that is missing, empty or of another kind.
    """
    if isinstance(sources, str | Path):
        sources = [str(sources)]
    if not sources:
        raise DataError(
            "no source of audio given: name a manifest, TSV or folder in the recipe's data section"
        )
    opened = [_open_source(source) for source in sources]
    return functools.reduce(operator.add, opened)


def index_cuts(sources: str | Path | Sequence[str]) -> Cuts:
    """Open speech or noise for reading in any order; the same sources as for `open_cuts`.

    Manifests get an index on disk the first time (`ManifestCuts`), the rest is held in memory.

    Raises:
        DataError: as `open_cuts`, or for a manifest with a line that is no cut.
    """
    if isinstance(sources, str | Path):
        sources = [str(sources)]
    if not sources:
        open_cuts(sources)  # says so
    opened = [open_cuts([source]) for source in sources]  # what is amiss is said before any index is made
    parts = [
        ManifestCuts(source) if cuts.is_lazy else ListedCuts(list(cuts))
        for source, cuts in zip(sources, opened, strict=True)
    ]
    return parts[0] if len(parts) == 1 else JoinedCuts(parts)


def _open_source(source: str) -> CutSet:
    location, _, query = source.partition("?")
    path = Path(location)
    if not path.exists():
        advice = f"; {how_to_make(path)}" if path.name.endswith(".jsonl.gz") else ""
        raise DataError(f"{location} does not exist{advice}")
    conditions = [pair.partition("=")[::2] for pair in query.split("&") if pair]
    part = next((read_part(value, source) for name, value in conditions if name == "part"), None)
    wanted = {name: value for name, value in conditions if name != "part"}
    if wanted and path.suffix != ".tsv":
        raise DataError(f"{source}: only the rows of a .tsv can be chosen with ?column=value")
    if path.is_dir():
        cuts = _cuts_from_files(
            [(str(p.relative_to(path).with_suffix("")), p, {}) for p in audio_files(path)]
        )
    elif path.name.endswith((".jsonl", ".jsonl.gz")):
        cuts = CutSet.from_jsonl_lazy(path)
    elif path.suffix == ".tsv":
        cuts = _cuts_from_tsv(path, wanted)
    else:
        raise DataError(f"{location}: expected a .jsonl.gz manifest, a .tsv or a folder of audio")
    try:
        if part is not None:
            cuts = cuts.filter(lambda cut: within(part, cut)).to_eager()
        empty = next(iter(cuts), None) is None
    except Exception as error:  # noqa: BLE001 lhotse raises whatever its parser does
        raise DataError(f"{location}: not a lhotse cut manifest ({error})") from None
    if empty:
        if path.is_dir() and next(path.rglob("cuts.*.jsonl.gz"), None):
            advice = f"make their manifest with distill data prepare shar --root {path} --out FOLDER"
            raise DataError(f"{location} holds Shar shards: {advice}")
        raise DataError(f"{source} has no audio: nothing in it (or no row) matches")
    return cuts


def how_to_make(path: Path) -> str:
    """What to do about a missing source: the command, if it is where `distill data prepare` would put it."""
    from data_prep import CORPORA, PUBLISHED

    corpus, split = path.parent.name, path.name.removesuffix(".jsonl.gz")
    if path.name == split or corpus not in CORPORA:
        return (
            "name the folder of your manifests (data.root=..., evaluate: --data), or other sources "
            "(data.train, evaluate: sources.train=... label=...)"
        )
    splits = [part.name for part in PUBLISHED[corpus].splits] if corpus in PUBLISHED else [split]
    if split not in splits:
        return f"{corpus} has no split {split}: name one of {', '.join(splits)}"
    root = " --root FOLDER" if corpus in PUBLISHED else ""
    return f"distill data prepare {corpus}{root} --out {path.parent}"


def read_part(text: str, source: str) -> tuple[float, float]:
    """Two numbers: "0.9-1" -> (0.9, 1.0).

    Raises:
        DataError: if it is no part of 0 to 1.
    """
    try:
        low, high = (float(number) for number in text.split("-"))
    except ValueError:
        low = high = 0.0
    if not 0 <= low < high <= 1:
        raise DataError(f"{source}: part={text} must be two numbers of 0 to 1, as in ?part=0.9-1")
    return low, high


def within(part: tuple[float, float], cut: Any) -> bool:
    """Whether the hash of a clip's name falls into a part of [0, 1)."""
    return part[0] <= hash_number("part", cut.id) / 2**64 < part[1]


def _cuts_from_tsv(path: Path, wanted: Mapping[str, str]) -> CutSet:
    lines = path.read_text(encoding="utf-8").splitlines()
    header = lines[0].split("\t") if lines else []
    unknown = [column for column in ("path", *wanted) if column not in header]
    if unknown:
        raise DataError(
            f"{path}: no column {unknown[0]!r} in its header ({', '.join(header) or 'empty file'})"
        )
    entries = []
    for line in lines[1:]:
        row = dict(zip(header, line.split("\t"), strict=False))
        if all(row.get(column) == value for column, value in wanted.items()):
            extra = {name: value for name, value in row.items() if name != "path"}
            entries.append((str(Path(row["path"]).with_suffix("")), path.parent / row["path"], extra))
    if entries and not any(file.exists() for _, file, _ in entries):
        raise DataError(
            f"{path}: no file that it names exists, such as {entries[0][1]}; paths in a TSV are relative to "
            "the folder that the TSV is in"
        )
    return _cuts_from_files(entries)


def _cuts_from_files(entries: list[tuple[str, Path, dict[str, str]]]) -> CutSet:
    """(id, file, columns) -> cuts; headers are read in parallel."""

    def cut(entry: tuple[str, Path, dict[str, str]]) -> MonoCut | None:
        name, file, extra = entry
        try:
            recording = Recording.from_file(file, recording_id=name)
        except Exception as error:  # noqa: BLE001 any broken file
            logger.warning("skipped %s: %s", file, reason(error))
            return None
        if not recording.num_samples:
            logger.warning("skipped %s: it holds no samples", file)
            return None
        made = recording.to_cut()
        made.id = name
        made.custom = dict(extra)
        return made  # pyright: ignore[reportReturnType]

    with ThreadPoolExecutor(8) as pool:
        return CutSet.from_cuts(made for made in list(pool.map(cut, entries)) if made is not None)
