"""The speech of a task: training, dev and test utterances, checked to be all there."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lhotse import MonoCut
from lhotse.cut import Cut
from lhotse.utils import fastcopy

from distill.data.audio import samples_at_16k
from distill.data.contents import contents_of
from distill.data.loading import check_length
from distill.data.noise import NoiseReader
from distill.data.sources import check_names, open_cuts, split_query
from distill.data_prep.advice import how_to_make
from distill.data_prep.speech_commands import SILENCE
from distill.downstream.distorted_sets import find_condition
from distill.downstream.labels import class_of, truths
from distill.downstream.options import NOISES, RECORDED, EvaluationConfig
from distill.downstream.results import MENDING, check_head, check_settings, read_head
from distill.errors import DataError
from distill.hashing import hash_lines
from distill.hubert import HubertConfig
from distill.preflight.survey import check_files

DEV_SHARE = 0.2
"""Of the training speech, for tasks without a dev set; as in s3prl."""


class TaskSpeech:
    """The utterances of a task; every manifest is read once.

    Args:
        config: the evaluation.
        model: that hears them, a frame of each at least; default: HuBERT base.
    """

    def __init__(self, config: EvaluationConfig, model: HubertConfig | None = None):
        self.config, self.model = config, model or HubertConfig()
        self._splits: dict[str, list[Cut]] = {}
        self._hashes: dict[str, str] = {}
        self._contents: dict[str, str] = {}

    def split(self, name: str) -> list[Cut]:
        """The utterances of a manifest; see `read_split`."""
        if name not in self._splits:
            self._splits[name] = read_split(self.config, name, self.model)
        return self._splits[name]

    def training(self, fold: int | None) -> tuple[list[Cut], list[Cut]]:
        """Training and dev utterances.

        Args:
            fold: ER: the session that is left out; of the others' utterances a fifth, drawn by the seed (or,
                with the protocol of s3prl, always the same), is for dev.
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
        """Random order of that many utterances, of which the first are for training.

        With a `dev_seed` that of `torch.manual_seed` and `torch.utils.data.random_split`, as in s3prl 0.4.18.
        There it is of the turns as its JSON lists them, here in the order of the manifests.
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
        """The noise that the conditions need.

        Raises:
            DataError: for a source, or files of its recordings, that are missing.
        """
        sources = noise_sources(self.config)
        reader = NoiseReader(sources)
        for corpus, cuts in reader.corpora.items():
            check_files(cuts, ", ".join(sources[corpus]))
        return reader

    def training_audio(self, fold: int | None) -> dict[str, dict[str, str]]:
        """What a head hears in training and is chosen by, kept with it and its scores.

        Returns:
            "training audio": by manifest, a name of what its recordings hold (`contents_of`).
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
        """In the order of the manifests, by which clips are drawn."""
        key = f"noise {corpus}"
        if key not in self._contents:
            self._contents[key] = contents_of(list(self.noises.corpora[corpus]), in_full=False)
        return self._contents[key]

    def test_data(self, condition: str, fold: int | None) -> dict[str, Any]:
        """What a score is measured on, kept with it.

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
        """The same for what its recordings hold.

        Returns:
            "test audio", and "noise audio" by corpus (`contents_of`).
        """
        noise = {corpus: self._noise_audio(corpus) for corpus in noise_corpora(condition)}
        return {"test audio": self._audio(self._test_name(condition, fold)), "noise audio": noise}

    def check_score(
        self, settings: Mapping[str, Any], condition: str, fold: int | None, *, lm: bool, where: str
    ) -> None:
        """Refuse a score of other settings or audio; what was not noted with it is not asked about.

        Where audio lies does not matter if it was noted what it holds.

        Args:
            settings: that were kept with the score.
            condition: that it is of.
            fold: that it is of.
            lm: whether a language model helped.
            where: the score, for people.

        Raises:
            UserError: naming what differs.
        """
        wanted = self.config.settings(lm=lm)
        if "test audio" in settings:
            del wanted["sources"], wanted["noises"]
        check_settings(settings, wanted, where)
        for key, found in (
            ("test set", lambda: self.test_data(condition, fold)),
            ("test audio", lambda: self.test_audio(condition, fold)),
            ("training audio", lambda: self.training_audio(fold)),
        ):
            if key in settings:  # else nothing need be opened
                check_settings(settings, found(), where)

    def check_training(self, folder: Path, fold: int | None) -> None:
        """Refuse a head of other training audio, unless it was not noted or may have been mended.

        Args:
            folder: of the head; one that is not begun may be anything.
            fold: that it is of.

        Raises:
            UserError: naming what differs.
        """
        head = read_head(folder)
        if "training audio" in head and MENDING not in head:  # else nothing need be opened
            check_head(folder, self.training_audio(fold))

    def cacheable(self) -> dict[str, list[Cut]]:
        """By manifest, all training and dev utterances of all folds that are never cropped."""
        task = self.config.defaults
        most_s = self.config.settled_crop_s or float("inf")
        found = {name: self._cropped(self.split(name)) for name in task.train}
        if task.dev is not None:
            found[task.dev] = self.split(task.dev)
        return {
            name: [cut for cut in cuts if name == task.dev or cut.duration <= most_s]
            for name, cuts in found.items()
        }

    def _cropped(self, cuts: list[Cut]) -> list[Cut]:
        if self.config.settled_crop_s is None:
            return cuts
        return whole_recordings(cuts, self.config.label or self.config.defaults.label)


def manifests_of(config: EvaluationConfig) -> list[str]:
    """Names of the manifests of all speech that an evaluation hears: training, dev, test, recorded tests."""
    task = config.defaults
    names = [*task.train, *(name for name in (task.dev, task.test) if name)]
    return list(dict.fromkeys([*names, *(name for name in config.settled_conditions if name in RECORDED)]))


def source_of(config: EvaluationConfig, name: str) -> str:
    """Where a manifest is: as `config.sources` says, else in the data folder."""
    below = RECORDED.get(name, f"{config.defaults.corpus}/{name}")
    return config.sources.get(name, f"{config.data}/{below}.jsonl.gz")


def check_sources(config: EvaluationConfig) -> None:
    """Name all manifests and noises that are missing at once, and the commands that make them.

    Raises:
        DataError: if any is.
    """
    named = [
        (source_of(config, name), f" (sources.{name})" if name in config.sources else "")
        for name in manifests_of(config)
    ]
    for corpus, several in noise_sources(config).items():
        named += [(source, " (rooms)" if corpus == "rir" else f" ({corpus} noise)") for source in several]
    missing: dict[Path, str] = {}
    for source, what in named:
        path = Path(split_query(source)[0])
        if not path.exists():
            missing.setdefault(path, what)
    if missing:
        ways = dict.fromkeys(how_to_make(path) for path in missing)
        verb = "does" if len(missing) == 1 else "do"
        said = ", ".join(f"{path}{what}" for path, what in missing.items())
        raise DataError("; ".join([f"{said} {verb} not exist", *ways]))


def read_split(config: EvaluationConfig, name: str, model: HubertConfig) -> list[Cut]:
    """The utterances of a manifest, each with at least a frame of the model.

    Raises:
        DataError: if it is missing, has two utterances of the same name, or audio files are missing.
    """
    source = source_of(config, name)
    cuts: list[Cut] = list(open_cuts(source))  # pyright: ignore[reportAssignmentType]
    check_names(cuts, source)
    check_files(cuts, source)
    for cut in cuts:
        check_length(f"{source}: {cut.id}", samples_at_16k(cut), model)
    return cuts


def whole_recordings(cuts: Sequence[Cut], column: str = "label") -> list[Cut]:
    """Background noise that was cut into seconds, in one piece again, to be cropped at a new place each time.

    Only silence (`_silence_`), of which any second is as good as another: other labelled pieces of a
    recording are utterances of their own. Pieces are joined where one follows the other; what is left of the
    recording after the last, less than a piece, is taken along if the first is its beginning.

    Args:
        cuts: training utterances.
        column: custom field with the class.

    Returns:
        All others as they are, and what was joined in the place of its first piece, with its class.
    """
    pieces: dict[tuple[str, ...], list[MonoCut]] = {}
    for cut in cuts:
        if (key := _piece_of(cut, column)) is not None:
            pieces.setdefault(key, []).append(cut)  # pyright: ignore[reportArgumentType]
    joined: dict[str, Cut | None] = {}
    for several in pieces.values():
        for run in _runs(several):
            joined |= dict.fromkeys((cut.id for cut in run), None) | {run[0].id: _joined(run, len(several))}
    found = [joined.get(cut.id, cut) for cut in cuts]
    return [cut for cut in found if cut is not None]


def _piece_of(cut: Cut, column: str) -> tuple[str, ...] | None:
    """The recording that a cut is a piece of, if it is silence."""
    if not isinstance(cut, MonoCut) or cut.recording is None or cut.duration >= cut.recording.duration:
        return None
    try:
        if class_of(cut, column) != SILENCE:
            return None
    except DataError:  # it has none: said when labels are made
        return None
    return cut.recording.id, str(cut.channel), *(str(source.source) for source in cut.recording.sources)


def _runs(pieces: Sequence[MonoCut]) -> Iterator[list[MonoCut]]:
    """Pieces of a recording that follow each other without a gap."""
    run: list[MonoCut] = []
    for cut in sorted(pieces, key=lambda cut: cut.start):
        if run and abs(run[-1].end - cut.start) * cut.sampling_rate > 1:
            yield run
            run = []
        run.append(cut)
    yield run


def _joined(run: Sequence[MonoCut], n_pieces: int) -> MonoCut:
    """One cut of pieces that follow each other; named after the recording if it is all of that."""
    first, last = run[0], run[-1]
    assert first.recording is not None
    rest_s = first.recording.duration - last.end
    if len(run) == n_pieces and first.start == 0 and rest_s < first.duration:
        return fastcopy(first, id=first.recording.id, duration=first.recording.duration)
    return fastcopy(first, duration=round(last.end - first.start, ndigits=8))


def noise_sources(config: EvaluationConfig) -> dict[str, list[str]]:
    """The noise that the conditions need, by corpus.

    Raises:
        UsageError: for an unknown condition.
    """
    needed = {name for condition in config.settled_conditions for name in noise_corpora(condition)}
    return {
        name: config.noises.get(name) or [f"{config.data}/{NOISES[name]}.jsonl.gz"] for name in sorted(needed)
    }


def noise_corpora(condition: str) -> list[str]:
    """The corpora whose noise a condition needs.

    Raises:
        UsageError: for an unknown condition.
    """
    if condition in RECORDED:
        return []
    return sorted(find_condition(condition).corpora)
