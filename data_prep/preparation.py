"""From a corpus on disk to verified manifests: what all published corpora share."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path

from lhotse import MonoCut, SupervisionSegment
from lhotse.supervision import AlignmentItem

from distill.data.files import state_of
from distill.data.recordings import Header
from distill.data_prep.corpus import Clip, Corpus, Split
from distill.data_prep.find import chosen_splits, find_clips, where_to_get
from distill.data_prep.headers import read_headers
from distill.data_prep.ledger import Ledger
from distill.data_prep.manifests import cut_from_header, write_cuts
from distill.data_prep.prepared import Prepared, SplitResult
from distill.data_prep.shards import check_destination, holds_shards, manifest_of_shards, write_shards
from distill.errors import DataError, UsageError
from distill.hashing import hash_lines

logger = logging.getLogger(__name__)

_VERSION = 1  # raise it when the manifests of the same clips change, so that they are made again


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

    Only headers are read. An interrupted call continues where it was. A split that is done is not read again
    unless its lists, or the names, sizes or times of change of its files, have changed. Unreadable files are
    left out and listed in `out/skipped.tsv`; they are tried again next time. A warning names splits that have
    fewer files than published, and those whose audio has changed.

    Args:
        corpus: which one, see `data_prep.PUBLISHED`.
        root: the corpus's folder or the folder that holds it.
        out: folder for the manifests, which name the audio by absolute paths.
        splits: prepare only these.
        jobs: threads.
        shards: also write the audio as Shar shards (16 kHz mono FLAC) to `shards/CORPUS/SPLIT`; a path
            or a URL.

    Raises:
        DataError: the corpus, a split asked for, or a file that its lists name does not exist; or `out` or
            `shards` has files of these names that were not written by this.
        UsageError: there is no such split, or no root was given.
        UserError: shards go to a URL and smart_open is not installed.
        ValueError: jobs is not positive.
    """
    if jobs < 1:
        raise ValueError(f"jobs must be at least 1, not {jobs}")
    if root is None:
        raise UsageError(f"corpus {corpus.name}: say where it is with --root FOLDER ({where_to_get(corpus)})")
    if shards is not None:
        check_destination(shards)
    root, out = Path(root).absolute(), Path(out).absolute()
    chosen = chosen_splits(corpus, splits)
    clips, missing = find_clips(corpus, root, chosen, all_needed=splits is not None)
    ledger = Ledger(out, corpus.name)
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
        ledger.header_cache.unlink(missing_ok=True)  # splits that are done do not need it
    _warn_of_missing_files(corpus, results)
    return Prepared(corpus=corpus, root=root, out=out, results=tuple(results), missing=missing)


def _warn_of_missing_files(corpus: Corpus, results: Sequence[SplitResult]) -> None:
    """Warn of splits with fewer files than published: missing folders are in no list, only in the figures."""
    partial = [result for result in results if result.missing]
    if partial:
        counts = ", ".join(f"{r.split.name} has {r.files + r.skipped} of {r.split.files}" for r in partial)
        logger.warning(
            "%s: fewer files than published: %s; unpack the archives again if that is not meant",
            corpus.name,
            counts,
        )


def _prepare_split(split: Split, clips: list[Clip], ledger: Ledger, jobs: int) -> SplitResult:
    digest, state = _digest(clips), _state(clips, jobs)
    manifest = ledger.manifest(split.name)
    entry = ledger.done(split.name, digest, state)
    if entry is None:
        ledger.claim(split.name)
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
    """A hash that changes with anything that the lists and folders of a split say."""
    state = blake2b(str(_VERSION).encode(), digest_size=16)
    for clip in clips:
        state.update(repr(clip).encode("utf-8", "surrogateescape"))
    return state.hexdigest()


def _state(clips: Sequence[Clip], jobs: int) -> str:
    """A hash that changes with the size or time of change of any of the audio files."""
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


def _shard_split(result: SplitResult, ledger: Ledger, folder: str, jobs: int) -> None:
    name = result.split.name
    if not ledger.has_shards(name, folder) and holds_shards(folder):
        raise DataError(
            f"{folder} holds shards that were not written by this: they are not overwritten; move or delete "
            "them, or choose another --shards"
        )
    done = ledger.shards(name, folder)
    ledger.claim_shards(name)
    ledger.save()  # they are ours from now on, also after an interruption

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
    ledger.written.note(manifest_of_shards(ledger.manifest(name)).name)
