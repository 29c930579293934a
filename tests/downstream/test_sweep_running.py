"""Jobs one after the other: a failure does not end a sweep, a signal does."""

import os
import signal
from pathlib import Path

import pytest

from distill.downstream.sweep import Job
from distill.downstream.sweep_running import run_command, run_sweep
from distill.errors import UserError
from distill.training.run_folder import RunFolder
from distill.training.stopping import Interrupted
from tests.downstream.sweeps import finish, plan


def fail(job: Job) -> None:
    raise UserError("the corpus is missing")


def test_a_failure_does_not_stop_the_others(students, tmp_path):
    jobs = plan(students, tmp_path, seeds=(0, 1))
    done = []

    def evaluate(job: Job) -> None:
        done.append(job)
        if job.config.seed == 0:
            fail(job) if "s1" in job.checkpoint else 1 / 0  # noqa: B018
        finish(job)

    with pytest.raises(UserError) as error:
        run_sweep(jobs, evaluate)
    assert done == jobs
    message = str(error.value)
    assert message.startswith("2 of 4 evaluations failed")
    assert f"{jobs[0].name}: the corpus is missing" in message
    assert f"{jobs[2].name}: ZeroDivisionError" in message
    assert "\n" not in message
    assert plan(students, tmp_path, seeds=(0, 1)) == [jobs[0], jobs[2]]
    run_sweep([jobs[0], jobs[2]], finish)
    assert plan(students, tmp_path, seeds=(0, 1)) == []


@pytest.mark.parametrize(
    "stop", [KeyboardInterrupt(), SystemExit(143), Interrupted(signal.SIGTERM, RunFolder(Path("a")))]
)
def test_signals_end_the_sweep(students, tmp_path, stop):
    def evaluate(job: Job) -> None:
        done.append(job)
        raise stop

    done: list[Job] = []
    with pytest.raises(type(stop)):
        run_sweep(plan(students, tmp_path), evaluate)
    assert len(done) == 1


def test_a_job_as_a_process(students, tmp_path, fake_distill):
    (job,) = plan(students[:1], tmp_path, words=["label=a b"])
    run_command(job)
    assert fake_distill.read_text().splitlines() == job.command()[1:]
    (tmp_path / "code").write_text("exit 3")
    with pytest.raises(UserError, match="^exit code 3, see its output"):
        run_command(job)
    (tmp_path / "code").write_text("kill -9 $$")  # what lack of memory looks like
    with pytest.raises(UserError, match="^exit code -9, see its output"):
        run_command(job)
    (tmp_path / "code").write_text("exit 130")
    with pytest.raises(KeyboardInterrupt):
        run_command(job)


def test_sigterm_reaches_the_process(students, tmp_path, fake_distill):
    (job,) = plan(students[:1], tmp_path)
    told = tmp_path / "told"
    (tmp_path / "code").write_text(
        f"trap 'touch {told}; exit 143' TERM; kill -TERM {os.getpid()}; sleep 9 & wait"
    )
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as error:
        run_command(job)
    assert error.value.code == 143
    assert told.exists()
    assert signal.getsignal(signal.SIGTERM) is handler
