"""Which distortion each utterance gets: drawn from a hash of its id, whatever the batch, rank or worker.

Legend: B utterances.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, overload

import numpy as np
import torch
from torch import Tensor

from distill.distortions.pitch import MAX_CENTS

LABELS = ("musan", "gaussian", "wham", "reverb", "pitch", "band_reject", "clean")
"""The domain classifier's classes, in the order of the label columns."""

CORPUS_NOISES = ("musan", "wham", "fsd", "dns")
"""Additive types whose clips are read from a corpus."""

NOISE_CORPORA = (*CORPUS_NOISES, "rir")
"""All corpora of `noises` options: noise, and room impulse responses."""

_ADDITIVE = (*CORPUS_NOISES, "gaussian", "none")
_NON_ADDITIVE = ("reverb", "pitch", "band_reject", "none")
# WavAugment's band rejection (Kharitonov et al., 2021): up to F = 27 of 256 mel bins.
_MEL_BINS = 256
_MAX_BAND_BINS = 27.0
_MIN_BAND_BINS = 1.0  # a narrower band would change nothing that can be heard, yet be labelled
_TOP_MEL = 2595 * np.log10(1 + 8000 / 700)  # 8 kHz on the HTK mel scale


def _choices(name: str, values: Sequence[str], allowed: Sequence[str]) -> tuple[str, ...]:
    wrong = [value for value in values if value not in allowed]
    if isinstance(values, str) or not values or wrong:
        raise ValueError(f"{name} must be a list of {', '.join(allowed)}; got {values!r}")
    return tuple(values)


def _interval(name: str, values: Sequence[float], low: float, high: float) -> tuple[float, float]:
    if not isinstance(values, Sequence) or len(values) != 2 or not low <= values[0] <= values[1] <= high:
        raise ValueError(f"{name} must be [lowest, highest] within {low:g} and {high:g}, got {values!r}")
    return values[0], values[1]


@dataclass(frozen=True, kw_only=True)
class Variant:
    """What the paper leaves open, or its authors' released code does in another way."""

    snr_db: tuple[float, float]
    """Lowest and highest signal-to-noise ratio in dB."""
    pitch_cents: float
    """Largest pitch shift in cents."""
    band_scaler: float
    """Largest rejected band as a multiple of 27 of 256 mel bins."""
    whole_db: bool = False
    """Whether SNRs are whole numbers of dB, both ends included, instead of any."""
    stretch: bool = False
    """Whether noise shorter than the speech is stretched by repeating each sample, instead of tiled."""
    rir_db: tuple[int, int] | None = None
    """By how many whole dB a recorded room's energy is below that of the speech; None: it has unit energy."""


VARIANTS: dict[str, Variant] = {
    "paper": Variant(snr_db=(10.0, 20.0), pitch_cents=300.0, band_scaler=1.0),
    "authors": Variant(
        snr_db=(10.0, 19.0),  # as integers
        pitch_cents=500.0,
        band_scaler=0.5,  # their yaml calls it an error
        whole_db=True,
        stretch=True,
        rir_db=(10, 19),
    ),
}
"""By name: the paper's, with WavAugment's values where it is silent; those of its authors' released code."""


@dataclass(frozen=True, kw_only=True)
class DistortionConfig:
    """How to distort; the defaults are the paper's training mix, "2-dist".

    What is None becomes the value of the variant.
    """

    additive: tuple[str, ...] = ("musan", "wham", "gaussian", "none")
    """Noise types, each equally likely (repeat one to weight it): musan, wham, gaussian, fsd, dns, none."""
    non_additive: tuple[str, ...] = ("reverb", "pitch", "band_reject", "none")
    """Other effects, each equally likely, applied after the noise: reverb, pitch, band_reject, none."""
    rir: bool = False
    """Whether to convolve with a recorded room impulse response before the noise."""
    snr_db: tuple[float, float] | None = None
    """Lowest and highest signal-to-noise ratio in dB."""
    room_scale: tuple[int, int] = (0, 100)
    """Smallest and largest room of the synthetic reverb in per cent, both included."""
    pitch_cents: float | None = None
    """Largest pitch shift in cents, up or down."""
    band_scaler: float | None = None
    """Largest rejected band as a multiple of 27 of 256 mel bins; every band has at least one bin."""
    variant: str = "paper"
    """Whose values and ways: "paper" or "authors" (their released code); see `VARIANTS`."""

    def __post_init__(self) -> None:
        if self.variant not in VARIANTS:
            raise ValueError(f"variant must be {' or '.join(VARIANTS)}, got {self.variant!r}")
        own = VARIANTS[self.variant]
        for name in ("snr_db", "pitch_cents", "band_scaler"):
            if getattr(self, name) is None:
                object.__setattr__(self, name, getattr(own, name))
        assert self.snr_db is not None and self.pitch_cents is not None and self.band_scaler is not None
        for name, allowed in (("additive", _ADDITIVE), ("non_additive", _NON_ADDITIVE)):
            object.__setattr__(self, name, _choices(name, getattr(self, name), allowed))
        snr = _interval("snr_db", self.snr_db, -100, 100)
        if own.whole_db and any(value != int(value) for value in snr):
            raise ValueError(f"snr_db must hold whole numbers with variant {self.variant}, got {self.snr_db}")
        object.__setattr__(self, "snr_db", snr)
        low, high = _interval("room_scale", self.room_scale, 0, 100)
        if low != int(low) or high != int(high):
            raise ValueError(f"room_scale must hold integers, got {self.room_scale}")
        object.__setattr__(self, "room_scale", (int(low), int(high)))
        if not 0 <= self.pitch_cents <= MAX_CENTS:
            raise ValueError(f"pitch_cents must be between 0 and {MAX_CENTS:g}, got {self.pitch_cents}")
        if not _MIN_BAND_BINS <= _MAX_BAND_BINS * self.band_scaler <= _MEL_BINS:
            least, most = _MIN_BAND_BINS / _MAX_BAND_BINS, _MEL_BINS / _MAX_BAND_BINS
            raise ValueError(
                f"band_scaler must be between {least:.3f} and {most:.2f}, got {self.band_scaler}"
            )

    @property
    def corpora(self) -> tuple[str, ...]:
        """The corpora whose recordings this needs, each once: noise in the order of `additive`, then rir."""
        noises = [name for name in dict.fromkeys(self.additive) if name in CORPUS_NOISES]
        return (*noises, "rir") if self.rir else tuple(noises)

    def of_variant(self, variant: str) -> "DistortionConfig":
        """The same with all values of another variant.

        Raises:
            ValueError: if there is no such variant.
        """
        return replace(self, variant=variant, snr_db=None, pitch_cents=None, band_scaler=None)


CONDITIONS: dict[str, DistortionConfig] = {
    "clean": DistortionConfig(additive=("none",), non_additive=("none",)),
    "2-dist": DistortionConfig(),
    "fsd": DistortionConfig(additive=("fsd",), non_additive=("none",)),
    "dns": DistortionConfig(additive=("dns",), non_additive=("none",), rir=True),
}
"""The paper's conditions by name; fsd and dns are for testing only."""


@dataclass(frozen=True)
class UtterancePlan:
    """Everything random about one utterance's distortion. All is drawn always, used or not."""

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

        "clean" is set only where nothing at all is applied. fsd, dns and room impulse responses have no
        column: they are never seen in training.
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


def draw(config: DistortionConfig, utterance_id: str, key: Sequence[object]) -> UtterancePlan:
    """Draw one utterance's plan.

    Each quantity has its own uniform number, so that changing one option leaves the other draws alone.

    Args:
        config: what to draw from.
        utterance_id: the utterance.
        key: whatever else the draw depends on (seed, epoch, stream, split).

    Returns:
        The same plan for the same arguments, on every machine.
    """
    text = "\0".join(str(part) for part in (*key, utterance_id))
    digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
    generator = np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))
    u = generator.random(12).tolist()
    own = VARIANTS[config.variant]
    assert config.snr_db is not None and config.pitch_cents is not None and config.band_scaler is not None
    snr_low, snr_high = config.snr_db
    room_low, room_high = config.room_scale
    low_hz, high_hz = _band(config.band_scaler, u[9], u[10])
    return UtterancePlan(
        utterance_id=str(utterance_id),
        additive=config.additive[int(u[0] * len(config.additive))],
        non_additive=config.non_additive[int(u[1] * len(config.non_additive))],
        rir=config.rir,
        snr_db=_whole(config.snr_db, u[2]) if own.whole_db else snr_low + u[2] * (snr_high - snr_low),
        noise_choice=u[3],
        noise_offset=u[4],
        rir_choice=u[5],
        gaussian_seed=int(u[6] * 2**53),
        room_scale=room_low + int(u[7] * (room_high - room_low + 1)),
        cents=(2 * u[8] - 1) * config.pitch_cents,
        low_hz=low_hz,
        high_hz=high_hz,
        rir_db=None if own.rir_db is None else _whole(own.rir_db, u[11]),
    )


def _whole(interval: tuple[float, float], u: float) -> float:
    """A whole number of an interval with both ends, by a draw in [0, 1)."""
    low, high = interval
    return low + int(u * (high - low + 1))


def _band(scaler: float, width_draw: float, start_draw: float) -> tuple[float, float]:
    """Edges in Hz: width uniform in [0, 27 · scaler] mel bins but at least one, place uniform."""
    width = max(width_draw * _MAX_BAND_BINS * scaler, _MIN_BAND_BINS)
    start = start_draw * (_MEL_BINS - width)
    return _bin_to_hz(start), _bin_to_hz(start + width)


def _bin_to_hz(position: float) -> float:
    """HTK: hz = 700 (10^(mel / 2595) - 1)."""
    return min(700 * (10 ** (position / _MEL_BINS * _TOP_MEL / 2595) - 1), 8000.0)
