"""The speech of a task: training, dev and test utterances, checked to be complete."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lhotse.cut import Cut

from distill.data.audio import samples_at_16k
from distill.data.contents import contents_of
from distill.data.noise import NoiseReader
from distill.data.sources import check_names
from distill.downstream.head_record import REPAIRABLE, check_head, read_head
from distill.downstream.options import EvaluationConfig
from distill.downstream.silence import whole_recordings
from distill.downstream.task_sources import noise_corpora, noise_sources, read_split, source_of
from distill.downstream.tasks import RECORDED
from distill.downstream.truths import truths
from distill.encoder import EncoderConfig
from distill.errors import DamagedFile, differing_keys, refuse_other_settings
from distill.hashing import hash_lines
from distill.hubert import HubertConfig
from distill.preflight.survey import check_files

DEV_SHARE = 0.2
"""Share of the training speech that is for dev in tasks without a dev set; as in s3prl."""


class TaskSpeech:
    """The utterances of a task; every manifest is read once.

    Args:
        config: the evaluation.
        model: each utterance must have at least one frame in it; default: HuBERT base.
    """

    def __init__(self, config: EvaluationConfig, model: EncoderConfig | None = None):
        self.config, self.model = config, model or HubertConfig()
        self._splits: dict[str, list[Cut]] = {}
        self._hashes: dict[str, str] = {}
        self._contents: dict[str, str] = {}

    def split(self, name: str) -> list[Cut]:
        """The utterances of a manifest (`read_split`)."""
        if name not in self._splits:
            self._splits[name] = read_split(self.config, name, self.model)
        return self._splits[name]

    def training(self, fold: int | None) -> tuple[list[Cut], list[Cut]]:
        """Training and dev utterances.

        Args:
            fold: ER: the session that is left out; a random fifth of the others' utterances (by the seed, or
                always the same with the protocol of s3prl) is for dev.
        """
        task = self.config.defaults
        names = self._training_names(fold)
        train = [cut for name in names for cut in self.split(name)]
        check_names(train, ", ".join(source_of(self.config, name) for name in names))
        if task.dev is not None:
            return self._cropped(train), self.split(task.dev)
        n_train = int((1 - DEV_SHARE) * len(train))
        order = self._order(len(train), fold)
        train, dev = ([train[n] for n in sorted(part)] for part in (order[:n_train], order[n_train:]))
        return train, dev

    def _order(self, count: int, fold: int | None) -> Sequence[int]:
        """Random order of utterances, of which the first are for training.

        With a `dev_seed` it is that of `torch.manual_seed` and `torch.utils.data.random_split`, as in s3prl
        0.4.18, which applies it to the turns in the order of its JSON; here, in the order of the manifests.
        """
        if (seed := self.config.defaults.dev_seed) is not None:
            return torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()
        generator = np.random.Generator(np.random.Philox(key=[self.config.seed, fold or 0]))
        return generator.permutation(count).tolist()

    def _training_names(self, fold: int | None) -> list[str]:
        return [name for number, name in enumerate(self.config.defaults.train, start=1) if number != fold]

    def test(self, condition: str, fold: int | None) -> list[Cut]:
        """Test utterances of a condition, before they are distorted, the shortest first."""
        return sorted(self.split(self._test_name(condition, fold)), key=lambda cut: cut.duration)

    def _test_name(self, condition: str, fold: int | None) -> str:
        task = self.config.defaults
        return condition if condition in RECORDED else task.test or task.train[(fold or 1) - 1]

    @functools.cached_property
    def noises(self) -> NoiseReader:
        """Reader of the noise that the conditions need.

        Raises:
            DataError: for a source, or files of its recordings, that are missing.
        """
        sources = noise_sources(self.config)
        reader = NoiseReader(sources)
        for corpus, cuts in reader.corpora.items():
            check_files(cuts, ", ".join(sources[corpus]))
        return reader

    def training_audio(self, fold: int | None) -> dict[str, dict[str, str]]:
        """Contents of the audio that a head is trained and chosen on, kept with it and its scores.

        Returns:
            "training audio": by manifest, an identity of the contents of its recordings (`contents_of`).
        """
        dev = self.config.defaults.dev
        names = [*self._training_names(fold), *([dev] if dev is not None else [])]
        return {"training audio": {name: self._audio(name) for name in names}}

    def _audio(self, name: str) -> str:
        if name not in self._contents:
            cuts = sorted(self.split(name), key=lambda cut: cut.id)
            self._contents[name] = contents_of(cuts, in_full=True)
        return self._contents[name]

    def _noise_audio(self, corpus: str) -> str:
        """Contents of the noise in the order of the manifests, which clips are drawn by."""
        key = f"noise {corpus}"
        if key not in self._contents:
            self._contents[key] = contents_of(list(self.noises.corpora[corpus]), in_full=False)
        return self._contents[key]

    def test_data(self, condition: str, fold: int | None) -> dict[str, Any]:
        """Identity of the test set and size of the noise, kept with a score.

        Returns:
            "test set": a hash of the utterances' ids, lengths and labels; "noise": by corpus, the number of
            clips and seconds.
        """
        name = self._test_name(condition, fold)
        if name not in self._hashes:
            cuts = sorted(self.split(name), key=lambda cut: cut.id)
            said = zip(cuts, truths(cuts, self.config), strict=True)
            self._hashes[name] = hash_lines(
                f"{cut.id}\t{samples_at_16k(cut)}\t{truth}" for cut, truth in said
            )
        clips = {corpus: self.noises.corpora[corpus] for corpus in noise_corpora(condition)}
        noise = {corpus: [len(cuts), round(cuts.seconds)] for corpus, cuts in clips.items()}
        return {"test set": self._hashes[name], "noise": noise}

    def test_audio(self, condition: str, fold: int | None) -> dict[str, Any]:
        """Contents of the test audio and the noise, kept with a score.

        Returns:
            "test audio", and "noise audio" by corpus (`contents_of`).
        """
        noise = {corpus: self._noise_audio(corpus) for corpus in noise_corpora(condition)}
        return {"test audio": self._audio(self._test_name(condition, fold)), "noise audio": noise}

    def check_score(
        self, settings: Mapping[str, Any], condition: str, fold: int | None, *, lm: bool, where: str
    ) -> None:
        """Refuse a score of other settings or audio; what was not noted with it is not compared.

        Where audio is does not matter if its contents were noted.

        Args:
            settings: kept with the score.
            condition: of the score.
            fold: of the score.
            lm: whether a language model was used.
            where: file of the score, for the message.

        Raises:
            UserError: naming what differs.
        """
        if not isinstance(settings, Mapping):
            raise DamagedFile(f"{where} is damaged (its settings are none): remove it to test again")
        wanted = self.config.settings(lm=lm)
        if "test audio" in settings:
            del wanted["sources"], wanted["noises"]
        refuse_other_settings(where, differing_keys(settings, wanted))
        for key, found in (
            ("test set", lambda: self.test_data(condition, fold)),
            ("test audio", lambda: self.test_audio(condition, fold)),
            ("training audio", lambda: self.training_audio(fold)),
        ):
            if key in settings:  # else no audio need be opened
                refuse_other_settings(where, differing_keys(settings, found()))

    def check_training(self, folder: Path, fold: int | None) -> None:
        """Refuse a head of other training audio, unless that was not noted or may have been repaired.

        Args:
            folder: of the head.
            fold: of the head.

        Raises:
            UserError: naming what differs.
        """
        head = read_head(folder)
        if "training audio" in head and REPAIRABLE not in head:  # else no audio need be opened
            check_head(folder, self.training_audio(fold))

    def cacheable(self) -> dict[str, list[Cut]]:
        """By manifest, training and dev utterances of all folds, without those that are cropped."""
        task = self.config.defaults
        most_s = self.config.effective_crop_s or float("inf")
        found = {name: self._cropped(self.split(name)) for name in task.train}
        if task.dev is not None:
            found[task.dev] = self.split(task.dev)
        return {
            name: [cut for cut in cuts if name == task.dev or cut.duration <= most_s]
            for name, cuts in found.items()
        }

    def _cropped(self, cuts: list[Cut]) -> list[Cut]:
        if self.config.effective_crop_s is None:
            return cuts
        return whole_recordings(cuts, self.config.label or self.config.defaults.label)
