"""Distorted test sets: clean, 2-dist, fsd, dns, ns.

What is drawn for an utterance is a hash of (seed, utterance id): the same audio for every model, batch size
and number of workers. The noise of fsd and dns is never used in training.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import torch
from lhotse import CutSet
from lhotse.cut import Cut
from torch import Tensor

from distill.data.audio import read_audio, samples_at_16k
from distill.data.dataset import check_length
from distill.data.noise import NoiseReader
from distill.distortions import CONDITIONS, VARIANTS, Distorter, DistortionConfig, Plan, UtterancePlan
from distill.distortions.options import NON_ADDITIVE, WITHOUT_VARIANTS
from distill.downstream.results import describe_silent
from distill.encoder import Encoder
from distill.errors import DataError, UsageError
from distill.hubert import HubertConfig
from distill.preflight.survey import check_files
from distill.waveforms import is_silent, pad

logger = logging.getLogger(__name__)


class DistortedSet:
    """All of some speech under one condition, in batches of similar length.

    Silent noise and rooms cannot be applied, nor any noise to silent speech: such utterances are counted in
    `silent`, and a warning at the end of the set gives their number.

    Args:
        cuts: the clean utterances.
        condition: "clean", "2-dist", "fsd", "dns", "ns", one distortion alone (`find_condition`), or a
            `DistortionConfig`.
        noises: reader of the noise that the condition needs; None if it needs none.
        seed: another seed, other distortions.
        skip: leave out utterances that cannot be used and list them in `skipped`; noise and rooms must be
            complete all the same.
        encoders: that it is for: an utterance must have at least one frame in each of them.
        variant: of a named condition: "paper" or "authors".

    Raises:
        DataError: naming files or kinds of noise that are missing, or an utterance that is too short.
    """

    def __init__(
        self,
        cuts: CutSet,
        condition: str | DistortionConfig,
        noises: NoiseReader | None = None,
        *,
        seed: int = 0,
        skip: bool = False,
        encoders: Iterable[torch.nn.Module] = (),
        variant: str = "paper",
    ):
        configs = [e.config for e in encoders if isinstance(e, Encoder)]
        self.model = max(configs, key=lambda config: config.min_samples, default=HubertConfig())
        self.cuts: list[Cut] = sorted(cuts, key=lambda cut: cut.duration)  # pyright: ignore
        self.skip = skip
        self.skipped: list[tuple[str, str]] = []  # id and reason
        self.silent = Counter()  # utterances, by what was silent: speech, noise, rir
        if not skip:
            check_files(self.cuts, "the speech")
            for cut in self.cuts[:1]:
                self._check_length(cut)
        self.distorter = Distorter.from_config(find_condition(condition, variant), split="test")
        self.noises = noises or NoiseReader({})
        for corpus in self.distorter.config.corpora:
            if corpus not in self.noises.corpora:
                raise DataError(
                    f"condition {condition} needs {corpus} recordings: name them with --noise {corpus}=SOURCE"
                )
            check_files(self.noises.corpora[corpus], corpus)
            if self.distorter.config.strung and corpus != "rir":
                self.noises.check_strung(corpus)
        self.name = condition if isinstance(condition, str) else "the distorted set"
        self.seed = seed

    def batches(self, size: int = 16) -> Iterator[tuple[list[Cut], Tensor, Tensor, Plan]]:
        """Cuts, distorted waveforms (B, T), lengths (B,) and the plan that was applied.

        Where silence made noise or a room impossible, the plan has "none" or no room.
        """
        for cuts, distorted, lengths, plan, _ in self.reasoned_batches(size):
            yield cuts, distorted, lengths, plan

    def reasoned_batches(self, size: int = 16) -> Iterator[tuple[list[Cut], Tensor, Tensor, Plan, list[str]]]:
        """`batches`, and for each utterance what was drawn but left out, and why; else ""."""
        self.silent.clear()
        self.skipped.clear()
        for start in range(0, len(self.cuts), size):
            cuts, waves = self._read(self.cuts[start : start + size])
            if not cuts:
                continue
            waveforms, lengths = pad(waves)
            plan = self.distorter.plan([cut.id for cut in cuts], seed=self.seed, epoch=0, stream="test")
            view = self.noises.whole_view(plan, lengths.tolist())
            distorted, done = self.distorter.apply(waveforms, lengths, plan, view.noises, view.rirs)
            silent = [silent_parts(*each) for each in zip(waves, plan, done, strict=True)]
            self.silent.update(part for parts in silent for part in parts)
            left_out = [_left_out(*each) for each in zip(plan, silent, strict=True)]
            yield cuts, distorted, lengths, done, left_out
        if self.silent:
            logger.warning("%s: of %d utterances %s", self.name, len(self.cuts), describe_silent(self.silent))

    def _check_length(self, cut: Cut) -> None:
        check_length(cut.id, samples_at_16k(cut), self.model)

    def _read(self, cuts: Sequence[Cut]) -> tuple[list[Cut], list[Tensor]]:
        """The utterances that can be used, and their samples."""
        read: list[tuple[Cut, Tensor]] = []
        for cut in cuts:
            try:
                self._check_length(cut)
                read.append((cut, read_audio(cut)))
            except DataError as error:
                if not self.skip:
                    raise
                self.skipped.append((cut.id, str(error).removeprefix(f"{cut.id}: ")))
        return [cut for cut, _ in read], [wave for _, wave in read]


def silent_parts(waveform: Tensor, plan: UtterancePlan, done: UtterancePlan) -> list[str]:
    """What was silent, so that an utterance did not get the distortion that was drawn for it.

    Args:
        waveform: (T,), clean.
        plan: what was drawn.
        done: what was applied.

    Returns:
        "rir", and "speech" or "noise".
    """
    found = ["rir"] if plan.rir and not done.rir else []
    if plan.additive != done.additive:
        found.append("speech" if is_silent(waveform) else "noise")
    return found


def _left_out(plan: UtterancePlan, silent: Sequence[str]) -> str:
    """What was drawn for one utterance and left out, with the reason."""
    reasons = {
        "rir": "rir: the room impulse response is silent",
        "speech": f"{plan.additive}: the speech is silent",
        "noise": f"{plan.additive}: the clip is silent",
    }
    return "; ".join(reasons[part] for part in silent)


def find_condition(condition: str | DistortionConfig, variant: str = "paper") -> DistortionConfig:
    """A condition by name, or one distortion alone: musan, wham, gaussian, speech, or one of `NON_ADDITIVE`.

    Args:
        condition: name, with "@" and a number at one signal-to-noise ratio in dB ("fsd@0"), or a
            `DistortionConfig`, which is returned unchanged.
        variant: "paper" or "authors".

    Raises:
        UsageError: for an unknown condition or variant.
    """
    if isinstance(condition, DistortionConfig):
        return condition
    if variant not in VARIANTS:
        raise UsageError(f"variant must be {' or '.join(VARIANTS)}, not {variant!r}")
    name, at, snr_db = condition.partition("@")
    found = _named_condition(name)
    if name not in WITHOUT_VARIANTS and variant != found.variant:
        found = found.of_variant(variant)
    return _at_snr(found, condition, snr_db) if at else found


def _at_snr(config: DistortionConfig, condition: str, snr_db: str) -> DistortionConfig:
    """The same at one signal-to-noise ratio."""
    if set(config.additive) == {"none"}:
        raise UsageError(
            f"condition {condition!r}: {condition.partition('@')[0]} has no noise to set an SNR of"
        )
    try:
        return replace(config, snr_db=(float(snr_db), float(snr_db)))
    except ValueError:
        raise UsageError(
            f"condition {condition!r}: after @ comes an SNR in dB, within -100 and 100 (whole numbers with "
            "variant authors), as in fsd@0"
        ) from None


def _named_condition(condition: str) -> DistortionConfig:
    if condition in CONDITIONS:
        return CONDITIONS[condition]
    additive = ("musan", "wham", "gaussian", "speech")
    if condition in additive:
        return DistortionConfig(additive=(condition,), non_additive=("none",))
    if condition in NON_ADDITIVE:
        return DistortionConfig(additive=("none",), non_additive=(condition,))
    known = (*CONDITIONS, *additive, *NON_ADDITIVE)
    raise UsageError(f"unknown condition {condition!r}; there are {', '.join(known)}")
