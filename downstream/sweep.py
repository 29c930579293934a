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
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from tqdm import tqdm

from distill.checkpoints import split_source
from distill.checkpoints.huggingface import is_hub_id
from distill.config import from_words
from distill.downstream.identity import hash_files
from distill.downstream.options import RECORDED, TASKS, EvaluationConfig
from distill.downstream.results import Result, check_head, read_results
from distill.downstream.speech import TaskSpeech
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
_CONFIGS = ("config.json", "preprocessor_config.json")  # of Hugging Face: the same weights, other features
_WEIGHTS = (".safetensors", ".ckpt", ".pt", ".bin", ".onnx")


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


# ---------------------------------------------------------------------------------------------- planning


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


def student_folder(checkpoint: str) -> str:
    """Name of a student's folder: its own, with a hash of its files' bytes if they are on this machine."""
    plain, normalize = split_source(checkpoint)
    path = Path(plain)
    files = [path] if path.is_file() else []
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix in _WEIGHTS)
        files += [path / name for name in _CONFIGS if files and (path / name).is_file()]
        files = files or sorted(path.glob("checkpoints/last.ckpt"))
    if not files:
        return _slug(checkpoint)
    name = path.resolve().name if path.is_dir() else f"{path.resolve().parent.name}-{path.stem}"
    wish = "" if normalize is None else f"-normalize-{str(normalize).lower()}"
    return f"{_slug(name)}-{hash_files(files, digest_size=4)}{wish}"


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "_", text).strip("._") or "_"


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


# ----------------------------------------------------------------------------------------- on this machine


def run_sweep(jobs: Sequence[Job], evaluate: Callable[[Job], object] | None = None) -> None:
    """Do jobs one after the other; one that fails does not stop the others.

    Args:
        jobs: from `plan_sweep`.
        evaluate: does one; raises if it fails. By default a process of its own runs `Job.command`, so that
            not even a crash or lack of memory ends the sweep.

    Raises:
        UserError: at the end, naming the jobs that failed and why.
    """
    evaluate = evaluate or run_command
    failures = []
    for job in (progress := tqdm(jobs, desc="sweep", unit="head", disable=None)):
        progress.set_postfix_str(job.name)
        progress.write(f"{job.name}: {', '.join(job.conditions)}", file=sys.stderr)
        try:
            evaluate(job)
        except UserError as error:
            if error.exit_code > 128:  # a signal: not this job alone was meant
                raise
            failures.append(f"{job.name}: {error}")
        except Exception as error:  # noqa: BLE001 whatever it is, the other jobs are not at fault
            logger.exception("%s failed", job.name)
            failures.append(f"{job.name}: {type(error).__name__}: {error}")
    if failures:
        raise UserError(
            f"{len(failures)} of {len(jobs)} evaluations failed, the same command tries them again: "
            + "; ".join(failures)
        )


def run_command(job: Job) -> None:
    """Run one job's command line; what it prints is seen.

    Raises:
        UserError: if it fails.
        KeyboardInterrupt: if it was stopped by Ctrl-C.
        SystemExit: if this process was told to end (SIGTERM).
    """
    stopped = False
    process: subprocess.Popen[bytes] | None = None

    def stop(*_: object) -> None:  # the evaluation saves its head and ends; alone it would outlive the sweep
        nonlocal stopped
        stopped = True
        if process is not None:
            process.terminate()

    previous = signal.signal(signal.SIGTERM, stop)
    try:
        process = subprocess.Popen(job.command())
        if stopped:  # while it was being started
            process.terminate()
        code = process.wait()
    except KeyboardInterrupt:
        if process is not None:
            process.terminate()
            process.wait()
        raise
    finally:
        signal.signal(signal.SIGTERM, previous)
    if stopped:
        raise SystemExit(128 + signal.SIGTERM)
    if code in (128 + signal.SIGINT, -signal.SIGINT):
        raise KeyboardInterrupt
    if code:
        raise UserError(f"exit code {code}, see its output above")


# ------------------------------------------------------------------------------------------------- SLURM


def write_slurm(jobs: Sequence[Job], out: Path, *, options: Sequence[str] = ()) -> Path:
    """Write a batch script with one array task per job.

    Args:
        jobs: from `plan_sweep`; at least one.
        out: folder of the sweep; the script is `sweep.sbatch` there, logs go to `slurm/`.
        options: of sbatch, such as "--partition=gpu", "--gpus=1", "--time=04:00:00".

    Returns:
        The script.

    Raises:
        ValueError: without jobs.
    """
    if not jobs:
        raise ValueError("no jobs: nothing to write")
    logs = out / "slurm"
    logs.mkdir(parents=True, exist_ok=True)  # SLURM does not make it
    pattern = str(logs.resolve()).replace("%", "%%") + "/%A_%a.log"
    lines = [
        "#!/bin/bash",
        "#SBATCH --job-name=distill-sweep",
        f"#SBATCH --array=0-{len(jobs) - 1}",
        f"#SBATCH --chdir={shlex.quote(str(Path.cwd()))}",
        f"#SBATCH --output={shlex.quote(pattern)}",
        *(f"#SBATCH {option}" for option in options),
        "# exec: SLURM's signals reach the evaluation itself, which saves its head before it ends",
        'case "$SLURM_ARRAY_TASK_ID" in',
        *(f"{index}) exec {shlex.join(job.command())} ;;" for index, job in enumerate(jobs)),
        '*) echo "no task $SLURM_ARRAY_TASK_ID in this array" >&2; exit 2 ;;',
        "esac",
    ]
    script = out / "sweep.sbatch"
    script.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return script


def submit(script: Path) -> str:
    """Hand a batch script to SLURM; returns what sbatch says.

    Raises:
        UserError: if there is no sbatch, or it refuses.
    """
    try:
        done = subprocess.run(["sbatch", str(script)], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise UserError(
            f"sbatch was not found: submit {script} on a machine of the cluster, or leave out --submit"
        ) from None
    if done.returncode:
        reason = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1]
        raise UserError(f"sbatch refused {script}: {reason}")
    return done.stdout.strip()
