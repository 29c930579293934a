"""Noise and room responses for the distortions that a plan asks for."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from lhotse.cut import Cut
from torch import Tensor

from distill.batch import View
from distill.data.audio import read_audio, samples_at_16k, silent_throughout
from distill.data.manifest import Cuts
from distill.data.sources import index_cuts
from distill.distortions import Plan, UtterancePlan
from distill.distortions.additive import noise_segment
from distill.distortions.reverb import usable_rir
from distill.distortions.strung import SHORTEST_S, ClipDraws, string_clips
from distill.errors import DataError
from distill.processes import is_first_process
from distill.waveforms import is_silent

logger = logging.getLogger(__name__)

_SILENT = "holds nothing but silence"
_SPEECH = "speech"  # the additive type whose clips are utterances


class NoiseReader:
    """Finds and reads the noise segments and room responses that plans ask for.

    A recording that cannot be read is listed (`take_lost`) and replaced by silence, with which the distorter
    leaves an utterance as it is: training does without some recordings. Tests do not: they use `whole_view`.
    Recordings that are silent themselves are listed, too (`take_silent`).

    Args:
        corpora: by name ("musan", "wham", "fsd", "dns", "speech", "rir"): sources as for `open_cuts`, or
            what is open already. In "speech" no utterance is its own noise: its id is passed over.

    Raises:
        DataError: for a source that is missing or empty.
    """

    def __init__(self, corpora: Mapping[str, str | Sequence[str] | Cuts]):
        self.corpora: dict[str, Cuts] = {
            name: s if isinstance(s, Cuts) else index_cuts(s, what=_what(name)) for name, s in corpora.items()
        }
        self._lost: list[tuple[str, str]] = []
        self._silent: list[tuple[str, str]] = []
        self._pauses = 0
        self._without_sound: dict[
            tuple[str, str], bool
        ] = {}  # by corpus and id, of those with a silent stretch
        self._draws: dict[str, ClipDraws] = {}  # by corpus, of those that were strung
        self._reads = 0

    def noise(self, plan: UtterancePlan, n_samples: int) -> Tensor | None:
        """The noise for an utterance of `n_samples`: a segment of that length, or a shorter clip as it is.

        Strung clips fill the utterance, each of unit power; silence if too many in a row cannot be used.
        """
        if plan.noise_corpus is None:
            return None
        if plan.strung:
            noise, _ = self._string(plan, n_samples)
            return torch.zeros(n_samples) if noise is None else noise
        cut, start, count = self._segment(plan, n_samples)
        samples = self._read_noise(plan, cut, start, count)
        return torch.zeros(1) if samples is None else samples

    def noise_clips(self, plan: UtterancePlan, n_samples: int) -> list[tuple[Cut, int]]:
        """The clips that are the noise of an utterance of `n_samples`, in order, and their first sample used.

        To say which of strung clips sound, they have to be read.
        """
        if plan.strung:
            clips = self._corpus(plan.additive)
            return [(clips[number], start) for number, start in self._string(plan, n_samples)[1]]
        return [self._segment(plan, n_samples)[:2]]

    def check_strung(self, corpus: str) -> None:
        """Refuse a corpus whose clips are all too short to be strung together; say how many are left out.

        Raises:
            DataError: naming it.
        """
        known = corpus in self._draws
        n_short = self._draws_of(corpus).n_short
        if n_short and not known and is_first_process():
            logger.warning(
                "%s noise: %d of %d clips are shorter than %g s (distortion.strung) and left out",
                *(corpus, n_short, len(self._corpus(corpus)), SHORTEST_S),
            )

    def _draws_of(self, corpus: str) -> ClipDraws:
        """Draws by duration from a corpus."""
        if corpus not in self._draws:
            clips = self._corpus(corpus)
            try:
                self._draws[corpus] = ClipDraws(clips.durations(np.arange(len(clips))))
            except ValueError as error:
                raise DataError(
                    f"{corpus} noise: {error}, and distortion.strung leaves out shorter"
                ) from None
        return self._draws[corpus]

    def _string(self, plan: UtterancePlan, n_samples: int) -> tuple[Tensor | None, list[tuple[int, int]]]:
        """Strung clips for an utterance, and number and first sample of each; see `string_clips`."""
        clips = self._corpus(plan.additive)
        return string_clips(
            self._draws_of(plan.additive),
            plan.string_seed,
            n_samples,
            length=lambda number: samples_at_16k(clips[number]),
            read=lambda number, *part: self._read_noise(plan, clips[number], *part),
        )

    def _segment(self, plan: UtterancePlan, n_samples: int) -> tuple[Cut, int, int]:
        """The one clip that is the noise of an utterance, its first sample used, and how many."""
        own = plan.utterance_id if plan.additive == _SPEECH else None
        cut = self._choose(plan.additive, plan.noise_choice, besides=own)
        return cut, *noise_segment(samples_at_16k(cut), n_samples, plan.noise_offset)

    def _read_noise(self, plan: UtterancePlan, cut: Cut, start: int, count: int) -> Tensor | None:
        """Samples of a clip, noting silence; None, noting the clip, if they cannot be read.

        None for the utterance itself, too, where clips of speech are strung.
        """
        if plan.additive == _SPEECH and cut.id == plan.utterance_id:
            return None
        self._reads += 1
        try:
            samples = read_audio(cut, start, count)
        except DataError as error:
            self._note_lost(cut, error)
            return None
        if is_silent(samples):
            self._note_silent(plan.additive, cut)
        return samples

    def rir(self, plan: UtterancePlan) -> Tensor | None:
        """The room impulse response for an utterance."""
        if not plan.rir:
            return None
        cut = self.rir_clip(plan)
        self._reads += 1
        try:
            response = read_audio(cut)
        except DataError as error:
            self._note_lost(cut, error)
            return torch.zeros(1)
        if not usable_rir(response):
            self._silent.append((cut.id, _SILENT))
        return response

    def rir_clip(self, plan: UtterancePlan) -> Cut:
        """Which room impulse response an utterance gets."""
        return self._choose("rir", plan.rir_choice)

    def take_reads(self) -> int:
        """Recordings of noise and rooms that were read, or could not be, since the last call."""
        reads, self._reads = self._reads, 0
        return reads

    def take_lost(self) -> list[tuple[str, str]]:
        """(id, reason) of every recording that could not be read since the last call."""
        lost, self._lost = self._lost, []
        return lost

    def take_silent(self) -> tuple[list[tuple[str, str]], int]:
        """What was silent since the last call.

        Returns:
            (id, reason) of every recording that is silent throughout, and the number of times that only the
            stretch drawn was: recordings have pauses.
        """
        silent, pauses = self._silent, self._pauses
        self._silent, self._pauses = [], 0
        return silent, pauses

    def _note_silent(self, corpus: str, cut: Cut) -> None:
        """Note a recording with a silent stretch, as silent throughout or as one with a pause."""
        if (corpus, cut.id) not in self._without_sound:
            try:
                without_sound = silent_throughout(cut)
            except DataError:  # it is listed when the part that cannot be read is drawn
                without_sound = False
            self._without_sound[corpus, cut.id] = without_sound
        if self._without_sound[corpus, cut.id]:
            self._silent.append((cut.id, _SILENT))
        else:
            self._pauses += 1

    def _note_lost(self, cut: Cut, error: DataError) -> None:
        """Note a broken recording, which must not end a run of days."""
        self._lost.append((cut.id, str(error).removeprefix(f"{cut.id}: ")))

    def view(self, plan: Plan, lengths: Iterable[int]) -> View:
        """Everything that a plan for utterances of these lengths needs."""
        pairs = list(zip(plan.utterances, lengths, strict=True))
        return View(plan, [self.noise(u, n) for u, n in pairs], [self.rir(u) for u, _ in pairs])

    def whole_view(self, plan: Plan, lengths: Iterable[int]) -> View:
        """As `view`, for tests, in which nothing may be missing.

        Raises:
            DataError: naming a recording that cannot be read.
        """
        view = self.view(plan, lengths)
        self.take_silent()  # tests report what was left out from the plans of what was applied
        refuse_lost(self.take_lost())
        return view

    def _choose(self, corpus: str, choice: float, besides: str | None = None) -> Cut:
        """A clip by a draw in [0, 1), each equally likely, without the one of the name `besides`."""
        clips = self._corpus(corpus)
        number = int(choice * len(clips))
        if clips[number].id != besides:
            return clips[number]
        if len(clips) == 1:
            raise DataError(f"{_what(corpus)}: {besides} is the only one, and cannot be its own noise")
        # What is left of the draw is uniform in [0, 1), too: it chooses among all others.
        step = 1 + int((choice * len(clips) - number) * (len(clips) - 1))
        return clips[(number + step) % len(clips)]

    def _corpus(self, corpus: str) -> Cuts:
        if corpus not in self.corpora:
            raise DataError(
                f"{corpus} recordings are asked for, but no source is given: recipes name it in "
                f"data.noises.{corpus}, commands with --noise {corpus}=SOURCE"
            )
        return self.corpora[corpus]


def _what(corpus: str) -> str:
    """What a corpus is called in messages."""
    return "rooms (rir)" if corpus == "rir" else f"{corpus} noise"


def refuse_lost(lost: Sequence[tuple[str, str]]) -> None:
    """End a test whose noise is incomplete: without it, clean speech would be scored as distorted.

    Args:
        lost: (id, reason) of recordings that could not be read.

    Raises:
        DataError: naming the first.
    """
    for name, why in lost:
        raise DataError(f"the noise or room {name} of a test cannot be used: {why}; repair or replace it")
