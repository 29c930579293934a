"""The jobs of a sweep on this machine, one after the other."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence

from tqdm import tqdm

from distill.downstream.sweep import Job
from distill.errors import UserError

logger = logging.getLogger(__name__)


def run_sweep(jobs: Sequence[Job], evaluate: Callable[[Job], object] | None = None) -> None:
    """Run jobs one after another; one that fails does not stop the others.

    Args:
        jobs: from `plan_sweep`.
        evaluate: runs one; raises if it fails. By default `Job.command` in a process of its own, so that not
            even a crash or lack of memory ends the sweep.

    Raises:
        UserError: at the end, naming the jobs that failed and why.
    """
    evaluate = evaluate or run_command
    failures = []
    for job in (progress := tqdm(jobs, desc="sweep", unit="head", disable=None)):
        progress.set_postfix_str(job.name)
        progress.write(f"{job.name}: {', '.join(job.config.effective_conditions)}", file=sys.stderr)
        try:
            evaluate(job)
        except UserError as error:
            if error.exit_code > 128:  # a signal, which is meant for the sweep
                raise
            failures.append(f"{job.name}: {error}")
        except Exception as error:  # noqa: BLE001 no error of one job may end the others
            logger.exception("%s failed", job.name)
            failures.append(f"{job.name}: {type(error).__name__}: {error}")
    if failures:
        raise UserError(
            f"{len(failures)} of {len(jobs)} evaluations failed, the same command tries them again: "
            + "; ".join(failures)
        )


def run_command(job: Job) -> None:
    """Run one job's command line; its output is shown.

    Raises:
        UserError: if it fails.
        KeyboardInterrupt: if it was stopped by Ctrl-C.
        SystemExit: if this process was told to end (SIGTERM).
    """
    stopped = False
    process: subprocess.Popen[bytes] | None = None

    def stop(*_: object) -> None:  # the evaluation saves its head; without this it would outlive the sweep
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
