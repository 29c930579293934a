"""Evaluate a model on a SUPERB task: train the head on clean speech, test it clean and distorted.

The output folder holds `heads/NAME` (a training run each), `results/NAME.json` (a score each) and, unless
`cache_folder` says otherwise, `cache`. Existing heads and results are not made again.
"""

from __future__ import annotations

import copy
import json
import logging
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lhotse.cut import Cut
from tqdm import tqdm

from distill.atomic import read_json, write_json
from distill.distortions import Distorter
from distill.downstream.batches import HeadData
from distill.downstream.cache import FeatureCache
from distill.downstream.decoding import LanguageModelDecoder
from distill.downstream.distorted_sets import find_condition
from distill.downstream.extraction import fill_all
from distill.downstream.features import Selection, load_upstream
from distill.downstream.head_record import AUDIO, allow_repair, read_head, sign_head
from distill.downstream.head_run import HeadFolder
from distill.downstream.head_testing import measure
from distill.downstream.head_training import HeadTraining, load_best, save_layer_weights
from distill.downstream.identity import audio_of
from distill.downstream.labels import CHARACTERS, WORD_END, Labels, TokenLabels, make_labels, targets_of
from distill.downstream.options import EvaluationConfig
from distill.downstream.predictions import write_predictions, write_submission
from distill.downstream.results import describe_silent, put_into_row
from distill.downstream.speech import TaskSpeech
from distill.downstream.task_sources import check_sources
from distill.downstream.tasks import RECORDED
from distill.downstream.truths import check_words
from distill.errors import UserError
from distill.hashing import hash_lines, hash_text
from distill.processes import is_first_process, local_rank
from distill.training.devices import devices_of
from distill.training.faults import TooManyBad
from distill.training.locking import RunLock
from distill.training.run_folder import versions
from distill.training.trainer import finish, fit, make_trainer

logger = logging.getLogger(__name__)


def evaluate(checkpoint: str | Path, config: EvaluationConfig, out: Path) -> list[Path]:
    """Train the head of a task on clean speech, choose the best on dev, test under each condition.

    Heads that are trained and conditions that are tested already are left alone; an interrupted training is
    resumed.

    Args:
        checkpoint: student or teacher, of any format.
        config: the task and how.
        out: folder of this model's evaluations.

    Returns:
        `out/results/*.json` of this evaluation, one for each fold, condition and way of decoding.

    Raises:
        UserError: for anything that the user can fix.
    """
    evaluation = Evaluation(checkpoint, config, Path(out))
    check_sources(config)  # existing scores must be of this speech
    if not evaluation.is_done():
        evaluation.prepare()
        for fold in config.effective_folds:
            evaluation.run_fold(fold)
    paths = [path for fold in config.effective_folds for path in evaluation.paths(fold).values()]
    paths = [path for path in paths if path.exists()]  # of several processes, the first writes them
    if config.row is not None and is_first_process():
        put_into_row(paths, config.row)
    return paths


class Evaluation:
    """One model on one task: what its folds share, and how a fold is trained and tested.

    Args:
        checkpoint: of the model.
        config: the task and how.
        out: folder of this model's evaluations.
    """

    def __init__(self, checkpoint: str | Path, config: EvaluationConfig, out: Path):
        self.config, self.out = config, out
        self.recipe = config.recipe()
        self.upstream = load_upstream(checkpoint)
        self.selection = Selection(config.features, self.upstream.encoder.config.layers)
        self.speech = TaskSpeech(config, self.upstream.encoder.config)
        self.caches: dict[str, FeatureCache] | None = None  # by manifest
        self.decoder: LanguageModelDecoder | None = None
        self.dev_error: float | None = None

    def paths(self, fold: int | None) -> dict[tuple[str, bool], Path]:
        """Files of the scores, by condition and whether a language model is used."""
        return {
            (condition, lm): self.out / "results" / self.config.result_name(condition, fold, lm=lm)
            for condition in self.config.effective_conditions
            for lm in ((False, True) if self.config.lm else (False,))
        }

    def is_done(self) -> bool:
        """Whether all scores exist."""
        return not any(self._todo(fold) for fold in self.config.effective_folds)

    def _todo(self, fold: int | None) -> dict[tuple[str, bool], Path]:
        """Files of the scores that do not exist."""
        return {key: path for key, path in self.paths(fold).items() if not self._is_done(path, fold, *key)}

    def prepare(self) -> None:
        """Open all inputs, so that anything missing is reported before a head is trained."""
        config, speech = self.config, self.speech
        if config.lm is not None:
            self.decoder = LanguageModelDecoder(
                config.lm, CHARACTERS, word_end=WORD_END, lexicons=config.lexicons
            )
        cuts = [cut for fold in config.effective_folds for part in speech.training(fold) for cut in part]
        tests = [
            (condition, fold) for fold in config.effective_folds for condition in config.effective_conditions
        ]
        for condition, fold in tests:
            cuts += speech.test(condition, fold)
        if config.defaults.kind == "phones":
            check_words(cuts, config, self.out / "words_without_phones.txt")
        for condition, fold in tests:
            speech.test_data(condition, fold)
            speech.test_audio(condition, fold)

    def run_fold(self, fold: int | None) -> None:
        """One head and its tests."""
        train, dev = self.speech.training(fold)
        labels = make_labels(train, self.config)
        frames = self.upstream.encoder.config.frames
        targets = {
            split: targets_of(labels, cuts, frames, split) for split, cuts in (("train", train), ("dev", dev))
        }
        for (
            condition
        ) in self.config.effective_conditions:  # what cannot be scored is reported before training
            targets_of(labels, self.speech.test(condition, fold), frames, condition)
        folder = self.out / "heads" / self.config.head_name(fold)
        module = self._module(labels)
        locations = hash_lines(audio_of([*train, *dev])[0])
        identity = self._identity(labels, targets) | self.speech.training_audio(fold)
        sign_head(folder, identity, locations=locations)
        try:
            device = self._train(module, folder, train, dev, targets)
        except TooManyBad:
            allow_repair(folder, locations)
            raise
        if not is_first_process():
            return
        self.dev_error = load_best(module, folder)
        save_layer_weights(module, folder)
        module.to(device)
        todo = self._todo(fold)
        for condition in dict.fromkeys(condition for condition, _ in todo):
            by_lm = {lm: path for (tested, lm), path in todo.items() if tested == condition}
            self._test(module, condition, fold, by_lm)

    def _module(self, labels: Labels) -> HeadTraining:
        """A new head, on a copy of the model: fine-tuning one fold must not touch the next one's."""
        config, encoder = self.config, copy.deepcopy(self.upstream.encoder)
        pl.seed_everything(config.seed, verbose=False)
        return HeadTraining(
            encoder,
            Selection(config.features, encoder.config.layers),
            labels.head(encoder.config.dim, config.width),
            labels,
            self.recipe.optim,
            finetune=config.finetune,
            augment=config.defaults.kind == "characters",
            seed=config.seed,
            gain_db=config.defaults.gain_db,
        )

    def _train(
        self,
        module: HeadTraining,
        folder: Path,
        train: Sequence[Cut],
        dev: Sequence[Cut],
        targets: Mapping[str, Mapping[str, list[int]]],
    ) -> torch.device:
        """Train a head, or resume its training, unless it is trained; returns the device to test on."""
        config = self.config
        done, wanted = HeadFolder(folder).steps_done, self.recipe.optim.max_steps
        if done > wanted:
            raise UserError(
                f"{folder} was trained for {done} steps already: set steps={done}, or choose another --out"
            )
        if done == wanted:
            return own_devices(config)[0]
        with RunLock(folder) as lock:
            if HeadFolder(folder).steps_done == wanted:  # another process was faster
                return own_devices(config)[0]
            return self._train_alone(module, folder, lock, train, dev, targets)

    def _train_alone(
        self,
        module: HeadTraining,
        folder: Path,
        lock: RunLock,
        train: Sequence[Cut],
        dev: Sequence[Cut],
        targets: Mapping[str, Mapping[str, list[int]]],
    ) -> torch.device:
        """`_train`, in a folder of which this is the only process."""
        config, task = self.config, self.config.defaults
        warn_of_crops(train, config.effective_crop_s)
        caches = self._fill_caches() if config.cache != "off" else {}
        data = HeadData(
            train,
            dev,
            targets,
            model=self.upstream.encoder.config,
            caches={
                "train": [cache for name, cache in caches.items() if name != task.dev],
                "dev": [cache for name, cache in caches.items() if task.dev in (name, None)],
            },
            batch_size=config.effective_batch_size,
            balanced=task.balanced,
            crop_s=config.effective_crop_s,
            buckets=task.buckets,
            workers=config.workers,
            seed=config.seed,
        )
        run = HeadFolder(folder)
        trainer = make_trainer(config.recipe(folder.name), run, monitor="val/error")
        seconds = fit(trainer, module, data, run, resume=run.last.exists(), lock=lock)
        finish(trainer, run, seconds)
        return trainer.strategy.root_device

    def _fill_caches(self) -> dict[str, FeatureCache]:
        """By manifest, the features of all folds' speech; they are extracted at the first call."""
        if self.caches is not None:
            return self.caches
        config = self.config
        root = Path(config.cache_folder) if config.cache_folder else self.out / "cache"
        features = config.features.replace(":", "")
        gain_db = config.defaults.gain_db
        level = f"{gain_db:+g}dB" if gain_db else ""
        self.caches = {
            split: FeatureCache(
                root / f"{config.defaults.corpus}-{split}-{features}-{config.cache}{level}",
                cuts,
                self.upstream.encoder,
                self.selection,
                features=config.features,
                checkpoint_hash=self.upstream.checkpoint_hash,
                dtype=config.cache,
                gain_db=gain_db,
            )
            for split, cuts in self.speech.cacheable().items()
        }
        fill_all(
            list(self.caches.values()),
            self.upstream.encoder,
            self.selection,
            devices=own_devices(config),
            workers=config.workers,
        )
        return self.caches

    def _identity(self, labels: Labels, targets: Mapping[str, Mapping[str, list[int]]]) -> dict[str, Any]:
        """What determines a head, kept with it: a folder with another head is refused."""
        pairs = {(name, tuple(target)) for part in targets.values() for name, target in part.items()}
        says = hash_text(json.dumps(sorted(pairs)), digest_size=16)
        return self.config.head_settings | {
            "checkpoint": self.upstream.checkpoint_hash,
            "training data": says,
            "dev data": hash_lines(sorted(targets["dev"])),
            "labels": list(labels.symbols) if isinstance(labels, TokenLabels) else labels.slots,
            "label": None if isinstance(labels, TokenLabels) else labels.column,
        }

    def _trained_on(self, fold: int | None) -> dict[str, Any]:
        """The noted contents of the head's training audio; earlier versions noted none."""
        head = read_head(self.out / "heads" / self.config.head_name(fold))
        return {key: head[key] for key in AUDIO if key in head}

    def _is_done(self, path: Path, fold: int | None, condition: str, lm: bool) -> bool:
        """Whether a result of this model and number of steps exists.

        Raises:
            UserError: if it has other settings or test data.
        """
        if not path.exists():
            return False
        try:
            found = read_json(path)
        except ValueError:  # damaged: written again
            return False
        wanted = {
            "checkpoint_hash": self.upstream.checkpoint_hash,
            "head_steps": self.recipe.optim.max_steps,
        }
        if not wanted.items() <= found.items():
            return False
        self.speech.check_score(found.get("settings", {}), condition, fold, lm=lm, where=str(path))
        return True

    def _test(
        self, module: HeadTraining, condition: str, fold: int | None, paths: Mapping[bool, Path]
    ) -> None:
        """Test under a condition, with and without a language model, and write the scores."""
        config = self.config
        cuts = self.speech.test(condition, fold)
        distortion = find_condition("clean" if condition in RECORDED else condition, config.variant)
        measured = measure(
            module,
            cuts,
            {cut.id: module.labels.targets(cut) for cut in cuts},
            Distorter.from_config(distortion, split="test"),
            self.speech.noises,
            seed=config.seed,
            batch_size=config.effective_batch_size,
            workers=config.workers,
            name=f"{config.task} {condition}",
            decoders=[self.decoder if lm else None for lm in paths],
        )
        for (lm, path), outcomes in zip(paths.items(), measured.outcomes, strict=True):
            errors, total = (sum(parts) for parts in list(zip(*outcomes.values(), strict=True))[:2])
            about = {"condition": condition, "fold": fold, "lm": lm, "n_utterances": len(cuts)}
            about["predictions"] = write_predictions(self.out, path.stem, outcomes)
            submit = self.out / "submit" / path.stem
            write_submission(submit, config.task, condition, fold, outcomes, lm=lm)
            self._write(path, self._score(100.0 * errors / total), about, measured.silent)

    def _score(self, error: float) -> float:
        """The metric's value for an error rate, both in per cent."""
        return 100.0 - error if self.config.defaults.metric == "accuracy" else error

    def _write(self, path: Path, value: float, about: dict[str, Any], silent: Mapping[str, int]) -> None:
        """One score as JSON."""
        config = self.config
        metric = config.defaults.metric
        result = {
            "task": config.task,
            "condition": about["condition"],
            "metric": metric,
            "value": value,
            "seed": config.seed,
            "fold": about["fold"],
            "lm": about["lm"],
            "features": config.head_input,
            "model": self.upstream.name,
            "checkpoint_hash": self.upstream.checkpoint_hash,
            "recipe": self.upstream.recipe,
            "recipe_settings": self.upstream.recipe_settings,
            "heard": list(self.upstream.heard),
            "head_steps": self.recipe.optim.max_steps,
            "n_utterances": about["n_utterances"],
            "silent": dict(silent),
            "versions": versions(),
            "protocol": config.protocol,
            "variant": config.variant_of(about["condition"]),
            "dev": None if self.dev_error is None else self._score(self.dev_error),
            "row": config.row,
            "predictions": about["predictions"],
            "settings": config.settings(lm=about["lm"])
            | self.speech.test_data(about["condition"], about["fold"])
            | self.speech.test_audio(about["condition"], about["fold"])
            | self._trained_on(about["fold"]),
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        write_json(path, result)
        said = f"{about['n_utterances']} utterances{', ' * bool(silent)}{describe_silent(silent)}"
        tqdm.write(f"{path.stem}: {metric} {value:.2f} ({said})", file=sys.stderr)


def warn_of_crops(train: Sequence[Cut], crop_s: float | None) -> None:
    """Warn if utterances other than the few long recordings of silence are cropped."""
    longer = sum(crop_s is not None and cut.duration > crop_s for cut in train)
    if longer > 0.1 * len(train):
        logger.warning(
            "%d of %d training utterances are longer than %g s and are cropped to that at random positions; "
            "set crop_s=0 to keep them complete",
            longer,
            len(train),
            crop_s,
        )


def own_devices(config: EvaluationConfig) -> list[torch.device]:
    """The devices of this process before the Trainer connects the processes."""
    devices = devices_of(config.recipe())
    rank = local_rank()  # one process a device
    return devices if rank is None else [devices[rank % len(devices)]]
