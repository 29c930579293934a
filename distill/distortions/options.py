"""What may be drawn: the options of the distortions, the paper's conditions, and its authors' variant."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from distill.distortions.band_reject import MAX_BAND_BINS, MEL_BINS, MIN_BAND_BINS
from distill.distortions.pitch import MAX_CENTS

CORPUS_NOISES = ("musan", "wham", "fsd", "dns", "speech")
"""Additive types whose clips are read from a corpus; speech: other utterances of the speech itself."""

NOISE_CORPORA = (*CORPUS_NOISES, "rir")
"""All corpora of `noises` options: noise, and room impulse responses."""

_ADDITIVE = (*CORPUS_NOISES, "gaussian", "none")
NON_ADDITIVE = ("reverb", "pitch", "band_reject", "clipping", "time_drop")
"""Effects that can come after the noise; the last two are no part of the paper's mix and have no label."""

_CLIP_FACTOR = (0.1, 0.5)  # ours: audible at any level, still intelligible
_TIME_DROP_S = 0.05  # WavAugment's


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
    """Noise types, each equally likely (repeat one to weight it): musan, wham, gaussian, speech, fsd, dns,
    none."""
    non_additive: tuple[str, ...] = ("reverb", "pitch", "band_reject", "none")
    """Other effects, each equally likely, applied after the noise: reverb, pitch, band_reject, clipping,
    time_drop, none."""
    rir: bool = False
    """Whether to convolve with a recorded room impulse response before the noise."""
    snr_db: tuple[float, float] | None = None
    """Lowest and highest signal-to-noise ratio in dB."""
    curriculum: float | None = None
    """Share of a training, in (0, 1], over which the lowest SNR falls from the highest to that of `snr_db`:
    at update u of U it is high - (high - low) · min(1, u / (curriculum · U)). Default: no curriculum."""
    room_scale: tuple[int, int] = (0, 100)
    """Smallest and largest room of the synthetic reverb in per cent, both included."""
    pitch_cents: float | None = None
    """Largest pitch shift in cents, up or down."""
    band_scaler: float | None = None
    """Largest rejected band as a multiple of 27 of 256 mel bins; every band has at least one bin."""
    clip_factor: tuple[float, float] | None = None
    """Lowest and highest share of an utterance's own extremes at which it is clipped; with "clipping" in
    `non_additive` 0.1 and 0.5 unless given."""
    time_drop_s: float | None = None
    """Longest stretch that is silenced, in seconds; with "time_drop" in `non_additive` 0.05 unless given."""
    strung: bool = False
    """Whether clips of a corpus, drawn in proportion to their duration, follow one another to the end of the
    utterance, each at the SNR by itself, where otherwise one is tiled; clips under 1 s are left out."""
    variant: str = "paper"
    """Whose values and ways: "paper" or "authors" (their released code); see `VARIANTS`."""
    where: str = "device"
    """What distorts the speech of a training: "device", where the model is, or "workers", those that read the
    data, with the same result."""

    def __post_init__(self) -> None:
        if self.where not in ("device", "workers"):
            raise ValueError(f"where must be device or workers, got {self.where!r}")
        if self.variant not in VARIANTS:
            raise ValueError(f"variant must be {' or '.join(VARIANTS)}, got {self.variant!r}")
        own = VARIANTS[self.variant]
        for name in ("snr_db", "pitch_cents", "band_scaler"):
            if getattr(self, name) is None:
                object.__setattr__(self, name, getattr(own, name))
        assert self.snr_db is not None and self.pitch_cents is not None and self.band_scaler is not None
        for name, allowed in (("additive", _ADDITIVE), ("non_additive", (*NON_ADDITIVE, "none"))):
            object.__setattr__(self, name, _choices(name, getattr(self, name), allowed))
        snr = _interval("snr_db", self.snr_db, -100, 100)
        if own.whole_db and any(value != int(value) for value in snr):
            raise ValueError(f"snr_db must hold whole numbers with variant {self.variant}, got {self.snr_db}")
        object.__setattr__(self, "snr_db", snr)
        self._check_curriculum()
        low, high = _interval("room_scale", self.room_scale, 0, 100)
        if low != int(low) or high != int(high):
            raise ValueError(f"room_scale must hold integers, got {self.room_scale}")
        object.__setattr__(self, "room_scale", (int(low), int(high)))
        if not 0 <= self.pitch_cents <= MAX_CENTS:
            raise ValueError(f"pitch_cents must be between 0 and {MAX_CENTS:g}, got {self.pitch_cents}")
        if not MIN_BAND_BINS <= MAX_BAND_BINS * self.band_scaler <= MEL_BINS:
            least, most = MIN_BAND_BINS / MAX_BAND_BINS, MEL_BINS / MAX_BAND_BINS
            raise ValueError(
                f"band_scaler must be between {least:.3f} and {most:.2f}, got {self.band_scaler}"
            )
        self._complete_extras()

    def _check_curriculum(self) -> None:
        """Refuse a curriculum without anything that could fall."""
        if self.curriculum is None:
            return
        if not 0 < self.curriculum <= 1:
            raise ValueError(
                f"curriculum must be a share of the training, above 0 and at most 1, got {self.curriculum}"
            )
        assert self.snr_db is not None
        if self.snr_db[0] == self.snr_db[1]:
            raise ValueError(
                f"curriculum needs a range that the SNR can fall through: snr_db is {list(self.snr_db)}"
            )
        if set(self.additive) == {"none"}:
            raise ValueError("curriculum needs noise: additive is none alone")

    def snr_range(self, progress: float) -> tuple[float, float]:
        """Lowest and highest SNR in dB when a share `progress`, in [0, 1], of the training is behind.

        low(p) = high - (high - low) · min(1, p / curriculum); in whole dB, rounded up, where the variant
        draws whole numbers.
        """
        assert self.snr_db is not None
        low, high = self.snr_db
        if self.curriculum is None or progress >= self.curriculum:
            return low, high
        fallen = high - (high - low) * progress / self.curriculum
        return (float(math.ceil(fallen)) if VARIANTS[self.variant].whole_db else fallen), high

    def _complete_extras(self) -> None:
        """Check the options of effects outside the paper's mix; those of effects not drawn may stay None."""
        if self.clip_factor is None and "clipping" in self.non_additive:
            object.__setattr__(self, "clip_factor", _CLIP_FACTOR)
        if self.time_drop_s is None and "time_drop" in self.non_additive:
            object.__setattr__(self, "time_drop_s", _TIME_DROP_S)
        if self.clip_factor is not None:
            object.__setattr__(self, "clip_factor", _interval("clip_factor", self.clip_factor, 0.01, 0.99))
        if self.time_drop_s is not None and not 0.001 <= self.time_drop_s <= 10:
            raise ValueError(f"time_drop_s must be between 0.001 and 10, got {self.time_drop_s}")

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
    "ns": DistortionConfig(additive=("dns",), non_additive=("none",), snr_db=(0.0, 30.0), strung=True),
}
"""The paper's conditions by name (fsd and dns are for testing only), and SPIRAL's noisy LibriSpeech, ns."""

WITHOUT_VARIANTS = ("clean", "ns")
"""Conditions that are the same in every variant."""


def as_config(cfg: DistortionConfig | Mapping[str, Any] | str | None) -> DistortionConfig:
    """A config as it is, from options in a mapping, by the name of a condition, or None for clean speech.

    Raises:
        ValueError: if the name or an option is unknown, or an option has a wrong value.
    """
    if cfg is None:
        cfg = "clean"
    if isinstance(cfg, DistortionConfig):
        return cfg
    if isinstance(cfg, Mapping):
        options = [field.name for field in fields(DistortionConfig)]
        if unknown := [name for name in cfg if name not in options]:
            raise ValueError(f"unknown option {unknown[0]!r} of distortion; there are {', '.join(options)}")
        return DistortionConfig(**cfg)
    if not isinstance(cfg, str) or cfg not in CONDITIONS:
        raise ValueError(f"unknown condition {cfg!r}; use one of {', '.join(CONDITIONS)}")
    return CONDITIONS[cfg]
