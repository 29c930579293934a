"""Perturbations of one waveform: white noise, speed, dropped chunks, background noise.

Random numbers come from a generator that is a hash of (seed, utterance id, what is drawn): every model hears
the same audio, and so do all values of a perturbation as far as possible. A higher probability of noise adds
noise to more samples and keeps that of the others, longer chunks contain the shorter ones, a clip of noise is
only made louder.

Shapes: T samples at 16 kHz.
"""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from lhotse.cut import Cut
from torch import Tensor
from typing_extensions import override

from distill.data.contents import contents_of
from distill.data.noise import NoiseReader
from distill.data.resampling import check_rates, resample
from distill.distortions import CONDITIONS, Distorter, DistortionConfig
from distill.distortions.options import CORPUS_NOISES
from distill.errors import DataError, UsageError
from distill.hashing import hash_lines, hash_number
from distill.preflight.survey import check_files
from distill.waveforms import SAMPLE_RATE, is_silent

CHUNKS, CHUNK_LENGTH = 100, 100
"""Number and samples of the chunks of which the paper keeps one fixed and varies the other."""


def generator_for(seed: int, utterance_id: str, drawn: str) -> torch.Generator:
    """A generator that depends on nothing but its arguments.

    Args:
        seed: of the probe.
        utterance_id: whose audio is changed.
        drawn: what is drawn (`Perturbation.drawn`); perturbations that share it get the same numbers.
    """
    return torch.Generator().manual_seed(hash_number("perturbation", seed, drawn, utterance_id))


@dataclass(frozen=True)
class Perturbation(ABC):
    """One change of a waveform."""

    value: float
    """Its strength, in `unit`."""

    name: ClassVar[str]
    """Names files and rows."""
    unit: ClassVar[str]
    """Of the value, for tables: "%", "samples", ..."""
    label: ClassVar[str]
    """Of the axis of the value, with its unit."""
    harder_when_lower: ClassVar[bool] = False
    """Whether lower values disturb more: signal-to-noise ratios."""

    @property
    def per_model(self) -> bool:
        """Whether each model hears other audio; else all hear the same."""
        return False

    def of(self, recogniser: Any, cut: Cut) -> Callable[[Tensor, torch.Generator], Tensor]:
        """What changes the waveform of one utterance: itself, unless it needs to know more than the audio.

        Args:
            recogniser: the model that will hear it.
            cut: the utterance.
        """
        return self

    @property
    def drawn(self) -> str:
        """What its generator is for (`generator_for`)."""
        return self.name

    @property
    def what(self) -> str:
        """All that the audio depends on besides the value, the utterance and the seed; plain text."""
        return ""

    @property
    def keeps_samples(self) -> bool:
        """Whether each sample stays where it was, so that there is a signal-to-noise ratio."""
        return True

    @abstractmethod
    def __call__(self, waveform: Tensor, generator: torch.Generator) -> Tensor:
        """Change a waveform; it is not modified, but may be returned itself where there is nothing to do.

        Args:
            waveform: (T,) float32 on the CPU.
            generator: of `generator_for`.

        Returns:
            (T',) float32.
        """


@dataclass(frozen=True)
class Clean(Perturbation):
    """Nothing is changed."""

    value: float = 0.0
    name: ClassVar[str] = "clean"
    unit: ClassVar[str] = ""
    label: ClassVar[str] = ""

    @override
    def __call__(self, waveform: Tensor, generator: torch.Generator) -> Tensor:
        return waveform


@dataclass(frozen=True)
class WhiteNoise(Perturbation):
    """With probability rho, a sample gets Gaussian noise (section 3.1.1 of the robustness analysis).

    The paper adds N(0, 1) to the input of the model, which the processor has scaled to unit variance. That is
    noise of the standard deviation of the utterance, `level` 1. Its SNR is -10 log10(rho) - 20 log10(level).
    """

    level: float = 1.0
    """Standard deviation of the noise, in standard deviations of the utterance."""
    absolute: bool = False
    """Whether `level` is in units of full scale instead, the same noise for loud and quiet utterances."""
    name: ClassVar[str] = "white_noise"
    unit: ClassVar[str] = "probability"
    label: ClassVar[str] = "probability ρ of white noise"

    def __post_init__(self) -> None:
        _check(self, low=0, high=1)
        if not 0 < self.level < math.inf:
            raise UsageError(f"the level of white noise must be positive, not {self.level:g}")

    @property
    @override
    def what(self) -> str:
        return f"level {self.level:g} of {'full scale' if self.absolute else 'the standard deviation'}"

    @override
    def __call__(self, waveform: Tensor, generator: torch.Generator) -> Tensor:
        chosen = torch.rand(len(waveform), generator=generator) < self.value
        noise = torch.randn(len(waveform), generator=generator)
        scale = 1.0 if self.absolute else waveform.std(correction=0)
        return torch.where(chosen, waveform + self.level * scale * noise, waveform)


@dataclass(frozen=True)
class Speed(Perturbation):
    """Speech played faster or slower: resampled, its rate left as it was (section 3.1.2).

    At 200 % half of the samples are left, and voices are an octave higher.
    """

    name: ClassVar[str] = "speed"
    unit: ClassVar[str] = "%"
    label: ClassVar[str] = "speed (%)"

    def __post_init__(self) -> None:
        _check(self, low=10, high=1000)
        try:
            check_rates(self.value / 100 * SAMPLE_RATE)
        except DataError:
            raise UsageError(f"speed {self.value:g}: {SAMPLE_RATE / 100:g} times it must be whole") from None

    @property
    @override
    def keeps_samples(self) -> bool:
        return False

    @override
    def __call__(self, waveform: Tensor, generator: torch.Generator) -> Tensor:
        return resample(waveform, round(self.value / 100 * SAMPLE_RATE), SAMPLE_RATE)


@dataclass(frozen=True)
class _Chunks(Perturbation):
    """Chunks anywhere in the utterance are zero (section 3.1.3); they may overlap.

    A chunk of l samples starts at floor(u (T - l + 1)), with u uniform in [0, 1): for the same u, the longer
    chunk contains the shorter one. An utterance shorter than a chunk is zero throughout.
    """

    def __post_init__(self) -> None:
        _check(self, low=0, high=1_000_000)
        if self.value != int(self.value):
            raise UsageError(f"{self.name} {self.value:g}: expected a whole number")

    @property
    @override
    def drawn(self) -> str:
        return "chunks"  # 100 chunks of 100 samples are the same ones in both sweeps

    def _drop(self, waveform: Tensor, generator: torch.Generator, count: int, length: int) -> Tensor:
        if not count or not length:
            return waveform
        places = torch.rand(count, generator=generator, dtype=torch.float64)
        starts = (places * max(len(waveform) - length + 1, 1)).long()
        edges = torch.zeros(len(waveform) + 1, dtype=torch.int64)  # +1 where a chunk begins, -1 after its end
        ones = torch.ones(count, dtype=torch.int64)
        edges.index_add_(0, starts, ones)
        edges.index_add_(0, (starts + length).clamp(max=len(waveform)), -ones)
        return waveform.masked_fill(edges.cumsum(0)[:-1] > 0, 0.0)


@dataclass(frozen=True)
class ChunkLength(_Chunks):
    """Dropped chunks by their length."""

    count: int = CHUNKS
    """Number of them."""
    name: ClassVar[str] = "chunk_length"
    unit: ClassVar[str] = "samples"
    label: ClassVar[str] = "length of dropped chunks (samples)"

    @property
    @override
    def what(self) -> str:
        return f"{self.count} chunks"

    @override
    def __call__(self, waveform: Tensor, generator: torch.Generator) -> Tensor:
        return self._drop(waveform, generator, self.count, int(self.value))


@dataclass(frozen=True)
class ChunkCount(_Chunks):
    """Dropped chunks by their number."""

    length: int = CHUNK_LENGTH
    """Samples of each."""
    name: ClassVar[str] = "chunk_count"
    unit: ClassVar[str] = "chunks"
    label: ClassVar[str] = "number of dropped chunks"

    @property
    @override
    def what(self) -> str:
        return f"chunks of {self.length} samples"

    @override
    def __call__(self, waveform: Tensor, generator: torch.Generator) -> Tensor:
        return self._drop(waveform, generator, int(self.value), self.length)


NOISES: Mapping[str, DistortionConfig] = {
    "2-dist": DistortionConfig(additive=("musan", "wham", "gaussian"), non_additive=("none",)),
    "musan": DistortionConfig(additive=("musan",), non_additive=("none",)),
    "wham": DistortionConfig(additive=("wham",), non_additive=("none",)),
    "gaussian": DistortionConfig(additive=("gaussian",), non_additive=("none",)),
    "fsd": CONDITIONS["fsd"],
    "dns": CONDITIONS["dns"],
}
"""Kinds of background noise; "2-dist" draws one of its three for each utterance, dns comes with its rooms."""


@dataclass(frozen=True)
class Background(Perturbation):
    """Recorded noise at an SNR, by our own distortions; after the room's response, where there is one."""

    kind: str
    """One of `NOISES`, or a name for the noise of another source."""
    config: DistortionConfig
    """What is drawn; its SNR is replaced by the value."""
    reader: NoiseReader
    """Has the recordings."""
    identity: str
    """Hash of them."""
    unit: ClassVar[str] = "dB SNR"
    label: ClassVar[str] = "SNR (dB)"
    harder_when_lower: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_snr(self)

    @property
    def name(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        """With the kind of noise."""
        return f"background_{self.kind}"

    @property
    @override
    def what(self) -> str:
        return f"noise {self.identity}"

    @property
    @override
    def keeps_samples(self) -> bool:
        return not self.config.rir  # a room delays and smears the speech itself

    @override
    def __call__(self, waveform: Tensor, generator: torch.Generator) -> Tensor:
        config = replace(self.config, snr_db=(self.value, self.value))
        number = int(torch.randint(2**62, (1,), generator=generator))
        distorter = Distorter.from_config(config, split="test")
        plan = distorter.plan([str(number)], stream="test")
        view = self.reader.whole_view(plan, [len(waveform)])
        return distorter.apply(waveform[None], None, plan, view.noises, view.rirs)[0][0]


class Backgrounds:
    """Background noise of one kind at any SNR; recordings are looked up once.

    Args:
        source: one of `NOISES`, or a manifest, TSV or folder of any other noise.
        noises: by corpus, sources of the recordings that `NOISES` need.

    Raises:
        DataError: for recordings that are missing, or that are not named.
    """

    def __init__(self, source: str, noises: Mapping[str, Sequence[str]]):
        self.kind = source if source in NOISES else re.sub(r"\W+", "-", Path(source).name).strip("-")
        if source not in NOISES and not Path(source.partition("?")[0]).exists():
            known = ", ".join(NOISES)
            raise UsageError(
                f"background:{source} is neither a kind of noise ({known}) nor a source of audio"
            )
        own = CORPUS_NOISES[0]  # stands for a source that is none of the corpora
        self.config = NOISES.get(source) or replace(NOISES[own], additive=(own,))
        given = noises if source in NOISES else {own: [source]}
        if lacking := [corpus for corpus in self.config.corpora if corpus not in given]:
            options = " ".join(f"--noise {corpus}=SOURCE" for corpus in lacking)
            raise DataError(f"background:{source} needs recordings of {' and '.join(lacking)}: add {options}")
        self.reader = NoiseReader({corpus: given[corpus] for corpus in self.config.corpora})
        for corpus, clips in self.reader.corpora.items():
            check_files(clips, corpus)
        hashes = [contents_of(clips, in_full=False) for clips in self.reader.corpora.values()]
        self.identity = hash_lines(hashes)

    def __call__(self, snr_db: float) -> Background:
        """The noise at an SNR."""
        return Background(snr_db, self.kind, self.config, self.reader, self.identity)


def _grid(start: float, stop: float, step: float) -> tuple[float, ...]:
    """From start to stop, both included; decimals as one writes them."""
    count = round((stop - start) / step) + 1
    return tuple(round(start + step * number, 10) for number in range(count))


GRIDS: Mapping[str, tuple[float, ...]] = {
    "white_noise": _grid(0, 1, 0.1),
    "speed": _grid(50, 225, 25),
    "chunk_length": _grid(0, 1000, 100),
    "chunk_count": _grid(100, 1000, 100),
    "background": _grid(20, -5, -5),
}
"""Values of each perturbation: the paper's, and our own of background noise, dB."""

PAPER = ("white_noise", "speed", "chunk_length", "chunk_count")
"""The perturbations of the paper's figures 1 to 8."""

SIMPLE: Mapping[str, type[WhiteNoise | Speed | ChunkLength | ChunkCount]] = {
    kind.name: kind for kind in (WhiteNoise, Speed, ChunkLength, ChunkCount)
}
"""By name, those that need nothing but a value."""


def measured_snr(clean: Tensor, heard: Tensor) -> float | None:
    """Power of the speech over that of all that was changed, in dB; None where either is silent."""
    change = heard - clean
    if is_silent(clean) or not change.any():
        return None
    powers = [float(samples.double().square().mean()) for samples in (clean, change)]
    return 10 * math.log10(powers[0] / powers[1])


def check_snr(perturbation: Any) -> None:
    """Refuse an SNR at which nothing or nothing but noise is left.

    Raises:
        UsageError: naming it.
    """
    _check(perturbation, low=-100, high=100)


def _check(perturbation: Any, *, low: float, high: float) -> None:
    if not low <= perturbation.value <= high:
        name, unit = perturbation.name, perturbation.unit
        raise UsageError(f"{name} {perturbation.value:g}: expected {low:g} to {high:g} {unit}".rstrip())
