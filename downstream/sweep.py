"""Many evaluations: students x tasks x features x seeds x learning rates, here or as a SLURM array.

A job is one head: a student, a task, what the head hears, a seed and a rate, tested under all conditions. The
jobs of a student share a folder, and in it the cached features; it is named after the student's weights, so
one that was trained anew is evaluated anew. What has its results is left out: the same command goes on where
it stopped.
"""

from __future__ import annotations

import itertools
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from distill.checkpoints import split_source
from distill.checkpoints.huggingface import is_hub_id
from distill.config import from_words
from distill.downstream.head_record import check_head
from distill.downstream.identity import student_folder
from distill.downstream.options import EvaluationConfig
from distill.downstream.results import Result, read_results
from distill.downstream.speech import TaskSpeech
from distill.downstream.tasks import RECORDED, TASKS
from distill.errors import UsageError, UserError

logger = logging.getLogger(__name__)

_PLANNED = {
    "task": "--task",
    "data": "--data",
    "conditions": "--condition",
    "features": "--features",
    "seed": "--seed",
    "noises": "--noise",
}
"""What a job is named after: keys of an evaluation, and the options of a sweep in their place."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One head and its tests."""

    checkpoint: str
    """The student: file, run folder or hub id."""
    task: str
    """ks, ic, er, asr, pr, slurp_action or slurp_scenario."""
    features: str
    """What the head hears: last, weighted_sum or layer:k."""
    seed: int
    """Of the head."""
    conditions: tuple[str, ...]
    """Those that have no result yet."""
    data: str
    """Folder of the manifests."""
    out: Path
    """Folder of the student's evaluations."""
    words: tuple[str, ...] = ()
    """More options: key=value."""
    noises: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """By corpus: sources of noise other than the data folder's."""
    lr: float | None = None
    """Learning rate; None: what `words` say, else the task's own."""

    @property
    def head(self) -> str:
        """Name of the head within the student's folder."""
        return self.config().head_name(None)

    @property
    def name(self) -> str:
        """Student and head."""
        return f"{self.out.name}/{self.head}"

    @property
    def noise_words(self) -> list[str]:
        """The noises for the command line."""
        pairs = [f"{corpus}={source}" for corpus, sources in self.noises.items() for source in sources]
        return [word for pair in pairs for word in ("--noise", pair)]

    @property
    def lr_words(self) -> list[str]:
        """The learning rate for the command line."""
        return [] if self.lr is None else [f"lr={self.lr!r}"]

    def config(self) -> EvaluationConfig:
        """What the command line asks for."""
        given = {
            "task": self.task,
            "data": self.data,
            "conditions": list(self.conditions),
            "features": self.features,
            "seed": self.seed,
            "noises": self.noises,
        }
        return from_words(EvaluationConfig, given, [*self.words, *self.lr_words])

    def command(self) -> list[str]:
        """The command line that does it, with this Python."""
        conditions = [word for condition in self.conditions for word in ("--condition", condition)]
        return [
            *(sys.executable, "-m", "distill", "evaluate", self.task),
            *("--student", self.checkpoint, "--data", self.data, "--out", str(self.out)),
            *conditions,
            *self.noise_words,
            *("--features", self.features, "--seed", str(self.seed)),
            *self.words,
            *self.lr_words,
        ]


def plan_sweep(
    checkpoints: Sequence[str],
    tasks: Sequence[str],
    conditions: Sequence[str],
    *,
    data: str,
    out: Path,
    features: Sequence[str] = ("last",),
    seeds: Sequence[int] = (0,),
    words: Sequence[str] = (),
    noises: Mapping[str, Sequence[str]] | None = None,
    rates: Sequence[float] = (),
) -> list[Job]:
    """What is still to be done.

    Args:
        checkpoints: students.
        tasks: of `distill.downstream.options.TASKS`.
        conditions: clean, 2-dist, fsd, dns, ...; test-other and chime3 are left out for all but ASR. None
            named: each task's own.
        data: folder of the manifests.
        out: folder of the whole sweep.
        features: last, weighted_sum, layer:k.
        seeds: of the heads.
        words: more words for every evaluation's command line; "asr:lm=4-gram.bin" is for ASR only.
        noises: by corpus: sources of noise other than the data folder's.
        rates: learning rates, of which tables choose the best on dev; none: the task's own.

    Returns:
        Jobs in the order of the arguments, without conditions that have a result.

    Raises:
        UsageError: for an unknown task, or a word that the plan has an option for.
        UserError: if a student is not there, or a job was begun, or has results, with other settings or data.
    """
    for task in tasks:
        if task not in TASKS:
            raise UsageError(f"unknown task {task!r}; there are {', '.join(TASKS)}")
    check_words(words, _PLANNED | ({"lr": "--lr"} if rates else {}))
    if missing := [checkpoint for checkpoint in checkpoints if is_missing(checkpoint)]:
        raise UserError(f"{', '.join(missing)}: no such checkpoint; name run folders or files that are there")
    if len({*checkpoints}) > 1 and any(word.rpartition(":")[2].startswith("row=") for word in words):
        raise UsageError("row=... puts one model into a row of the paper's: sweep each model by itself")
    jobs = []
    speech: dict[str, TaskSpeech] = {}
    for checkpoint in dict.fromkeys(checkpoints):
        folder = out / student_folder(checkpoint)
        results = read_results([folder / "results"]) if (folder / "results").is_dir() else []
        for task in dict.fromkeys(tasks):
            own = TASKS[task].conditions
            here = tuple(c for c in dict.fromkeys(conditions or own) if c in own or c not in RECORDED)
            for heard, seed, lr in itertools.product(
                dict.fromkeys(features), dict.fromkeys(seeds), dict.fromkeys(rates or (None,))
            ):
                job = Job(
                    checkpoint=checkpoint,
                    task=task,
                    features=heard,
                    seed=seed,
                    conditions=here,
                    data=data,
                    out=folder,
                    words=words_for(task, words),
                    noises=noises or {},
                    lr=lr,
                )
                tested = speech.setdefault(task, TaskSpeech(job.config()))
                if missing := missing_conditions(job, results, tested):
                    jobs.append(replace(job, conditions=missing))
    return jobs


def is_missing(checkpoint: str) -> bool:
    """Whether that is a path to nothing; names of models elsewhere are looked up when they are needed."""
    plain = split_source(checkpoint)[0]
    return os.sep in plain and not Path(plain).expanduser().exists() and not is_hub_id(plain)


def check_words(words: Sequence[str], planned: Mapping[str, str]) -> None:
    """Refuse words that would make another evaluation of a job than its name says.

    Args:
        words: key=value, or task:key=value.
        planned: keys that are not to be used, and the options in their place.

    Raises:
        UsageError: naming the option to use.
    """
    for word in words:
        owner, colon, rest = word.partition(":")
        key = (rest if colon and owner in TASKS else word).partition("=")[0].partition(".")[0]
        if key in planned:
            raise UsageError(f"{word}: a sweep takes {key} from {planned[key]}, use that")


def words_for(task: str, words: Sequence[str]) -> tuple[str, ...]:
    """The words that are for a task: "asr:lm=X" becomes "lm=X" for ASR and nothing for the others.

    A task's own words come last: they win over those for all.
    """
    general, own = [], []
    for word in words:
        owner, colon, rest = word.partition(":")
        if not colon or owner not in TASKS:
            general.append(word)
        elif owner == task:
            own.append(rest)
    return (*general, *own)


def missing_conditions(job: Job, results: Sequence[Result], speech: TaskSpeech) -> tuple[str, ...]:
    """Conditions of a job that have no result among the student's.

    Args:
        job: with all its conditions.
        results: of the student.
        speech: of the task, with the job's words.

    Raises:
        UserError: if the job was begun, or has results, with other settings or data: its head is another one.
    """
    config = job.config()
    for fold in config.settled_folds:
        folder = job.out / "heads" / config.head_name(fold)
        check_head(folder, config.head_settings)
        speech.check_training(folder, fold)
    decodings = (False, True) if config.lm else (False,)
    head = (job.task, job.seed, config.heard, config.protocol, config.recipe().optim.max_steps)
    own = [
        result
        for result in results
        if (result.task, result.seed, result.features, result.protocol, result.head_steps) == head
        and result.condition in job.conditions
        and result.lm in decodings
        and result.settings.get("lr", config.settled_lr) == config.settled_lr
        and result.variant == config.variant_of(result.condition)
        and config.row in (None, result.row)  # else the evaluation has yet to note it
    ]
    for result in own:
        settings = {key: value for key, value in result.settings.items() if key != "lr"}  # of the job's rate
        file = job.out / "results" / config.result_name(result.condition, result.fold, lm=result.lm)
        speech.check_score(settings, result.condition, result.fold, lm=result.lm, where=str(file))
    done = {(result.condition, result.fold, result.lm) for result in own}
    return tuple(
        condition
        for condition in job.conditions
        if not {(condition, fold, lm) for fold in config.settled_folds for lm in decodings} <= done
    )
