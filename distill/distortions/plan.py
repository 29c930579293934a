"""Which distortion each utterance gets: drawn from a hash of its id, whatever the batch, rank or worker.

Legend: B utterances.
"""

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, overload

import numpy as np
import torch
from torch import Tensor

from distill.distortions.band_reject import mel_band
from distill.distortions.options import CORPUS_NOISES, VARIANTS, DistortionConfig
from distill.waveforms import SAMPLE_RATE

LABELS = ("musan", "gaussian", "wham", "reverb", "pitch", "band_reject", "clean")
"""The domain classifier's classes, in the order of the label columns."""


@dataclass(frozen=True)
class UtterancePlan:
    """One utterance's distortion. All that an option governs is drawn always, used or not."""

    utterance_id: str
    """The utterance this plan is for."""
    additive: str
    """Noise type, or none."""
    non_additive: str
    """Effect after the noise, or none."""
    rir: bool
    """Whether a room impulse response comes first."""
    snr_db: float
    """Signal-to-noise ratio in dB over the valid samples."""
    noise_choice: float
    """In [0, 1): which clip of the noise corpus."""
    noise_offset: float
    """In [0, 1): where in that clip."""
    rir_choice: float
    """In [0, 1): which room impulse response."""
    gaussian_seed: int
    """Seed of the Gaussian noise's generator."""
    room_scale: int
    """Size of the synthetic room in per cent."""
    cents: float
    """Pitch shift in cents."""
    low_hz: float
    """Lower edge of the rejected band in Hz."""
    high_hz: float
    """Upper edge of the rejected band in Hz."""
    rir_db: float | None = None
    """By how many dB the room impulse response has less energy than the speech; None: it has unit energy."""
    stretch_noise: bool = False
    """Whether a clip shorter than the speech is stretched by repeating each sample, instead of tiled."""
    clip_factor: float = 1.0
    """Share of its own extremes at which the utterance is clipped."""
    n_dropped: int = 0
    """Samples that are silenced; never more than half of the utterance."""
    drop_place: float = 0.0
    """In [0, 1): where in the utterance."""
    strung: bool = False
    """Whether clips of the noise corpus follow one another to the utterance's end (`strung.string_clips`)."""
    string_seed: int = 0
    """Seed of the draws of these clips."""

    @property
    def noise_corpus(self) -> str | None:
        """The corpus that a noise clip must be read from, if any."""
        return self.additive if self.additive in CORPUS_NOISES else None


@dataclass(frozen=True)
class Plan:
    """The plans of a batch. Slicing gives the plan of a micro-batch."""

    utterances: tuple[UtterancePlan, ...]

    def __len__(self) -> int:
        return len(self.utterances)

    def __iter__(self) -> Iterator[UtterancePlan]:
        return iter(self.utterances)

    @overload
    def __getitem__(self, index: int) -> UtterancePlan: ...
    @overload
    def __getitem__(self, index: slice) -> "Plan": ...
    def __getitem__(self, index: int | slice) -> "UtterancePlan | Plan":
        return Plan(self.utterances[index]) if isinstance(index, slice) else self.utterances[index]

    def labels(self) -> Tensor:
        """Multi-hot domain labels, (B, 7) float32 in the order of `LABELS`.

        "clean" is set only where nothing at all is applied. fsd, dns and room impulse responses, which are
        never seen in training, have no column, nor have other speech, clipping and time drop.
        """
        labels = torch.zeros(len(self), len(LABELS))
        for row, plan in enumerate(self.utterances):
            applied = [name for name in (plan.additive, plan.non_additive) if name != "none"]
            if not applied and not plan.rir:
                applied = ["clean"]
            for name in applied:
                if name in LABELS:
                    labels[row, LABELS.index(name)] = 1
        return labels

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and dicts, ready for JSON."""
        return {"utterances": [asdict(plan) for plan in self.utterances]}


def draw_batch(
    config: DistortionConfig,
    utterance_ids: Sequence[str],
    *,
    seed: int,
    epoch: int,
    stream: str,
    split: str,
    progress: float = 1.0,
) -> Plan:
    """Draw the plans of a batch; see `Distorter.plan`."""
    key = (seed, epoch, stream, split)
    return Plan(tuple(draw(config, utterance_id, key, progress) for utterance_id in utterance_ids))


def draw(
    config: DistortionConfig, utterance_id: str, key: Sequence[object], progress: float = 1.0
) -> UtterancePlan:
    """Draw one utterance's plan.

    Each quantity has its own uniform number, so that changing one option leaves the other draws alone.

    Args:
        config: what to draw from.
        utterance_id: the utterance.
        key: whatever else the draw depends on (seed, epoch, stream, split).
        progress: share of the training that is behind, in [0, 1], for a curriculum.

    Returns:
        The same plan for the same arguments, on every machine.
    """
    text = "\0".join(str(part) for part in (*key, utterance_id))
    digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
    generator = np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))
    u = generator.random(16).tolist()  # a new one goes to the end: the others stay what they were
    own = VARIANTS[config.variant]
    assert config.pitch_cents is not None and config.band_scaler is not None
    snr_range = config.snr_range(progress)
    room_low, room_high = config.room_scale
    low_hz, high_hz = mel_band(config.band_scaler, u[9], u[10])
    return UtterancePlan(
        utterance_id=str(utterance_id),
        additive=config.additive[int(u[0] * len(config.additive))],
        non_additive=config.non_additive[int(u[1] * len(config.non_additive))],
        rir=config.rir,
        snr_db=_whole(snr_range, u[2]) if own.whole_db else _between(snr_range, u[2]),
        noise_choice=u[3],
        noise_offset=u[4],
        rir_choice=u[5],
        gaussian_seed=int(u[6] * 2**53),
        room_scale=room_low + int(u[7] * (room_high - room_low + 1)),
        cents=(2 * u[8] - 1) * config.pitch_cents,
        low_hz=low_hz,
        high_hz=high_hz,
        rir_db=None if own.rir_db is None else _whole(own.rir_db, u[11]),
        stretch_noise=own.stretch,
        clip_factor=1.0 if config.clip_factor is None else _between(config.clip_factor, u[12]),
        n_dropped=math.ceil((config.time_drop_s or 0) * SAMPLE_RATE * (1 - u[13])),
        drop_place=u[14],
        strung=config.strung,
        string_seed=int(u[15] * 2**53),
    )


def _between(interval: tuple[float, float], u: float) -> float:
    """A number of an interval, by a draw in [0, 1)."""
    low, high = interval
    return low + u * (high - low)


def _whole(interval: tuple[float, float], u: float) -> float:
    """A whole number of an interval with both ends, by a draw in [0, 1)."""
    low, high = interval
    return low + int(u * (high - low + 1))
