"""Alignments of words and phones: TextGrid files, CTM files, or those that lhotse supervisions hold."""

from __future__ import annotations

import itertools
import logging
import math
import re
from collections import defaultdict
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from distill.analysis.cca.ctm import read_ctm
from distill.analysis.cca.segments import HOP, Interval
from distill.analysis.cca.textgrid import Tier, read_textgrid
from distill.data.files import files_below
from distill.errors import DataError, UsageError, first_line, listed
from distill.waveforms import SAMPLE_RATE

logger = logging.getLogger(__name__)

SUPERVISIONS = "supervisions"
"""The name, as a source, of what the manifest itself holds."""
TOLERANCE_S = HOP / SAMPLE_RATE
"""One frame. Aligners count in steps of 10 to 30 ms, and files round: times may be off by as much."""
_NAMES = {"word": "words?", "phone": "phones?|phonemes?"}

Alignments = dict[str, list[Interval]]
"""Intervals by utterance, in the order of time; stretches without a label are left out."""


def read_alignments(source: str | None, cuts: Iterable[Any], tier: str) -> Alignments:
    """Words or phones of speech, in seconds from the start of each cut.

    A file belongs to the utterance of its name; folders above it need only be right where two files have the
    same name. A file that is named after a recording of which the cut is a part counts from the start of the
    recording, as lhotse's alignments always do. Of such a part, intervals that are cut are left out.

    Args:
        source: a folder of TextGrid files, as the Montreal Forced Aligner writes them; a CTM file; or
            "supervisions" or None for `alignment` of the cuts' supervisions.
        cuts: the speech, lhotse cuts.
        tier: "word" or "phone".

    Returns:
        By id of the cut, in the order of `cuts`; utterances without alignment are missing (with a warning).

    Raises:
        UsageError: `tier` is something else.
        DataError: a file cannot be read or does not have the tier, times are negative, beyond the audio or
            overlap, two utterances have the same name, or none has an alignment.
    """
    if tier not in _NAMES:
        raise UsageError(f"a tier is word or phone, not {tier!r}")
    by_id = _by_id(cuts)
    if source is None or source == SUPERVISIONS:
        found = {name: _of_supervisions(cut, tier) for name, cut in by_id.items()}
        named = "the supervisions of the speech"
    else:
        found, named = _of_files(Path(source), by_id, tier), str(source)
    aligned = {name: intervals for name, intervals in found.items() if intervals is not None}
    _report_missing(named, tier, by_id, aligned)
    return aligned


def _by_id(cuts: Iterable[Any]) -> dict[str, Any]:
    by_id: dict[str, Any] = {}
    for cut in cuts:
        if by_id.setdefault(cut.id, cut) is not cut:
            raise DataError(f"two utterances are called {cut.id}: alignments are found by name")
    return by_id


def _report_missing(named: str, tier: str, cuts: Mapping[str, Any], aligned: Alignments) -> None:
    missing = [name for name in cuts if name not in aligned]
    if not aligned:
        held = {one for cut in cuts.values() for _, each in _parts(cut) for one in each.alignment or {}}
        hint = f" (the supervisions have {', '.join(sorted(held))})" if held else ""
        raise DataError(
            f"{named}: no {tier} alignment of any of {len(cuts)} utterances, such as {listed(missing[:1])}"
            f"{hint}: give a folder of TextGrid files or a CTM file with these names"
        )
    if missing:
        logger.warning(
            "%s: %d of %d utterances have no %s alignment and are left out: %s",
            *(named, len(missing), len(cuts), tier, listed(missing)),
        )


class _Place(NamedTuple):
    """Where the times of a list of intervals begin, and where they may be."""

    where: str
    """For messages: a file, an utterance."""
    offset_s: float
    """From the start of the list's time to that of the cut."""
    total_s: float
    """Length of the audio that the list is about."""
    cut_s: float
    """Length of the cut."""


def _placed(intervals: Iterable[Interval], place: _Place) -> list[Interval]:
    """Intervals in the time of the cut, in order; those that are not inside it, or empty, left out."""
    checked = [_checked(interval, place) for interval in intervals if interval.symbol.strip()]
    ordered = sorted((one for one in checked if one.end_s > one.start_s), key=lambda one: one[1:])
    if empty := len(checked) - len(ordered):
        logger.warning("%s: %d intervals of no length are left out", place.where, empty)
    for one, other in zip(ordered, ordered[1:], strict=False):
        if one.end_s > other.start_s + TOLERANCE_S:
            raise DataError(f"{place.where}: {_shown(one)} and {_shown(other)} overlap")
    moved = (one._replace(start_s=one[1] - place.offset_s, end_s=one[2] - place.offset_s) for one in ordered)
    inside = (one for one in moved if one[1] >= -TOLERANCE_S and one[2] <= place.cut_s + TOLERANCE_S)
    clipped = (Interval(one.symbol, max(one[1], 0.0), min(one[2], place.cut_s)) for one in inside)
    return [one for one in clipped if one.end_s > one.start_s]


def _checked(interval: Interval, place: _Place) -> Interval:
    symbol, start_s, end_s = interval
    if not (math.isfinite(start_s) and math.isfinite(end_s)):
        raise DataError(f"{place.where}: {_shown(interval)} has a time that is not finite")
    if end_s < start_s:
        raise DataError(f"{place.where}: {_shown(interval)} ends before it begins")
    if start_s < -TOLERANCE_S:
        raise DataError(f"{place.where}: {_shown(interval)} begins before the audio")
    if end_s > place.total_s + TOLERANCE_S:
        raise DataError(
            f"{place.where}: {_shown(interval)} is beyond the audio, which has {place.total_s:.3f} s"
        )
    return interval._replace(symbol=symbol.strip())


def _shown(interval: Interval) -> str:
    return f"{listed([interval.symbol])!r} ({interval.start_s:.3f}-{interval.end_s:.3f} s)"


def _parts(cut: Any) -> Iterator[tuple[Any, Any]]:
    """The parts of a cut with the supervisions in them: several in a mixture."""
    for track in getattr(cut, "tracks", None) or [cut]:
        part = getattr(track, "cut", track)
        for supervision in getattr(part, "supervisions", ()):
            yield track, supervision


def _of_supervisions(cut: Any, tier: str) -> list[Interval] | None:
    """Their times count from the start of the recording, wherever the cut itself begins."""
    found: list[Interval] | None = None
    for track, supervision in _parts(cut):
        part, begins_s = getattr(track, "cut", track), getattr(track, "offset", 0.0)
        items = next(
            (items for name, items in (supervision.alignment or {}).items() if _is_called(name, tier)), None
        )
        if items is None:
            continue
        recording_s = part.recording.duration if getattr(part, "recording", None) else part.end
        place = _Place(f"{cut.id} ({tier}s)", part.start - begins_s, recording_s, cut.duration)
        intervals = _as_intervals(items, place.where)
        _check_inside(intervals, supervision, part.start, place)
        found = (found or []) + _placed(intervals, place)
    if found is None:
        return None
    return _placed(found, _Place(f"{cut.id} ({tier}s)", 0.0, cut.duration, cut.duration))  # of all together


def _as_intervals(items: Iterable[Any], where: str) -> list[Interval]:
    try:
        return [
            Interval(str(item.symbol), float(item.start), float(item.start) + float(item.duration))
            for item in items
        ]
    except (AttributeError, TypeError, ValueError) as error:
        raise DataError(f"{where}: an item is not [SYMBOL, START, DURATION] ({first_line(error)})") from None


def _check_inside(intervals: Sequence[Interval], supervision: Any, start_s: float, place: _Place) -> None:
    """Refuse alignments that count from somewhere else: they are nowhere near what was said."""
    first, last = start_s + supervision.start, start_s + supervision.end
    for one in intervals:
        if one.symbol.strip() and (one.end_s < first - TOLERANCE_S or one.start_s > last + TOLERANCE_S):
            raise DataError(
                f"{place.where}: {_shown(one)} is outside its supervision ({first:.3f}-{last:.3f} s); the "
                "times of a supervision's alignments count from the start of the recording"
            )


def _is_called(name: str, tier: str) -> bool:
    """Whether a tier holds words or phones, by its name: `words`, `Phone`, `SPEAKER - words`."""
    return re.fullmatch(f"(.* - )?({_NAMES[tier]})", name.strip(), re.IGNORECASE | re.DOTALL) is not None


class _Entry(NamedTuple):
    """The alignment of a name, not read yet."""

    where: str
    read: Callable[[], list[Interval]]


def _of_files(source: Path, cuts: Mapping[str, Any], tier: str) -> dict[str, list[Interval] | None]:
    """By id of the cut, from TextGrid files or a CTM."""
    if not source.exists():
        raise DataError(f"{source} does not exist; alignments are a folder of TextGrid files or a CTM file")
    if source.is_dir() or source.suffix.lower() == ".textgrid":
        entries = _textgrids(source, tier)
    else:
        wanted = {_last(name) for cut in cuts.values() for name, _ in _names_of(cut)}
        entries = {
            name: _Entry(f"{source}, {name}", partial(list, intervals))
            for name, intervals in read_ctm(source, lambda name: _last(name) in wanted).items()
        }
    found: dict[str, list[Interval] | None] = dict.fromkeys(cuts)
    matched = _matched(source, list(entries), cuts)
    for cut_id, (name, of_recording) in tqdm(matched.items(), desc=f"{tier}s", unit="file", disable=None):
        cut, entry = cuts[cut_id], entries[name]
        offset_s, total_s = (cut.start, cut.recording.duration) if of_recording else (0.0, cut.duration)
        found[cut_id] = _placed(entry.read(), _Place(entry.where, offset_s, total_s, cut.duration))
    return found


def _textgrids(source: Path, tier: str) -> dict[str, _Entry]:
    paths = files_below(source, {".textgrid"}) if source.is_dir() else [source]
    if not paths:
        raise DataError(f"{source} holds no TextGrid files (NAME.TextGrid)")
    home = source if source.is_dir() else source.parent
    entries: dict[str, _Entry] = {}
    for path in paths:
        name = path.relative_to(home).with_suffix("").as_posix()
        if name in entries:
            raise DataError(f"{entries[name].where} and {path} have the same name but for their suffix")
        entries[name] = _Entry(str(path), partial(_of_textgrid, path, tier))
    return entries


def _names_of(cut: Any) -> list[tuple[str, bool]]:
    """What a file for a cut may be called, and whether its times then count from the recording's start."""
    recording = getattr(cut, "recording", None)
    if recording is None:
        return [(cut.id, False)]
    return [(recording.id, True)] if cut.id == recording.id else [(cut.id, False), (recording.id, True)]


def _last(name: str) -> str:
    return name.rpartition("/")[2]


def _matched(source: Path, names: Sequence[str], cuts: Mapping[str, Any]) -> dict[str, tuple[str, bool]]:
    """By id of the cut, the name of its alignment and whether that is about the whole recording."""
    by_last: dict[str, list[str]] = defaultdict(list)
    for name in names:
        by_last[_last(name)].append(name)
    matched: dict[str, tuple[str, bool]] = {}
    owners: dict[str, str] = {}
    exact = set(names) & {called for cut in cuts.values() for called, _ in _names_of(cut)}
    for cut_id, cut in cuts.items():
        for called, of_recording in _names_of(cut):
            name = called if called in exact else _nearest(source, called, by_last[_last(called)], exact)
            if name is None:
                continue
            owner = owners.setdefault(name, called)
            if owner != called:
                raise DataError(f"{source}: {name} may be the alignment of {owner} or of {called}")
            matched[cut_id] = (name, of_recording)
            break
    return matched


def _nearest(source: Path, called: str, names: Sequence[str], taken: Container[str]) -> str | None:
    """The one of the names, equal but for their folders, that has most of the folders right."""
    free = [name for name in names if name not in taken]
    shared = {name: _shared_folders(called, name) for name in free}
    best = [name for name in free if shared[name] == max(shared.values())]
    if len(best) > 1:
        raise DataError(f"{source}: {listed(best)} may all be the alignment of {called}")
    return best[0] if best else None


def _shared_folders(one: str, other: str) -> int:
    pairs = zip(reversed(one.split("/")), reversed(other.split("/")), strict=False)
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))


def _of_textgrid(path: Path, tier: str) -> list[Interval]:
    tiers = read_textgrid(path)
    chosen: list[Tier] = [one for one in tiers if _is_called(one.name, tier)]
    if not chosen:
        raise DataError(f"{path} has no tier of {tier}s; its tiers are {listed([t.name for t in tiers], 8)}")
    intervals: list[Interval] = []
    for one in chosen:
        if one.intervals is None:
            raise DataError(f"{path}: the tier {listed([one.name])} has points, not intervals")
        intervals += one.intervals
    return intervals
