"""From a corpus on disk to verified manifests: what all published corpora share."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

from lhotse import MonoCut, SupervisionSegment
from lhotse.supervision import AlignmentItem
from tqdm import tqdm

from distill.atomic import read_json, write_json, write_text
from distill.data.files import printable, state_of
from distill.data.recordings import Header
from distill.data_prep.corpus import Clip, Corpus, Split
from distill.data_prep.headers import read_headers
from distill.data_prep.manifests import cut_from_header, write_cuts
from distill.data_prep.shards import check_destination, write_shards
from distill.errors import DataError, UsageError
from distill.hashing import hash_lines

logger = logging.getLogger(__name__)

_VERSION = 1  # raise it when the manifests of the same clips change, so that prepared folders are made anew

HOURS_TOLERANCE = 0.05
"""Published hours are rounded, and LibriSpeech's for dev-other and test-other are 3-5 % off the audio."""

Clips = Mapping[str, list[Clip]]
"""Split -> its clips."""


@dataclass(frozen=True, kw_only=True)
class SplitResult:
    """One manifest, beside what its authors publish."""

    split: Split
    utterances: int
    """Cuts in the manifest."""
    files: int
    """Audio files they come from."""
    hours: float
    skipped: int
    """Files left out because they cannot be read."""

    @property
    def missing(self) -> int:
        """Published files that were not there, readable or not."""
        return max(0, (self.split.files or 0) - self.files - self.skipped)

    @property
    def check(self) -> str:
        """What differs, "ok", or "-" where nothing is published."""
        problems = []
        if self.split.files is not None and self.files != self.split.files:
            difference = self.files - self.split.files
            problems.append(f"{abs(difference)} files {'more' if difference > 0 else 'fewer'}")
        if self.split.hours is not None:
            change = self.hours / self.split.hours - 1
            if abs(change) > HOURS_TOLERANCE:
                problems.append(f"{change:+.0%} hours")
        if problems:
            return f"differs: {', '.join(problems)}"
        return "-" if self.split.files is None and self.split.hours is None else "ok"


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """What `prepare` found and wrote; as a string, the table that the command line prints."""

    corpus: Corpus
    root: Path
    out: Path
    results: tuple[SplitResult, ...]
    missing: tuple[str, ...]
    """Splits that are not below the root."""

    def __str__(self) -> str:
        head = ("split", "utterances", "files", "hours", "published", "check")
        rows = [head, *(self._row(result) for result in self.results)]
        widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows
        ]
        lines = [f"{self.corpus.title}: manifests in {self.out}", *(line.rstrip() for line in lines)]
        if self.missing:
            lines.append(f"not below {self.root}: {', '.join(self.missing)} ({self.corpus.source})")
        n_skipped = sum(result.skipped for result in self.results)
        if n_skipped:
            lines.append(f"{n_skipped} unreadable files left out, see {self.out / 'skipped.tsv'}")
        return "\n".join([*lines, f"licence: {self.corpus.licence}"])

    def _row(self, result: SplitResult) -> tuple[str, ...]:
        split = result.split
        published = [f"{split.files} files"] if split.files is not None else []
        published += [f"{split.hours:g} h"] if split.hours is not None else []
        return (
            split.name,
            str(result.utterances),
            str(result.files),
            f"{result.hours:.2f}",
            ", ".join(published) or "unknown",
            result.check,
        )


def prepare(
    corpus: Corpus,
    root: Path | None,
    out: Path,
    *,
    splits: Sequence[str] | None = None,
    jobs: int = 8,
    shards: str | None = None,
) -> Prepared:
    """Write `out/SPLIT.jsonl.gz` for every split of a corpus that is below `root`, and check its size.

    Only headers are read. An interrupted call goes on where it was; a split that is done, and whose lists and
    files have the same names, texts, sizes and times of change as then, is not read again. Unreadable files
    are left out and listed in `out/skipped.tsv`; they are tried again next time. A warning names splits that
    have fewer files than published, and those whose audio has changed.

    Args:
        corpus: which one, see `data_prep.PUBLISHED`.
        root: the corpus's folder or the folder that holds it.
        out: folder for the manifests, which name the audio by absolute paths.
        splits: prepare only these.
        jobs: threads.
        shards: also write the audio as Shar shards (16 kHz mono FLAC) to `shards/CORPUS/SPLIT`; a path
            or a URL.

    Raises:
        DataError: the corpus, a split asked for, or a file that its lists name is not there.
        UsageError: there is no such split, or no root was given.
        UserError: shards go to a URL and smart_open is not installed.
        ValueError: jobs is not positive.
    """
    if jobs < 1:
        raise ValueError(f"jobs must be at least 1, not {jobs}")
    if root is None:
        raise UsageError(f"corpus {corpus.name}: say where it is with --root FOLDER ({_where(corpus)})")
    if shards is not None:
        check_destination(shards)
    root, out = Path(root).absolute(), Path(out).absolute()
    chosen = _chosen(corpus, splits)
    clips, missing = _find(corpus, root, chosen, all_needed=splits is not None)
    ledger = _Ledger(out, corpus.name)
    results = []
    for split in chosen:
        if split.name not in clips:
            continue
        result = _prepare_split(split, clips[split.name], ledger, jobs)
        if shards is not None:
            _shard_split(result, ledger, f"{shards.rstrip('/')}/{corpus.name}/{split.name}", jobs)
        results.append(result)
    ledger.write_skipped()
    if not any(result.skipped for result in results):
        ledger.header_cache.unlink(missing_ok=True)  # a split that is done does not ask for it
    _warn(corpus, results)
    return Prepared(corpus=corpus, root=root, out=out, results=tuple(results), missing=missing)


def _warn(corpus: Corpus, results: Sequence[SplitResult]) -> None:
    """Folders that are missing as a whole are in no list: only the figures show them."""
    partial = [result for result in results if result.missing]
    if partial:
        counts = ", ".join(f"{r.split.name} has {r.files + r.skipped} of {r.split.files}" for r in partial)
        logger.warning(
            "%s: fewer files than published: %s; unpack the archives again if that is not meant",
            corpus.name,
            counts,
        )


def _chosen(corpus: Corpus, names: Sequence[str] | None) -> list[Split]:
    known = {split.name: split for split in corpus.splits}
    for name in names or ():
        if name not in known:
            raise UsageError(f"{corpus.name} has no split {name!r}; there are {', '.join(known)}")
    return [split for split in corpus.splits if names is None or split.name in names]


def _where(corpus: Corpus) -> str:
    return f"get it from {corpus.source}, {corpus.size}"


def _find(
    corpus: Corpus, root: Path, splits: Sequence[Split], *, all_needed: bool
) -> tuple[Clips, tuple[str, ...]]:
    """Clips of the splits that are there, checked against the disk, and the names of the others."""
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; --root names the folder that holds {corpus.layout}")
    clips: dict[str, list[Clip]] = {}
    for split in tqdm(splits, desc="finding files", unit="split", disable=None):
        found = corpus.find(root, split.name)
        if found:
            clips[split.name] = found
    missing = tuple(split.name for split in splits if split.name not in clips)
    if missing and (all_needed or not clips):
        raise DataError(
            f"{root}: {', '.join(missing)} of {corpus.title} not found; expected {corpus.layout} below it "
            f"({_where(corpus)})"
        )
    for name, found in clips.items():
        _check_ids(name, found)
        _check_complete(name, found)
    return clips, missing


def _check_ids(split: str, clips: Sequence[Clip]) -> None:
    owners: dict[str, Path] = {}
    for clip in clips:
        if clip.id in owners and owners[clip.id] == clip.path:
            raise DataError(
                f"{split}: {clip.path} is in the lists twice, as {clip.id}; leave one of them out"
            )
        other = owners.setdefault(clip.id, clip.path)
        if other != clip.path:
            raise DataError(f"{split}: {clip.path} and {other} are both called {clip.id}; keep one of them")
        try:
            os.fspath(clip.path).encode()
        except UnicodeEncodeError:
            name = ascii(os.fspath(clip.path))
            raise DataError(f"{name}: not UTF-8, which manifests are written in; rename it") from None


def _check_complete(split: str, clips: Sequence[Clip]) -> None:
    """Stop at a half-downloaded corpus; one listing per folder is quick on network disks, too."""
    names: dict[Path, set[str]] = {}
    lost = []
    for clip in clips:
        folder = clip.path.parent
        if folder not in names:
            names[folder] = set(os.listdir(folder)) if folder.is_dir() else set()
        if clip.path.name not in names[folder]:
            lost.append(clip.path)
    if lost:
        first = ", ".join(map(str, lost[:3]))
        raise DataError(
            f"{split}: {len(lost)} of its {len(clips)} files are missing, first {first}; "
            "unpack the archive again, or choose other splits"
        )


def _prepare_split(split: Split, clips: list[Clip], ledger: _Ledger, jobs: int) -> SplitResult:
    digest, state = _digest(clips), _state(clips, jobs)
    manifest = ledger.manifest(split.name)
    entry = ledger.done(split.name, digest, state)
    if entry is None:
        label = f"{split.name}: headers"
        headers, broken = read_headers(
            [clip.path for clip in clips], ledger.header_cache, jobs=jobs, label=label
        )
        if not headers:
            raise DataError(
                f"{split.name}: none of its {len(clips)} files can be read, first {clips[0].path}"
            )
        utterances, seconds = write_cuts(_cuts(clips, headers), manifest)
        entry = {
            "digest": digest,
            "state": state,
            "utterances": utterances,
            "files": len(headers),
            "published": split.files,
            "hours": seconds / 3600,
            "skipped": {str(path): reason for path, reason in broken.items()},
        }
        ledger.record(split.name, entry)
    return SplitResult(
        split=split,
        utterances=entry["utterances"],
        files=entry["files"],
        hours=entry["hours"],
        skipped=len(entry["skipped"]),
    )


def _digest(clips: Sequence[Clip]) -> str:
    """Changes with anything that the lists and folders of a split say."""
    state = blake2b(str(_VERSION).encode(), digest_size=16)
    for clip in clips:
        state.update(repr(clip).encode("utf-8", "surrogateescape"))
    return state.hexdigest()


def _state(clips: Sequence[Clip], jobs: int) -> str:
    """Changes with size or time of change of any of the audio files."""
    with ThreadPoolExecutor(jobs) as pool:
        return hash_lines(pool.map(state_of, [clip.path for clip in clips]))


def _cuts(clips: Sequence[Clip], headers: Mapping[Path, Header]) -> Iterator[MonoCut]:
    for clip in clips:
        if clip.path not in headers:
            continue
        cut = cut_from_header(clip.path, headers[clip.path], clip.id)
        cut.custom = dict(clip.custom) or None
        if clip.text is not None or clip.speaker is not None or clip.alignment:
            cut.supervisions = [_supervision(clip, cut.duration)]
        yield from [cut] if clip.pieces_s is None else _pieces(cut, clip.pieces_s)


def _supervision(clip: Clip, duration_s: float) -> SupervisionSegment:
    alignment = {
        tier: [AlignmentItem(symbol, start=start, duration=duration) for symbol, start, duration in intervals]
        for tier, intervals in clip.alignment.items()
    }
    return SupervisionSegment(
        id=clip.id,
        recording_id=clip.id,
        start=0,
        duration=duration_s,
        text=clip.text,
        language="English",
        speaker=clip.speaker,
        alignment=alignment or None,
    )


def _pieces(cut: MonoCut, length_s: float) -> Iterator[MonoCut]:
    for index in range(int(cut.duration / length_s + 1e-6)):
        yield replace(cut, id=f"{cut.id}-{index:03d}", start=index * length_s, duration=length_s)


def _shard_split(result: SplitResult, ledger: _Ledger, folder: str, jobs: int) -> None:
    name = result.split.name
    done = ledger.shards(name, folder)

    def finished(index: int) -> None:
        done.append(index)
        ledger.save()

    write_shards(
        ledger.manifest(name),
        folder,
        n_cuts=result.utterances,
        jobs=jobs,
        done=frozenset(done),
        finished=finished,
    )


class _Ledger:
    """`prepared.json`: what has been done in an output folder."""

    def __init__(self, out: Path, corpus: str):
        self.out = out
        self.path = out / "prepared.json"
        self.header_cache = out / ".headers.jsonl"
        self.content: dict[str, Any] = {"corpus": corpus, "splits": {}}
        if self.path.is_file():
            try:
                found = read_json(self.path)
            except ValueError:
                found = self.content  # begins anew
            owner = found.get("corpus", "mini")
            if owner != corpus:
                raise DataError(f"{out} holds the manifests of {owner}; choose another --out for {corpus}")
            self.content = found

    def manifest(self, split: str) -> Path:
        return self.out / f"{split}.jsonl.gz"

    def done(self, split: str, digest: str, state: str) -> dict[str, Any] | None:
        """What was recorded of a split that need not be prepared again; says so if its audio has changed."""
        entry = self.content["splits"].get(split)
        if entry is None or entry["digest"] != digest or entry["skipped"]:
            return None
        if not self.manifest(split).is_file():
            return None
        if (known := entry.get("state")) == state:
            return entry
        why = "audio files have changed since it was prepared (size or time of change)"
        if known is None:
            why = "it was prepared by a version that did not note the state of the audio files"
        logger.warning("%s: %s: it is prepared again", split, why)
        return None

    def record(self, split: str, entry: dict[str, Any]) -> None:
        """Keeps the list of shards if they are of the same files, of which the same were left out."""
        old = self.content["splits"].get(split, {})
        noted = ("state",) if "state" in old else ("utterances", "files", "hours")
        same = all(old.get(key) == entry[key] for key in ("digest", "skipped", *noted))
        self.content["splits"][split] = entry | {"shards": old["shards"] if same else {}}
        self.save()

    def shards(self, split: str, folder: str) -> list[int]:
        """Numbers of the shards that are complete in a folder; append to it and save."""
        return self.content["splits"][split]["shards"].setdefault(folder, [])

    def save(self) -> None:
        write_json(self.path, self.content, indent=1)

    def write_skipped(self) -> None:
        """`skipped.tsv`, over all splits prepared so far."""
        lines = ["path\treason\n"]
        for entry in self.content["splits"].values():
            lines += [f"{path}\t{' '.join(reason.split())}\n" for path, reason in entry["skipped"].items()]
        write_text(self.out / "skipped.tsv", printable("".join(lines)))
