"""What a source of audio holds, and whether its files exist and are what the manifest says."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from lhotse import Recording
from lhotse.audio import AudioSource
from lhotse.cut import Cut
from tqdm import tqdm

from distill.data.audio import read_audio, silent_throughout
from distill.data.files import regular_file
from distill.data.opening import check_audio
from distill.data.patience import patiently
from distill.data.recordings import audio_place, file_rate, read_header, recordings_of
from distill.data.shar import place_of
from distill.data.sources import index_cuts, split_query
from distill.data.stores import local_path
from distill.data.unusable import why_unusable
from distill.distortions.reverb import usable_rir
from distill.errors import DataError

Kind = Literal["speech", "noise", "rooms"]

_JOBS = 16  # threads: file systems of clusters answer slowly, but many at once
_CHUNK = 256  # utterances that a thread looks at in one go
MOST_STATS = 1_000_000  # utterances of a source whose files are looked up: this takes about a minute
_TOLERANCE_S = 0.01  # by which a file's length may differ from what its manifest says


@dataclass(kw_only=True)
class Survey:
    """What was found."""

    exists: bool = True
    error: str = ""
    """Why nothing in it can be used."""
    utterances: int = 0
    hours: float = 0.0
    looked_for: int = 0
    """Utterances whose files were looked up, opened or not."""
    looked_at: int = 0
    """Utterances whose files were opened as well."""
    bad: list[str] = field(default_factory=list)
    """`FILE: what is wrong with it`, in the order of the source."""
    bad_share: float = 0.0
    """Estimated share of the utterances that cannot be used."""
    unprepared: str = ""
    """How many fewer files were prepared than its authors publish; "" if none are known to be missing."""


def survey(source: str, *, sample: int | None, seed: int, kind: Kind = "speech") -> Survey:
    """Open a source as training does, and look at its files.

    Whether files exist is looked up for all utterances of a manifest, at most `MOST_STATS`. The files of a
    sample are opened, and compared with the manifest in sampling rate and duration. All files of tables and
    folders are opened anyway. Noise and rooms in the sample are also read up to their first sound if they are
    on this machine.

    Args:
        source: as for `open_cuts`.
        sample: number of utterances whose files are opened, drawn at random; None: all.
        seed: of the draw.
        kind: of recordings; speech may be silent.

    Returns:
        What was found. Nothing is raised for broken sources and files.
    """
    path = Path(split_query(source)[0])
    if not path.exists():
        return Survey(exists=False, error=f"{path} does not exist")
    try:
        cuts = index_cuts([source])
    except (DataError, OSError) as error:
        return Survey(error=str(error))
    found = Survey(utterances=len(cuts), hours=cuts.seconds / 3600, unprepared=_unprepared(path))
    opened = _chosen(len(cuts), sample, seed)
    if path.is_dir() or path.suffix == ".tsv":
        asked = looked_at = range(len(cuts))
        lost = {number: why for number, cut in enumerate(cuts) if (why := why_unusable(cut))}
        broken = {}
        found.hours = sum(cut.duration for cut in cuts if not why_unusable(cut)) / 3600
    else:
        asked, looked_at = _chosen(len(cuts), MOST_STATS, seed), opened
        lost = _each(cuts, asked, _lost, f"{path.name}: files")
        broken = _each(
            cuts, [number for number in opened if number not in lost], _broken, f"{path.name}: headers"
        )
    found.looked_for, found.looked_at = len(asked), len(looked_at)
    silent = {}
    if kind != "speech":
        rest = [number for number in opened if number not in lost and number not in broken]
        silent = _each(
            cuts, rest, _silent_noise if kind == "noise" else _silent_room, f"{path.name}: silence"
        )
    found.bad = [problem for _, problem in sorted((lost | broken | silent).items())]
    found.bad_share = len(lost) / len(asked) + len(broken) / len(looked_at) + len(silent) / len(opened)
    return found


def _chosen(count: int, most: int | None, seed: int) -> Sequence[int]:
    """All numbers below `count`, or `most` random ones, in order."""
    if most is None or count <= most:
        return range(count)
    return sorted(random.Random(seed).sample(range(count), most))


def _each(
    cuts: Sequence[Cut], numbers: Sequence[int], look: Callable[[Cut], str], label: str
) -> dict[int, str]:
    """What is wrong with the files of cuts, by number of the cut; good ones are left out."""

    def several(chunk: Sequence[int]) -> dict[int, str]:
        return {number: problem for number in chunk if (problem := _problem_of(cuts, number, look))}

    problems: dict[int, str] = {}
    chunks = [numbers[start : start + _CHUNK] for start in range(0, len(numbers), _CHUNK)]
    with ThreadPoolExecutor(_JOBS) as pool:
        for found in tqdm(pool.map(several, chunks), label, len(chunks), leave=False, disable=None):
            problems |= found
    return problems


def _problem_of(cuts: Sequence[Cut], number: int, look: Callable[[Cut], str]) -> str:
    try:
        return look(cuts[number])
    except DataError as error:
        return str(error)


def _unprepared(manifest: Path) -> str:
    """What `distill data prepare` found to be missing of a split, by the `prepared.json` next to it."""
    try:
        about = json.loads((manifest.parent / "prepared.json").read_text(encoding="utf-8"))
        name = manifest.name.removesuffix(".gz").removesuffix(".jsonl").removesuffix(".shards")
        entry = about["splits"][name]
        files, published = entry["files"] + len(entry["skipped"]), entry["published"]
    except (OSError, ValueError, KeyError, TypeError):
        return ""  # none of ours
    if published is None or files >= published:
        return ""
    return f"only {files} of the {published} published files existed when it was prepared"


def check_files(cuts: Sequence[Cut], source: str) -> None:
    """Refuse an incomplete corpus, as tests need all of it; files are looked up, not opened.

    Args:
        cuts: all that it should have.
        source: its name for messages.

    Raises:
        DataError: naming files that are missing.
    """
    lost = dict.fromkeys(_each(cuts, range(len(cuts)), _lost, f"{Path(source).name}: files").values())
    if lost:
        some = ", ".join(list(lost)[:3]) + (", ..." if len(lost) > 3 else "")
        raise DataError(
            f"{source}: {len(lost)} audio files of {len(cuts)} utterances cannot be used: {some}; fetch the "
            "rest of the corpus, or prepare it again where it is now"
        )


def _lost(cut: Cut) -> str:
    """Which of an utterance's files does not exist, or why its audio is refused; "" if neither."""
    if why := why_unusable(cut):
        return why
    try:
        check_audio(cut)
    except DataError as error:
        return f"{cut.id}: {error}"
    for source in [source for recording in recordings_of(cut) for source in recording.sources]:
        problem = _problem_of_source(source)
        if problem:
            return f"{source.source}: {problem}"
    return ""


def _broken(cut: Cut) -> str:
    """Which of an utterance's files is not what the manifest says; "" if all are."""
    for recording in recordings_of(cut):
        for source in recording.sources:
            if source.type == "file" and (problem := _broken_file(str(source.source), recording)):
                return f"{source.source}: {problem}"
    return ""


def _silent_noise(cut: Cut) -> str:
    """Says that a recording of noise is silent throughout, if it is."""
    return _says_silent(cut) if _is_here(cut) and silent_throughout(cut) else ""


def _silent_room(cut: Cut) -> str:
    return _says_silent(cut) if _is_here(cut) and not usable_rir(read_audio(cut)) else ""


def _says_silent(cut: Cut) -> str:
    return f"{audio_place(cut)}: holds nothing but silence"


def _is_here(cut: Cut) -> bool:
    """Whether all audio of a cut is on this machine."""
    sources = [source for recording in recordings_of(cut) for source in recording.sources]
    return all(source.type == "memory" or local_path(str(source.source)) is not None for source in sources)


def _problem_of_source(source: AudioSource) -> str:
    """What is wrong with a file or shard; "" if nothing, or if it is not on this machine."""
    if source.type == "memory":
        return ""
    what, place, n_bytes = "", str(source.source), 1
    try:
        if source.type == "shar":
            tar, offset, length = place_of(source)
            what, place, n_bytes = "its shard ", tar, offset + length
        local = local_path(place)
        if local is None:
            return ""
        size = patiently(_size_of, local)
    except DataError as error:
        return f"{what}{str(error).removeprefix(f'{place} ')}"
    if size >= n_bytes:
        return ""
    return f"{what}ends too early" if what else "is empty"


def _size_of(file: str) -> int:
    return regular_file(file).stat().st_size


def _broken_file(file: str, recording: Recording) -> str:
    try:
        found = read_header(file)
    except DataError as error:
        return str(error).removeprefix(f"{file} ")
    if found.sampling_rate != (promised := file_rate(recording)):
        return f"has {found.sampling_rate} Hz, its manifest says {promised}"
    duration = found.n_samples / found.sampling_rate
    if abs(duration - recording.duration) > _TOLERANCE_S:
        return f"has {duration:.2f} s, its manifest says {recording.duration:.2f} s"
    return ""
