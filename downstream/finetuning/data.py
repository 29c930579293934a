"""Speech with transcripts: what can be learned from, and the loaders of it.

Utterances are never cropped here, since a crop has no transcript.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import numpy as np
from lhotse.cut import Cut
from typing_extensions import override

from distill.data.audio import samples_at_16k
from distill.data.datamodule import SpeechData
from distill.data.dataset import SpeechDataset
from distill.data.manifest import ChosenCuts, Cuts, fingerprint
from distill.data.unusable import why_unusable
from distill.downstream.finetuning.classifier import frames_needed
from distill.downstream.finetuning.units import Units, normalised
from distill.downstream.truths import class_of, text_of
from distill.errors import DataError
from distill.options import FinetuneRecipe
from distill.processes import is_first_process

logger = logging.getLogger(__name__)

_NEVER_CROPPED = 2**62  # samples


def transcript_of(cut: Cut, column: str | None = None) -> str:
    """What is said in an utterance, in upper case.

    Args:
        cut: with a transcript in its supervision or in the field `text`.
        column: custom field or TSV column with the words instead, `_` and `|` for spaces.

    Raises:
        DataError: it has none.
    """
    text = text_of(cut) if column is None else class_of(cut, column).replace("_", " ").replace("|", " ")
    return normalised(text)


class TranscribedSpeech(SpeechData):
    """The loaders of a fine-tuning, and the transcripts.

    Without what has no transcript, and in training without utterances longer than `data.max_samples`; both
    are counted in a warning.

    Raises:
        DataError: nothing is left, or two utterances of a name have different transcripts.
    """

    def __init__(self, recipe: FinetuneRecipe, *, other_speech: bool = False):
        super().__init__(recipe, streams=["student"] if recipe.distort else [], other_speech=other_speech)
        self.texts: dict[str, dict[str, str]] = {}
        """Of "train" and of "dev": the transcripts by utterance id."""
        self.targets_of: dict[str, dict[str, list[int]]] = {}
        """The same as numbers of symbols, those that CTC can align; see `number`."""
        self.n_samples: dict[str, list[int]] = {}
        longest = recipe.data.max_samples
        self.train_cuts = self._transcribed("train", self.train_cuts, recipe.transcripts, longest)
        self.dev_cuts = self._transcribed("dev", self.dev_cuts, recipe.transcripts, _NEVER_CROPPED)
        self.speech = fingerprint(self.train_cuts)

    def number(self, units: Units, frames_of: Callable[[int], int]) -> None:
        """Turn transcripts into numbers of symbols.

        Transcripts that need more frames than their audio has teach nothing: such utterances are left out of
        the training speech, and of the dev loss, though not of the dev error rate. They are counted.

        Args:
            units: the symbols.
            frames_of: samples at 16 kHz -> frames of the classifier.

        Raises:
            DataError: for a training transcript that cannot be written in the units, or if none is left.
        """
        for split in ("train", "dev"):
            cuts = self.train_cuts if split == "train" else self.dev_cuts
            found, kept, short = {}, [], []
            for number, (name, text) in enumerate(self.texts[split].items()):
                target = self._encoded(units, name, text, split)
                if target is None:
                    continue
                if frames_needed(target) > frames_of(self.n_samples[split][number]):
                    short.append(name)
                    continue
                found[name] = target
                kept.append(number)
            if short and is_first_process():
                logger.warning(
                    "data.%s: the transcripts of %d of %d utterances need more frames than there are (%s): "
                    "%s; if text and audio belong together, a larger vocabulary or shorter frames "
                    "(classifier.frame_ms) help",
                    *(split, len(short), len(self.texts[split]), _some(short)),
                    "they are left out" if split == "train" else "they do not count in the dev loss",
                )
            if not found:
                raise DataError(f"data.{split}: no transcript fits into the frames of its audio")
            self.targets_of[split] = found
            if split == "train":
                self.train_cuts = _chosen(cuts, kept)
                self.speech = fingerprint(self.train_cuts)

    def _encoded(self, units: Units, name: str, text: str, split: str) -> list[int] | None:
        """None for a dev transcript that cannot be written: its words still count as errors."""
        try:
            return units.encode(text)
        except DataError as error:
            if split == "train":
                raise DataError(f"data.train: {name}: {error}") from None
            logger.warning("data.dev: %s: %s: it does not count in the dev loss", name, error)
            return None

    def _transcribed(self, split: str, cuts: Cuts, column: str | None, longest: int) -> Cuts:
        """The utterances with a transcript that are not too long; fills `texts` and `n_samples`."""
        texts: dict[str, str] = {}
        kept, samples, silent, long = [], [], [], []
        for number in range(len(cuts)):
            cut: Cut = cuts[number]
            try:
                text = transcript_of(cut, column)
            except DataError:
                text = ""
            if not text:
                silent.append(cut.id)
            elif (n_samples := samples_at_16k(cut)) > longest:
                long.append(cut.id)
            elif cut.id in texts:
                raise DataError(f"data.{split}: two utterances are called {cut.id}; names must differ")
            else:
                texts[cut.id] = text
                kept.append(number)
                samples.append(_NEVER_CROPPED if why_unusable(cut) else n_samples)  # reading it will tell
        if not kept:
            what = f"longer than data.max_samples={longest}" if long else "without a transcript"
            advice = "" if long else ": prepare the corpus with its texts, or set transcripts to their column"
            raise DataError(f"data.{split}: all {len(cuts)} utterances are {what}{advice}")
        for names, why in ((silent, "have no transcript"), (long, f"are longer than {longest} samples")):
            if names and is_first_process():
                logger.warning(
                    "data.%s: %d of %d utterances %s and are left out (%s)",
                    *(split, len(names), len(cuts), why, _some(names)),
                )
        self.texts[split], self.n_samples[split] = texts, samples
        return _chosen(cuts, kept)

    @override
    def _dataset(self, split: str) -> SpeechDataset:
        """Dev speech is clean, and whole however long it is."""
        dataset = super()._dataset(split)
        if split == "dev":
            dataset.max_samples, dataset.streams = _NEVER_CROPPED, ()
        return dataset


def _chosen(cuts: Cuts, numbers: Sequence[int]) -> Cuts:
    """Those cuts; the corpus itself if they are all."""
    return cuts if len(numbers) == len(cuts) else ChosenCuts(cuts, np.array(numbers))


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + ", ..." * (len(names) > 3)
