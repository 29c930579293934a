"""Records of probes of layers: of which speech and models they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lhotse.cut import Cut
from typing_extensions import override

from distill.analysis.record import Record
from distill.data.contents import contents_of
from distill.downstream.bootstrap import Outcomes, interval
from distill.hashing import hash_lines
from distill.preflight.survey import check_files


class _Unwritten(Record):
    """Rows that are kept in memory."""

    def __init__(self, key: Sequence[str]) -> None:
        self.folder, self.key, self.rows = Path(), tuple(key), []

    @override
    def write(self) -> None:
        """Nothing."""


def open_record(
    out: Path | None,
    kind: str,
    cuts: Sequence[Cut],
    key: Sequence[str],
    *,
    models: Mapping[str, str],
    **settings: Any,
) -> Record:
    """The record of a probe, to be continued.

    Args:
        out: its folder; None: in memory.
        kind: of analysis.
        cuts: the speech; its audio and transcripts are noted.
        key: columns that identify a row.
        models: identity by name.
        **settings: what else all rows depend on.

    Raises:
        UserError: if it is of other speech or settings, or has another model by the same name.
    """
    check_files(cuts, "the speech")
    if out is None:
        return _Unwritten(key)
    said = [f"{cut.id}\t{[s.text for s in cut.supervisions]}\t{_columns(cut)}" for cut in cuts]
    about = {"speech": contents_of(cuts, in_full=True), "truths": hash_lines(said), "utterances": len(cuts)}
    record = Record(out, kind, about | settings, key)
    record.refuse_other_models(models)
    return record


def _columns(cut: Any) -> list[tuple[str, str]]:
    """The columns of an utterance, classes among them."""
    return sorted((name, value) for name, value in (cut.custom or {}).items() if isinstance(value, str))


def with_interval(outcomes: Outcomes, *, percent: bool) -> dict[str, float]:
    """A score over utterances and its interval.

    Args:
        outcomes: by utterance, a sum and what to divide the sum of all by.
        percent: whether it is shown in per cent.

    Returns:
        `value`, `low` and `high`.
    """
    total, count = (sum(part) for part in zip(*outcomes.values(), strict=True))
    scale = 100.0 if percent else 1.0
    low, high = (bound * scale / 100.0 for bound in interval([[outcomes]]))
    return {"value": scale * total / count, "low": low, "high": high}
