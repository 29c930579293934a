"""Where speech and noise come from: manifests, tables, folders."""

from __future__ import annotations

import functools
import operator
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from lhotse import CutSet, MonoCut
from lhotse.cut import Cut

from distill.data.files import audio_files, check_name, printable, regular_file
from distill.data.lines import CutLines, check_kind
from distill.data.manifest import Cuts, JoinedCuts, ListedCuts, ManifestCuts
from distill.data.recordings import audio_place, read_header, recording_of
from distill.data.tsv import Entry, read_tsv
from distill.data.unusable import unusable_cut
from distill.errors import DataError, MissingSource
from distill.hashing import hash_number


def open_cuts(sources: str | Path | Sequence[str]) -> CutSet:
    """Open speech or noise.

    Args:
        sources: one or several of: a lhotse cut manifest (.jsonl, .jsonl.gz; opened lazily), a TSV with a
            header and a column `path` (relative to the TSV) or fairseq's, a folder of audio (searched
            recursively). Files of the latter two that cannot be used fail when they are read.
            `FILE.tsv?column=value&column=value` keeps the rows that match. `SOURCE?part=0.9-1` keeps, of any
            kind of source, the tenth whose names have the highest hashes; `part=0-0.9` has the others.

    Raises:
        MissingSource: a source does not exist.
        DataError: a source is empty or of another kind, or two files of a TSV or folder have the same path
            but for their suffix.
    """
    if isinstance(sources, str | Path):
        sources = [str(sources)]
    if not sources:
        raise DataError(
            "no source of audio given: name a manifest, TSV or folder in the recipe's data section"
        )
    opened = [_open_source(source) for source in sources]
    return functools.reduce(operator.add, opened)


def index_cuts(sources: str | Path | Sequence[str], *, what: str = "") -> Cuts:
    """Open speech or noise for reading in any order; the same sources as for `open_cuts`.

    Manifests get an index on disk the first time (`ManifestCuts`), the rest is held in memory.

    Args:
        sources: as for `open_cuts`.
        what: a name for them in errors, such as "data.train" or "musan noise".

    Raises:
        DataError: as `open_cuts`, or for a manifest without a line that is a cut.
    """
    try:
        return _index_cuts(sources)
    except DataError as error:
        if what:
            error.args = (f"{what}: {error.args[0]}",)  # the same error: a `MissingSource` has a path
        raise


def _index_cuts(sources: str | Path | Sequence[str]) -> Cuts:
    if isinstance(sources, str | Path):
        sources = [str(sources)]
    if not sources:
        open_cuts(sources)  # says so
    opened = [open_cuts([source]) for source in sources]  # problems are found before any index is made
    parts = [
        ManifestCuts(source) if cuts.is_lazy else ListedCuts(list(cuts))
        for source, cuts in zip(sources, opened, strict=True)
    ]
    return parts[0] if len(parts) == 1 else JoinedCuts(parts)


def _open_source(source: str) -> CutSet:
    location, query = split_query(source)
    path = Path(location)
    if not path.exists():
        raise MissingSource(f"{location} does not exist", path)
    conditions = [pair.partition("=")[::2] for pair in query.split("&") if pair]
    part = next((read_part(value, source) for name, value in conditions if name == "part"), None)
    wanted = {name: value for name, value in conditions if name != "part"}
    if wanted and path.suffix != ".tsv":
        raise DataError(f"{source}: only the rows of a .tsv can be chosen with ?column=value")
    if path.is_dir():
        found = [Entry(str(p.relative_to(path).with_suffix("")), p, {}) for p in audio_files(path)]
        cuts = _cuts_from_files(found, location)
    elif path.name.endswith((".jsonl", ".jsonl.gz")):
        cuts = CutSet(CutLines(path)) if check_kind(path) else CutSet()
    elif path.suffix == ".tsv":
        cuts = _cuts_from_files(read_tsv(regular_file(path), wanted), location)
    else:
        raise DataError(f"{location}: expected a .jsonl.gz manifest, a .tsv or a folder of audio")
    if part is not None:
        chosen: list[Any] = [cut for cut in iter(cuts) if within(part, cut)]  # pyright: ignore
        cuts = CutSet.from_cuts(chosen)
    if next(iter(cuts), None) is None:
        if path.is_dir() and next(path.rglob("cuts.*.jsonl.gz"), None):
            advice = f"make their manifest with distill data prepare shar --root {path} --out FOLDER"
            raise DataError(f"{location} holds Shar shards: {advice}")
        raise DataError(f"{source} has no audio: nothing in it (or no row) matches")
    return cuts


def check_names(cuts: Iterable[Cut | Entry], source: str) -> None:
    """Refuse speech in which two utterances have the same name: labels and lists are kept by name.

    Raises:
        DataError: naming their files.
    """
    owners: dict[str, Cut | Entry] = {}
    for cut in cuts:
        if (other := owners.setdefault(cut.id, cut)) is not cut:
            raise twins(other, cut, source)


def twins(one: Cut | Entry, other: Cut | Entry, source: str) -> DataError:
    """The error for two utterances of the same name."""
    one_file, other_file = (
        f"{cut.file} ({cut.where})".removesuffix(" ()") if isinstance(cut, Entry) else audio_place(cut)
        for cut in (one, other)
    )
    return DataError(f"{source}: {one_file} and {other_file} are both called {one.id}; names must differ")


def split_query(source: str) -> tuple[str, str]:
    """`LOCATION?QUERY` -> (location, query); the location may have question marks in it if it exists."""
    marks = [index for index, letter in enumerate(source) if letter == "?"]
    existing = (end for end in [len(source), *reversed(marks)] if os.path.exists(source[:end]))
    end = next(existing, (marks or [len(source)])[0])
    return source[:end], source[end + 1 :]


def read_part(text: str, source: str) -> tuple[float, float]:
    """Two numbers: "0.9-1" -> (0.9, 1.0).

    Raises:
        DataError: it is not a part of 0 to 1.
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


def _cuts_from_files(entries: list[Entry], source: str) -> CutSet:
    """A cut for each file; headers are read in parallel.

    A file that cannot be used gets a placeholder, so that it is listed and counted as any other utterance
    that cannot be read.
    """
    check_names(entries, source)
    with ThreadPoolExecutor(8) as pool:
        return CutSet.from_cuts(list(pool.map(functools.partial(_cut_from_file, source), entries)))


def _cut_from_file(source: str, entry: Entry) -> MonoCut:
    name = printable(entry.id)
    try:
        check_name(entry.file)
        made: Any = recording_of(entry.file, read_header(entry.file), name).to_cut()
    except DataError as error:
        why = f"{printable(entry.file)}: {str(error).removeprefix(f'{entry.file} ')}"
        row = f"{printable(source)}, {entry.where}: " if entry.where else ""
        return unusable_cut(name, f"{row}{why}", entry.columns)
    made.id = name
    made.custom = dict(entry.columns)
    return made
