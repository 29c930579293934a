"""Many evaluations: students x tasks x features x seeds x learning rates, here or as a SLURM array.

A job is one head: a student, a task, its features, a seed and a rate, tested under all conditions. The jobs
of a student share a folder, and in it the cached features; it is named after the student's weights, so a
student that was trained again is evaluated again. Conditions with results are left out: the same command
continues an interrupted sweep.
"""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from distill.checkpoints import split_source
from distill.checkpoints.huggingface import is_hub_id
from distill.downstream.head_record import check_head
from distill.downstream.identity import student_folder
from distill.downstream.options import NAMED_OPTIONS, EvaluationConfig
from distill.downstream.results import Result, read_results
from distill.downstream.speech import TaskSpeech
from distill.downstream.tasks import RECORDED, TASKS
from distill.errors import UsageError, UserError

_PLANNED = {"task": "--task", **NAMED_OPTIONS}
"""Fields that a sweep sets for each job, and its options in place of key=value words."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One head and its tests."""

    checkpoint: str
    """The student: file, run folder or hub id."""
    config: EvaluationConfig
    """The evaluation; its conditions are those that have no result yet."""
    out: Path
    """Folder of the student's evaluations."""

    @property
    def head(self) -> str:
        """Name of the head within the student's folder."""
        return self.config.head_name(None)

    @property
    def name(self) -> str:
        """Student and head."""
        return f"{self.out.name}/{self.head}"

    def command(self) -> list[str]:
        """The command line that does it, with this Python."""
        command = [sys.executable, "-m", "distill", "evaluate", *self.config.to_words()]
        return [*command, "--student", self.checkpoint, "--out", str(self.out)]


def plan_sweep(
    checkpoints: Sequence[str],
    tasks: Sequence[str],
    conditions: Sequence[str],
    *,
    out: Path,
    data: str | None = None,
    features: Sequence[str] = (),
    seeds: Sequence[int] = (),
    words: Sequence[str] = (),
    noises: Mapping[str, Sequence[str]] | None = None,
    rates: Sequence[float] = (),
) -> list[Job]:
    """The jobs that are still to be done.

    Args:
        checkpoints: students.
        tasks: of `distill.downstream.tasks.TASKS`.
        conditions: clean, 2-dist, fsd, dns, ...; those of `RECORDED` are left out for all but ASR; none:
            each task's own.
        out: folder of the sweep.
        data: folder of the manifests.
        features: last, weighted_sum, layer:K; none: the default, as for seeds and rates.
        seeds: of the heads.
        words: further key=value options of every evaluation; "asr:lm=4-gram.bin" is for ASR only.
        noises: by corpus: sources of noise other than the data folder's.
        rates: learning rates, of which tables choose the best on dev.

    Returns:
        Jobs in the order of the arguments, without conditions that have a result.

    Raises:
        UsageError: for an unknown task, or a word for which the sweep has an option.
        UserError: if a student is missing, or a job was begun, or has results, with other settings or data.
    """
    for task in tasks:
        if task not in TASKS:
            raise UsageError(f"unknown task {task!r}; there are {', '.join(TASKS)}")
    check_words(words, _PLANNED | ({"lr": "--lr"} if rates else {}))
    if missing := [checkpoint for checkpoint in checkpoints if is_missing(checkpoint)]:
        raise UserError(f"{', '.join(missing)}: no such checkpoint; name existing run folders or files")
    if len({*checkpoints}) > 1 and any(word.rpartition(":")[2].startswith("row=") for word in words):
        raise UsageError(
            "row=... puts one model into a row of the paper's tables: sweep each model by itself"
        )
    given: dict[str, Any] = {"data": data, "noises": noises}
    varied = [dict.fromkeys(values or (None,)) for values in (features, seeds, rates)]
    jobs = []
    speech: dict[str, TaskSpeech] = {}
    for checkpoint in dict.fromkeys(checkpoints):
        folder = out / student_folder(checkpoint)
        results = read_results([folder / "results"]) if (folder / "results").is_dir() else []
        for task in dict.fromkeys(tasks):
            given["conditions"] = conditions_for(task, conditions)
            for name, seed, lr in itertools.product(*varied):
                values = given | {"features": name, "seed": seed, "lr": lr}
                config = EvaluationConfig.from_words(task, words_for(task, words), values)
                job = Job(checkpoint=checkpoint, config=config, out=folder)
                missing = missing_conditions(job, results, speech.setdefault(task, TaskSpeech(config)))
                if missing:
                    jobs.append(replace(job, config=replace(config, conditions=missing)))
    return jobs


def conditions_for(task: str, conditions: Sequence[str]) -> list[str]:
    """The conditions that a task can be tested under, of those named; its own if none is."""
    own = TASKS[task].conditions
    recorded = RECORDED if TASKS[task].kind == "characters" else ()
    return [name for name in dict.fromkeys(conditions or own) if name in recorded or name not in RECORDED]


def is_missing(checkpoint: str) -> bool:
    """Whether a checkpoint is a path that does not exist; hub ids and the like are looked up when needed."""
    plain = split_source(checkpoint)[0]
    return os.sep in plain and not Path(plain).expanduser().exists() and not is_hub_id(plain)


def check_words(words: Sequence[str], planned: Mapping[str, str]) -> None:
    """Refuse words that would override what the sweep sets for each job.

    Args:
        words: key=value, or task:key=value.
        planned: keys that must not be used, with the options in their place.

    Raises:
        UsageError: naming the option to use.
    """
    for word in words:
        owner, colon, rest = word.partition(":")
        key = (rest if colon and owner in TASKS else word).partition("=")[0].partition(".")[0]
        if key in planned:
            raise UsageError(f"{word}: a sweep takes {key} from {planned[key]}, use that")


def words_for(task: str, words: Sequence[str]) -> list[str]:
    """The words for a task: "asr:lm=X" becomes "lm=X" for ASR and is left out for others.

    A task's own words come last and win over those for all tasks.
    """
    general, own = [], []
    for word in words:
        owner, colon, rest = word.partition(":")
        if not colon or owner not in TASKS:
            general.append(word)
        elif owner == task:
            own.append(rest)
    return [*general, *own]


def missing_conditions(job: Job, results: Sequence[Result], speech: TaskSpeech) -> list[str]:
    """Conditions of a job that have no result among the student's.

    Args:
        job: with all its conditions.
        results: of the student.
        speech: of the task.

    Raises:
        UserError: if the job was begun, or has results, with other settings or data.
    """
    config = job.config
    for fold in config.effective_folds:
        folder = job.out / "heads" / config.head_name(fold)
        check_head(folder, config.head_settings)
        speech.check_training(folder, fold)
    decodings = (False, True) if config.lm else (False,)
    head = (config.task, config.seed, config.head_input, config.protocol, config.recipe().optim.max_steps)
    own = [
        result
        for result in results
        if (result.task, result.seed, result.features, result.protocol, result.head_steps) == head
        and result.condition in config.effective_conditions
        and result.lm in decodings
        and result.settings.get("lr", config.effective_lr) == config.effective_lr
        and result.variant == config.variant_of(result.condition)
        and config.row in (None, result.row)  # else the evaluation must write the row into it
    ]
    for result in own:
        settings = {
            key: value for key, value in result.settings.items() if key != "lr"
        }  # equal, as checked above
        file = job.out / "results" / config.result_name(result.condition, result.fold, lm=result.lm)
        speech.check_score(settings, result.condition, result.fold, lm=result.lm, where=str(file))
    done = {(result.condition, result.fold, result.lm) for result in own}
    return [
        condition
        for condition in config.effective_conditions
        if not {(condition, fold, lm) for fold in config.effective_folds for lm in decodings} <= done
    ]
