"""Several students at once: runs that read the same data train step by step together, in one process.

Each is the ordinary training of its recipe, `train`, with a folder, log and checkpoints of its own, and on a
CPU equal to its run alone, bit by bit. Runs of the same data, order of the data and teacher make a group: one
loader reads for all of them, and what they hear alike is distorted and taken through the teacher once. Groups
train one after the other.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from distill.checkpoints import safe_pickle
from distill.config import differences, read_resolved
from distill.data.datamodule import SpeechData
from distill.errors import (
    CheckpointError,
    ConfigError,
    UsageError,
    UserError,
    first_line,
    listed,
    refuse_other_settings,
)
from distill.options import CDM, DistillRecipe, Recipe
from distill.training.devices import layout_of
from distill.training.releasing import check_made
from distill.training.run_folder import RunFolder
from distill.training.sharing import Group, Place
from distill.training.stopping import Interrupted, NotStarted, requeue
from distill.training.train import streams_of, train


@dataclass(frozen=True)
class Job:
    """A run that is to be started or continued."""

    recipe: DistillRecipe
    out: Path
    step: int | None
    """Where it continues: 0 if it is new, None if its checkpoint cannot be read."""


Outcome = Path | BaseException
"""The released student, or what went wrong."""


class SomeFailed(UserError):
    """Some of several runs have failed; their messages have been printed."""


class AllStopped(UserError):
    """Several runs were told to stop."""


def train_several(runs: Sequence[tuple[Recipe, Path]]) -> list[Path]:
    """Distil several students, those that can share it from one pass of the data and the teacher.

    Runs that are finished are left alone, others are continued from their last checkpoint. One that fails
    does not keep the others from going on.

    Args:
        runs: recipe and folder of each.

    Returns:
        The released students, in the order of the runs.

    Raises:
        UserError: a run cannot be part of this; or, in the end, some have failed or all were stopped.
    """
    jobs = planned(runs)
    groups = groups_of(jobs)
    for group in groups:  # all before the first step: hours may lie between them
        check_sources(group)
    recipes = [job.recipe for job in jobs]
    if len({one.seed for one in recipes}) > 1 and all(one.data.order_seed is None for one in recipes):
        print(
            "each seed has an order of the data of its own: data.order_seed=0 lets them share",
            file=sys.stderr,
        )
    outcomes: dict[Path, Outcome] = {}
    for group in groups:
        outcomes |= train_group(group)
        gc.collect()  # models and trainers refer to each other: the next group needs their memory
        if any(isinstance(outcome, Interrupted | NotStarted) for outcome in outcomes.values()):
            break
    conclude(outcomes, len(jobs))
    return [RunFolder(out).student for _, out in runs]


def planned(runs: Sequence[tuple[Recipe, Path]]) -> list[Job]:
    """What there is to do.

    Raises:
        UserError: naming the run that cannot be part of it.
    """
    jobs = []
    folders: dict[Path, Recipe] = {}
    for recipe, out in runs:
        if out.resolve() in folders:
            raise UsageError(f"two recipes are named {recipe.name}: both runs would be {out}")
        folders[out.resolve()] = recipe
        if not isinstance(recipe, DistillRecipe):
            raise ConfigError(f"{recipe.name} makes no student: only students are trained several at once")
        layout = layout_of(recipe)
        if layout.processes * layout.nodes > 1 or recipe.trainer.get("strategy", "auto") != "auto":
            raise ConfigError(
                f"{recipe.name}: several students train in one process, on one device: set trainer.devices=1 "
                "and leave out trainer.strategy and num_nodes, or start each by itself"
            )
        folder = RunFolder(out)
        finished = folder.student.exists() and folder.steps_done >= recipe.optim.max_steps
        if finished or folder.last.exists():
            if not folder.recipe.is_file():
                raise UserError(f"{out} is not a run folder: it has no {folder.recipe.name}")
            changes = differences(read_resolved(folder.recipe), recipe)
            refuse_other_settings(out, changes, advice="choose another --out, or remove it")
        else:
            folder.check(resume=False)
        if finished:
            check_made(folder.student)
            print(f"{out} is finished already", file=sys.stderr)
        else:
            jobs.append(Job(recipe, out, _step_of(folder)))
    return jobs


def check_sources(group: Sequence[Job]) -> None:
    """Open the speech and the noise of a group, as its training will.

    Raises:
        UserError: naming its first recipe and what is missing.
    """
    recipe = group[0].recipe
    try:
        SpeechData(recipe, streams=streams_of_all(group))
    except UserError as error:
        error.args = (f"{recipe.name}: {error.args[0]}", *error.args[1:])
        raise


def streams_of_all(group: Iterable[Job]) -> list[str]:
    """The distorted views that the runs of a group hear."""
    return sorted({stream for job in group for stream in streams_of(job.recipe)})


def _step_of(folder: RunFolder) -> int | None:
    """Steps that a run has made; None if that cannot be read."""
    if not folder.last.exists():
        return 0
    try:
        return int(safe_pickle.load(folder.last)["global_step"])
    except (CheckpointError, KeyError, TypeError):  # said when it is continued
        return None


def groups_of(jobs: Iterable[Job]) -> list[list[Job]]:
    """The runs that can train together, in the order of their first."""
    groups: dict[str, list[Job]] = {}
    for job in jobs:
        recipe = job.recipe
        data = asdict(recipe.data) | {"order_seed": recipe.order_seed}
        same = [job.step, data, asdict(recipe.distortion), recipe.trainer, recipe.teacher]
        same += [] if recipe.distortion.curriculum is None else [recipe.optim.max_steps]
        alone = str(job.out) if job.step is None else ""
        groups.setdefault(json.dumps([*same, alone], sort_keys=True, default=str), []).append(job)
    return list(groups.values())


def train_group(jobs: Sequence[Job]) -> dict[Path, Outcome]:
    """Train the runs of a group; by folder, how each has ended."""
    if len(jobs) == 1:  # as ever
        (job,) = jobs
        return {job.out: _outcome(job, None)}
    _say(jobs)
    group = Group(len(jobs), streams_of_all(jobs))
    outcomes: dict[Path, Outcome] = {}

    def work(run: int, job: Job) -> None:
        group.relay.wait_for_turn(run)
        try:
            outcomes[job.out] = _outcome(job, Place(group, run, streams_of(job.recipe)))
        except BaseException as error:  # a library that wants to end the process
            outcomes[job.out] = error
        finally:
            group.relay.leave(run)

    threads = [
        threading.Thread(target=work, args=(run, job), name=job.out.name, daemon=True)
        for run, job in enumerate(jobs)
    ]
    with _signals_for(group):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    group.close()
    if group.received == signal.SIGUSR1 and (requeued := requeue()):  # now that all have saved
        print(f"distill: {requeued}", file=sys.stderr)
    return outcomes


def _outcome(job: Job, place: Place | None) -> Outcome:
    """Train; what goes wrong is printed and returned."""
    try:
        return train(job.recipe, job.out, resume=job.step != 0, place=place)
    except (Interrupted, NotStarted) as error:
        return error
    except Exception as error:
        if not isinstance(error, UserError | OSError):
            traceback.print_exception(error)
        print(f"distill: {_failure(job.out, error)}", file=sys.stderr)
        return error


def _failure(out: Path, error: BaseException) -> str:
    said = str(error).strip().splitlines()[-1:] if isinstance(error, UserError) else [first_line(error)]
    return f"{out}: {''.join(said) or type(error).__name__}"


def _say(jobs: Sequence[Job]) -> None:
    """One line about what a group shares."""

    def heard(job: Job) -> tuple[Any, ...]:
        recipe = job.recipe
        random = recipe.seed if recipe.teacher.startswith("random:") else None
        return CDM[recipe.cdm][0], random

    n_passes = len({heard(job) for job in jobs})
    passes = "1 pass" if n_passes == 1 else f"{n_passes} passes"
    names = listed([job.out.name for job in jobs], limit=6)
    print(f"together: {names}: 1 reading of the data, {passes} of the teacher a step", file=sys.stderr)


@contextmanager
def _signals_for(group: Group) -> Iterator[None]:
    """Let Ctrl-C, SIGTERM and SIGUSR1 stop all runs of a group; a second Ctrl-C leaves at once."""

    def note(signum: int, _: Any) -> None:
        if group.received:
            if signum == signal.SIGINT:
                raise KeyboardInterrupt
            return
        name = signal.Signals(signum).name  # not by print, which the signal may have interrupted
        os.write(2, f"distill: {name}: saving all runs after this step, then stopping\n".encode())
        group.stop(signum)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    caught = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    previous = {signum: signal.signal(signum, note) for signum in caught}
    try:
        yield
    finally:
        for signum, handler in previous.items():
            signal.signal(signum, handler)


def conclude(outcomes: dict[Path, Outcome], n_jobs: int) -> None:
    """Say what has failed or was stopped, if anything.

    Raises:
        UserError: if so.
    """
    stopped = [one for one in outcomes.values() if isinstance(one, Interrupted | NotStarted)]
    failed = {
        out: one
        for out, one in outcomes.items()
        if isinstance(one, BaseException) and (one not in stopped or getattr(one, "problem", ""))
    }
    if (failed and len(outcomes) > 1) or any(one in stopped for one in failed.values()):
        for out, error in failed.items():
            print(f"distill: {_failure(out, error)}", file=sys.stderr)
    if stopped:
        codes = [one.exit_code for one in stopped]
        how = "; ".join(dict.fromkeys(str(one).partition(";")[0].partition(" before")[0] for one in stopped))
        error = AllStopped(f"{how}: give the same command again to continue")
        error.exit_code = max(codes)
        raise error
    if failed:
        names = listed(failed)
        raise SomeFailed(
            f"{len(failed)} of {n_jobs} runs failed: {names}; the same command continues what is not finished"
        )
