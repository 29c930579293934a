"""Lines of a manifest: which are cuts, and what the others are.

A line that is not a cut counts as one utterance that cannot be used: a placeholder whose id gives the line's
number takes its place, and is skipped, listed and counted as a broken file is. A manifest of another kind, or
one that is cut off, is refused altogether.
"""

from __future__ import annotations

import gzip
import json
import math
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from lhotse import MonoCut
from lhotse.cut import Cut
from lhotse.cut.data import DataCut
from lhotse.serialization import deserialize_item

from distill.data.bounded import bounded_lines, opened
from distill.data.recordings import parts_of
from distill.data.unusable import unusable_cut
from distill.errors import DataError, first_line, listed

_LONGEST_S = 366 * 86_400.0  # headers of streams of unknown length say 18 million years
_LOOKED_AT = 1000  # lines; a file without a cut in that many is not a manifest
_LONGEST_ID = 1000  # characters; names of files end at 255
_MOST_OTHER = 32 * 2**20  # bytes of other lines, before most of a manifest must be cuts
_COST = 1000  # bytes that each such line counts more: as long does it take to say what is wrong with it

_CUTS = ("MonoCut", "MultiCut", "MixedCut", "Cut")
_KINDS = (  # a key, looked for in this order; what a line with it is; how to make cuts of such a file
    ("audio_filepath", "a line of NeMo's manifests", "lhotse's import of NeMo, or a .tsv with a column path"),
    ("sources", "a recording", "CutSet.from_manifests(recordings=...)"),
    ("num_features", "a matrix of features", "CutSet.from_manifests with the recordings, too"),
    ("recording_id", "a supervision", "CutSet.from_manifests with the recordings, too"),
    ("shape", "an array", "name the manifest of cuts"),
    ("array", "an array", "name the manifest of cuts"),
    ("width", "an image", "name a manifest of speech"),
)


class CutLines:
    """The cuts of a manifest, read from its start each time.

    As lhotse's lazy reader, but a bad line does not end the reading.

    Args:
        path: `.jsonl` or `.jsonl.gz`.
    """

    def __init__(self, path: Path):
        self.path = path

    def __iter__(self) -> Iterator[Cut]:
        """Every cut, and a placeholder (`unusable_line`) for every other line that is not blank.

        Raises:
            DataError: the file is cut off or damaged, or no manifest (`cut_lines`, `Tally`).
        """
        tally = Tally(self.path)
        with opened(self.path) as (_, source):
            for number, line in cut_lines(source, self.path):
                if line.isspace():
                    continue
                try:
                    cut = cut_of(line)
                except DataError as error:
                    cut = unusable_line(self.path, number, error)
                    tally.other(number, line, error)
                else:
                    tally.cut(line)
                yield cut


class Tally:
    """How much of a manifest is cuts. A few broken lines are left out, a file of something else is refused.

    Args:
        path: the manifest, for messages.
    """

    def __init__(self, path: Path):
        self.path = path
        self._cuts = self._others = 0
        self._first = ""

    def cut(self, line: bytes) -> None:
        """Note a line that is a cut."""
        self._cuts += len(line) + _COST

    def other(self, number: int, line: bytes, error: Exception) -> None:
        """Note a line that is not.

        Raises:
            DataError: most of the file is not.
        """
        self._others += len(line) + _COST
        self._first = self._first or f"line {number}: {error}"
        if self._others > max(_MOST_OTHER, self._cuts):
            raise DataError(
                f"{self.path}: most of its lines are no cuts ({self._first}); make the manifest again"
            )

    def refuse_without_cut(self) -> None:
        """Refuse a manifest that has other lines only.

        Raises:
            DataError: saying what is wrong with the first.
        """
        if self._first and not self._cuts:
            raise DataError(f"{self.path}: not a lhotse cut manifest ({self._first})")


def cut_lines(source: IO[bytes], path: Path) -> Iterator[tuple[int, bytes]]:
    """Lines with their numbers, from 1.

    Raises:
        DataError: the compressed file is cut off or damaged, and nobody knows how much is lost; or as
            `bounded_lines`.
    """
    number = 0
    try:
        for number, line in bounded_lines(source, path):
            yield number, line
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        what = "is cut off" if isinstance(error, EOFError) else f"is damaged ({error})"
        if not number:
            raise DataError(
                f"{path}: not a lhotse cut manifest: it {what}; copy or prepare it again"
            ) from None
        raise DataError(f"{path}: {what} after line {number}; make or fetch it again") from None


def check_kind(path: Path) -> bool:
    """Refuse a manifest of anything but cuts with audio, by its first lines.

    Returns:
        Whether it holds a cut; False: it is empty.

    Raises:
        DataError: saying what it holds instead.
    """
    tally = Tally(path)
    with opened(path) as (_, source):
        for number, line in cut_lines(source, path):
            if line.isspace():
                continue
            try:
                cut = cut_of(line, of_any_kind=True)
            except DataError as error:
                tally.other(number, line, error)
                if number >= _LOOKED_AT:
                    break
                continue
            if isinstance(cut, str):
                raise DataError(f"{path}: {cut}")
            return True
    tally.refuse_without_cut()
    return False


def cut_of(line: bytes, *, of_any_kind: bool = False) -> Any:
    """Parse a line.

    Args:
        line: JSON.
        of_any_kind: for a line of another kind of manifest, return a message about such manifests.

    Returns:
        A cut with audio, or that message.

    Raises:
        DataError: the line is not a cut; says what it is, to follow "line 5: ".
    """
    try:
        data = json.loads(line)
    except (ValueError, RecursionError):
        raise DataError("not valid JSON") from None
    if not isinstance(data, dict):
        raise DataError(f"a JSON {type(data).__name__}, not a cut")
    if data.get("type") not in _CUTS:
        keys = listed(data, limit=5) if data else "none"
        for key, what, instead in _KINDS:
            if key in data:
                if of_any_kind:
                    return f"its lines are each {what}, not a cut: {instead} makes cuts"
                raise DataError(f"{what}, not a cut")
        raise DataError(f"no cut (its keys: {keys})")
    try:
        cut = deserialize_item(data)
        plausible(cut.duration)
        if not (isinstance(cut.id, str) and len(cut.id.strip()) > 0 and len(cut.id) <= _LONGEST_ID):
            raise DataError(f"a cut whose id is {_short(cut.id)}, not a name")
        cut.id.encode()
        parts = list(parts_of(cut))
        for part in parts:
            _check_part(part)
    except DataError:
        raise
    except UnicodeEncodeError:
        raise DataError("a cut whose id is not Unicode text") from None
    except Exception as error:  # noqa: BLE001 lhotse raises whatever its parser does
        raise DataError(f"no cut that lhotse can read ({first_line(error)})") from None
    if not parts:
        if of_any_kind:
            what = "features, but no recording" if getattr(cut, "has_features", False) else "no recording"
            return f"its cuts have {what}: speech is read from recordings"
        raise DataError("a cut without a recording")
    return cut


def _check_part(part: DataCut) -> None:
    """Refuse values with which nobody can compute: JSON of other programs has text, null and infinities.

    Raises:
        DataError: naming the value.
    """
    plausible(part.duration)
    assert part.recording is not None
    whole = part.recording
    numbers = {"start": part.start, "duration": whole.duration, "number of samples": whole.num_samples}
    for what, value in numbers.items():
        if not (isinstance(value, int | float) and 0 <= value < math.inf):
            raise DataError(f"a cut whose recording has a {what} of {_short(value)}")


def _short(value: Any) -> str:
    printed = ascii(value)
    return printed if len(printed) <= 40 else f"{printed[:40]}..."


def plausible(seconds: Any) -> float:
    """A duration in seconds.

    Raises:
        DataError: it is not positive, or longer than any recording.
    """
    try:
        number = math.nan if isinstance(seconds, str | bool) else float(seconds)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not 0 < number <= _LONGEST_S:
        raise DataError(f"a cut of {_short(seconds)} seconds")
    return number


def unusable_line(path: Path, number: int, error: Exception) -> MonoCut:
    """A placeholder for a line that is not a cut; `read_audio` refuses it with the reason."""
    return unusable_cut(f"line {number} of {path.name}", f"{path}, line {number}: {error}", {})
