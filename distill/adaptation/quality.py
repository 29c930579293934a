"""How well clusters match phones: phone purity, cluster purity, phone-normalised mutual information.

The definitions are those of HuBERT (Hsu et al. 2021, section IV-E): with n(y, z) the number of frames of
phone y in cluster z, and N their sum,

    phone purity   = 1/N sum_z max_y n(y, z)      a frame's phone guessed from its cluster
    cluster purity = 1/N sum_y max_z n(y, z)      its cluster guessed from its phone
    PNMI           = I(y; z) / H(y)               share of the uncertainty about the phone that is gone

Phone purity grows with the number of clusters (1 with one cluster a frame) while cluster purity falls; the
mutual information is fairer between codebooks of different size. Shapes: P phones, K clusters, F frames.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from distill.adaptation.targets import Targets
from distill.hubert import HubertConfig
from distill.waveforms import SAMPLE_RATE

PHONE_TIER = "phone"


@dataclass(frozen=True, kw_only=True)
class Quality:
    """Agreement of clusters and phones."""

    phone_purity: float
    """Share of frames whose phone is the most frequent one of their cluster."""
    cluster_purity: float
    """Share of frames whose cluster is the most frequent one of their phone."""
    pnmi: float
    """Mutual information of phone and cluster, divided by the phone's entropy; 0 to 1."""
    phones: int
    """Distinct phones."""
    frames: int
    """Frames that have a phone."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {k: round(v, 5) if isinstance(v, float) else v for k, v in asdict(self).items()}


def quality_of(counts: np.ndarray) -> Quality:
    """The three measures.

    Args:
        counts: (P, K) non-negative, frames of phone y in cluster z; phones that never occur do not count.

    Raises:
        ValueError: if there is not one frame.
    """
    counts = np.asarray(counts, dtype=np.float64)
    total = counts.sum()
    if counts.ndim != 2 or not total > 0:
        raise ValueError(f"counts must be (P, K) with at least one frame, not {counts.shape}")
    joint = counts / total
    of_phone, of_cluster = joint.sum(1), joint.sum(0)
    expected = np.outer(of_phone, of_cluster)
    seen = joint > 0
    information = (joint[seen] * np.log(joint[seen] / expected[seen])).sum()
    present = of_phone[of_phone > 0]
    entropy = -(present * np.log(present)).sum()
    return Quality(
        phone_purity=float(joint.max(0).sum()),
        cluster_purity=float(joint.max(1).sum()),
        pnmi=float(information / entropy) if entropy > 0 else 0.0,
        phones=len(present),
        frames=int(total),
    )


def frame_phones(
    intervals: Iterable[tuple[str, float, float]],
    n_frames: int,
    *,
    hop: int = HubertConfig().hop,
    receptive_field: int = HubertConfig().receptive_field,
) -> list[str | None]:
    """The phone at the centre of each frame.

    Args:
        intervals: (symbol, start, end) in seconds from the start of the utterance; the lexical stress of
            ARPAbet ("AH0") is dropped.
        n_frames: F.
        hop: samples from one frame to the next.
        receptive_field: samples that a frame sees.

    Returns:
        F symbols, None where no interval is.
    """
    found: list[str | None] = [None] * n_frames
    for symbol, start_s, end_s in intervals:
        # frame i has its centre at i * hop + receptive_field / 2; those in [start, end) are the phone's
        first, last = (
            int(np.ceil(round((t - receptive_field / 2 / SAMPLE_RATE) * (SAMPLE_RATE / hop), 6)))
            for t in (start_s, end_s)
        )
        for frame in range(max(first, 0), min(last, n_frames)):
            found[frame] = symbol.rstrip("012") or symbol
    return found


def measure(cuts: Iterable[Any], targets: Targets) -> Quality | None:
    """Quality of a corpus's targets over the frames that an alignment gives a phone; no audio is read.

    Args:
        cuts: lhotse cuts whose supervisions may have `alignment["phone"]`.
        targets: labels by cut id.

    Returns:
        None if not one labelled cut has phones.
    """
    numbers: dict[str, int] = {}
    pairs: list[tuple[np.ndarray, np.ndarray]] = []
    for cut in cuts:
        labels = targets.labels.get(cut.id)
        if labels is None:
            continue
        frames = {"hop": targets.hop, "receptive_field": targets.receptive_field}
        symbols = frame_phones(_intervals(cut), len(labels), **frames)
        phones = np.array([-1 if s is None else numbers.setdefault(s, len(numbers)) for s in symbols], int)
        known = phones >= 0
        if known.any():
            pairs.append(np.unique(phones[known] * targets.n_clusters + labels[known], return_counts=True))
    if not pairs:
        return None
    counts = np.zeros(len(numbers) * targets.n_clusters, np.int64)
    for cells, times in pairs:
        counts[cells] += times
    return quality_of(counts.reshape(len(numbers), targets.n_clusters))


def _intervals(cut: Any) -> list[tuple[str, float, float]]:
    """Phones of all supervisions of a cut, in seconds from its start."""
    return [
        (item.symbol, item.start, item.end)
        for supervision in cut.supervisions
        for item in (supervision.alignment or {}).get(PHONE_TIER, ())
    ]
