"""Speech Commands' background noise in one piece again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from lhotse import MonoCut
from lhotse.cut import Cut
from lhotse.utils import fastcopy

from distill.data_prep.speech_commands import SILENCE
from distill.downstream.truths import class_of
from distill.errors import DataError


def whole_recordings(cuts: Sequence[Cut], column: str = "label") -> list[Cut]:
    """Join background noise that was cut into seconds, so that training crops it at random positions.

    Only silence (`_silence_`), of which one second is as good as another: other labelled pieces of a
    recording are utterances of their own. Consecutive pieces are joined; the rest of the recording after the
    last one, shorter than a piece, is included if the first one is at its beginning.

    Args:
        cuts: training utterances.
        column: custom field with the class.

    Returns:
        All others unchanged, and joined pieces at the position of the first, with its class.
    """
    pieces: dict[tuple[str, ...], list[MonoCut]] = {}
    for cut in cuts:
        if (key := _piece_of(cut, column)) is not None:
            pieces.setdefault(key, []).append(cut)  # pyright: ignore[reportArgumentType]
    joined: dict[str, Cut | None] = {}
    for several in pieces.values():
        for run in _runs(several):
            joined |= dict.fromkeys((cut.id for cut in run), None) | {run[0].id: _joined(run, len(several))}
    found = [joined.get(cut.id, cut) for cut in cuts]
    return [cut for cut in found if cut is not None]


def _piece_of(cut: Cut, column: str) -> tuple[str, ...] | None:
    """The recording that a cut is a piece of, if it is silence."""
    if not isinstance(cut, MonoCut) or cut.recording is None or cut.duration >= cut.recording.duration:
        return None
    try:
        if class_of(cut, column) != SILENCE:
            return None
    except DataError:  # it has no class: reported when labels are made
        return None
    return cut.recording.id, str(cut.channel), *(str(source.source) for source in cut.recording.sources)


def _runs(pieces: Sequence[MonoCut]) -> Iterator[list[MonoCut]]:
    """Runs of consecutive pieces of a recording, without gaps."""
    run: list[MonoCut] = []
    for cut in sorted(pieces, key=lambda cut: cut.start):
        if run and abs(run[-1].end - cut.start) * cut.sampling_rate > 1:
            yield run
            run = []
        run.append(cut)
    yield run


def _joined(run: Sequence[MonoCut], n_pieces: int) -> MonoCut:
    """One cut of consecutive pieces, with the recording's id if they are all of it."""
    first, last = run[0], run[-1]
    assert first.recording is not None
    rest_s = first.recording.duration - last.end
    if len(run) == n_pieces and first.start == 0 and rest_s < first.duration:
        return fastcopy(first, id=first.recording.id, duration=first.recording.duration)
    return fastcopy(first, duration=round(last.end - first.start, ndigits=8))
