"""What a sweep has still to do, that a failure does not end it, and its SLURM script in a real bash."""

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from distill.downstream.head_record import sign_head
from distill.downstream.identity import student_folder
from distill.downstream.speech import TaskSpeech
from distill.downstream.sweep import Job, plan_sweep
from distill.downstream.sweep_running import run_command, run_sweep
from distill.downstream.sweep_slurm import submit, write_slurm
from distill.errors import DataError, UsageError, UserError
from distill.training.stopping import Interrupted

CONDITIONS = ("clean", "2-dist")


@pytest.fixture
def students(tmp_path) -> list[str]:
    for name in ("s1", "s4"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "student.safetensors").write_bytes(name.encode())
    return [str(tmp_path / "s1"), str(tmp_path / "s4")]


def plan(students, tmp_path, tasks=("ks",), conditions=CONDITIONS, **options) -> list[Job]:
    return plan_sweep(students, tasks, conditions, data="data", out=tmp_path / "out", **options)


def finish(job: Job, *, conditions=None, folds=(None,), lms=(False,)) -> None:
    """Write results as an evaluation would."""
    (job.out / "results").mkdir(parents=True, exist_ok=True)
    for condition in job.conditions if conditions is None else conditions:
        for fold in folds:
            for lm in lms:
                result = {
                    "task": job.task,
                    "condition": condition,
                    "metric": "accuracy",
                    "value": 50.0,
                    "seed": job.seed,
                    "fold": fold,
                    "lm": lm,
                    "features": job.features,
                    "model": "m",
                    "checkpoint_hash": "h",
                    "recipe": None,
                    "head_steps": job.config().recipe().optim.max_steps,
                    "n_utterances": 1,
                    "versions": {},
                    "finished": "2026-01-01",
                    "settings": job.config().settings(lm=lm),
                }
                (job.out / "results" / f"{job.head}-{condition}-{fold}-{lm}.json").write_text(
                    json.dumps(result)
                )


# ----------------------------------------------------------------------------------------------- planning


def test_every_combination_is_a_job_in_its_students_folder(students, tmp_path):
    jobs = plan(students, tmp_path, ("ks", "ic"), features=("last", "layer:1"), seeds=(0, 1))
    assert len(jobs) == len({job.name for job in jobs}) == 2 * 2 * 2 * 2
    assert len({job.out for job in jobs}) == 2
    first = jobs[0]
    assert (first.task, first.features, first.seed) == ("ks", "last", 0)
    assert first.conditions == CONDITIONS
    assert first.command() == [
        *(sys.executable, "-m", "distill", "evaluate", "ks", "--student", students[0]),
        *("--data", "data", "--out", str(first.out), "--condition", "clean", "--condition", "2-dist"),
        *("--features", "last", "--seed", "0"),
    ]


def test_what_is_said_twice_is_done_once(students, tmp_path):
    assert len(plan([students[0]] * 2, tmp_path, ("ks", "ks"), ("clean", "clean"), seeds=(1, 1))) == 1


def test_finished_conditions_are_left_out(students, tmp_path):
    first, second = plan(students, tmp_path)
    finish(first)
    finish(second, conditions=["2-dist"])
    (left,) = plan(students, tmp_path)
    assert left == replace(second, conditions=("clean",))


def test_other_heads_and_damaged_results_do_not_count(students, tmp_path):
    job = plan(students[:1], tmp_path)[0]
    for other in (replace(job, seed=7), replace(job, features="layer:1"), replace(job, task="ic")):
        finish(other)
    (job.out / "results" / "x.json").write_text("{")
    assert plan(students[:1], tmp_path) == [job]


def test_er_needs_all_its_folds(students, tmp_path):
    (job,) = plan(students[:1], tmp_path, ("er",))
    finish(job, folds=(1, 2, 3, 4))
    assert plan(students[:1], tmp_path, ("er",)) == [job]
    assert plan(students[:1], tmp_path, ("er",), words=["folds=[1,4]"]) == []
    finish(job, folds=(5,))
    assert plan(students[:1], tmp_path, ("er",)) == []


def test_asr_with_a_language_model_needs_both_results(students, tmp_path):
    (tmp_path / "4.bin").write_text("a language model")
    (tmp_path / "lexicon.txt").write_text("A A |")
    words = [f"asr:lm={tmp_path}/4.bin", f"asr:lexicon={tmp_path}/lexicon.txt"]
    finish(plan(students[:1], tmp_path, ("asr",))[0])  # it is named later: only that is missing
    (job,) = plan(students[:1], tmp_path, ("asr",), words=words)
    finish(job, lms=(True,))
    assert plan(students[:1], tmp_path, ("asr",), words=words) == []
    assert plan(students[:1], tmp_path, ("asr",)) == []
    with pytest.raises(UserError, match=r"-lm.json was measured with other lexicons: choose another"):
        plan(students[:1], tmp_path, ("asr",), words=words[:1])
    (tmp_path / "4.bin").write_text("another language model")
    with pytest.raises(UserError, match=r"-lm.json was measured with other lm: choose another --out"):
        plan(students[:1], tmp_path, ("asr",), words=words)
    (tmp_path / "4.bin").unlink()
    with pytest.raises(DataError, match="4.bin: no such file"):
        plan(students[:1], tmp_path, ("asr",), words=words)


def test_results_of_other_test_data_do_not_count_as_done(quick, students, tmp_path):
    data = quick("ks").data
    options = {"tasks": ["ks"], "conditions": ["clean"], "out": tmp_path / "out"}
    (job,) = plan_sweep(students[:1], data=data, **options)
    finish(job)
    (path,) = job.out.glob("results/*.json")
    result = json.loads(path.read_text())
    tested = TaskSpeech(job.config())
    result["settings"] |= tested.test_data("clean", None) | tested.test_audio("clean", None)
    path.write_text(json.dumps(result))
    assert plan_sweep(students[:1], data=data, **options) == []
    others = [f"sources.test={data}/speech_commands/dev.jsonl.gz"]
    shutil.copytree(f"{data}/speech_commands", tmp_path / "data" / "speech_commands")
    shutil.copy(f"{data}/speech_commands/dev.jsonl.gz", tmp_path / "data/speech_commands/test.jsonl.gz")
    with pytest.raises(UserError, match="clean.json was measured with other test set: choose another"):
        plan_sweep(students[:1], data=str(tmp_path / "data"), **options)
    with pytest.raises(UserError, match="clean.json was measured with other test set: choose another"):
        plan_sweep(students[:1], data=data, words=others, **options)
    with pytest.raises(DataError, match="none/speech_commands/test.jsonl.gz does not exist"):
        plan_sweep(students[:1], data=str(tmp_path / "none"), **options)


def test_conditions_and_words_of_one_task(students, tmp_path):
    conditions = ("clean", "test-other", "chime3")
    words = ["workers=1", "asr:lm=4.bin", "label=C:clips"]
    ks, asr = plan(students[:1], tmp_path, ("ks", "asr"), conditions, words=words)
    assert ks.conditions == ("clean",)
    assert asr.conditions == conditions
    assert ks.words == ("workers=1", "label=C:clips")
    assert asr.words == ("workers=1", "label=C:clips", "lm=4.bin")  # its own last: they win
    assert asr.command()[-3:] == list(asr.words)


def test_without_conditions_each_task_has_its_own(students, tmp_path):
    ks, asr = plan(students[:1], tmp_path, ("ks", "asr"), ())
    assert ks.conditions == ("clean", "2-dist", "fsd", "dns")
    assert asr.conditions == ("clean", "2-dist", "fsd", "dns", "test-other", "chime3")


def test_an_unknown_task(students, tmp_path):
    with pytest.raises(UsageError, match="unknown task 'kws'; there are ks, ic"):
        plan(students, tmp_path, ("kws",))


def test_a_student_trained_anew_is_evaluated_anew(students, tmp_path):
    before = student_folder(students[0])
    assert before.startswith("s1-")
    assert before == student_folder(students[0] + "/")
    assert before != student_folder(students[1])
    (Path(students[0]) / "student.safetensors").write_bytes(b"other weights")
    assert student_folder(students[0]) != before
    before = student_folder(students[0])
    (Path(students[0]) / "preprocessor_config.json").write_text('{"do_normalize": true}')
    assert student_folder(students[0]) != before
    assert student_folder("facebook/hubert-base-ls960") == "facebook_hubert-base-ls960"
    assert student_folder(str(Path(students[0]) / "student.safetensors")).startswith("s1-student-")
    assert student_folder("../..") not in ("", "..")


def begin(job: Job) -> None:
    """What an evaluation leaves that was stopped while its head was trained."""
    for fold in job.config().settled_folds:
        sign_head(job.out / "heads" / job.config().head_name(fold), job.config().head_settings)


@pytest.mark.parametrize("task", ["ks", "er"])
def test_a_head_that_was_begun_with_other_settings_is_refused(students, tmp_path, task):
    """Before anything else of the sweep is done."""
    (job,) = plan(students[:1], tmp_path, (task,), words=["width=8"])
    begin(job)
    assert plan(students[:1], tmp_path, (task,), words=["width=8"]) == [job]
    with pytest.raises(UserError, match=r"heads/\S+ has a head of other width: choose another --out"):
        plan(students[:1], tmp_path, (task,), words=["width=9"])
    with pytest.raises(UserError, match="has a head of other every_n_steps and width"):
        plan(students[:1], tmp_path, (task,), words=["every_n_steps=7"])
    named = job.out / "heads" / job.config().head_name(job.config().settled_folds[0]) / "head.json"
    named.write_text(named.read_text().replace(f'"lr": {job.config().settled_lr}', '"lr": 0.1'))
    with pytest.raises(UserError, match="has a head of other lr"):  # of an earlier version, which named none
        plan(students[:1], tmp_path, (task,), words=["width=8"])


def test_the_same_in_other_words(students, tmp_path):
    """Another order, a default written out, what changes no score, and a longer training."""
    (job,) = plan(students[:1], tmp_path, words=["lr=0.1", "batch_size=4", "cache=float32"])
    begin(job)
    for words in (["batch_size=4", "lr=0.1"], ["lr=1e-1", "batch_size=4", "crop_s=1", "trainer.devices=2"]):
        assert [again.words for again in plan(students[:1], tmp_path, words=words)] == [tuple(words)]
    assert plan(students[:1], tmp_path, words=["lr=0.1", "batch_size=4", "steps=300000"])
    finish(job)
    assert plan(students[:1], tmp_path, words=["steps=200000", "batch_size=4", "lr=0.1", "workers=0"]) == []
    with pytest.raises(UserError, match="other batch_size"):
        plan(students[:1], tmp_path, words=["lr=0.1"])


def test_students_that_are_not_there_are_named_before_anything_starts(students, tmp_path):
    with pytest.raises(UserError, match=f"^{tmp_path}/s9, {tmp_path}/runs/s2: no such checkpoint; name run"):
        plan([students[0], f"{tmp_path}/s9", f"{tmp_path}/runs/s2"], tmp_path)
    assert len(plan(["organisation/model", "HUBERT_BASE", "random:mini"], tmp_path)) == 3


@pytest.mark.parametrize(
    ("word", "option"),
    [
        ("task=ic", "task from --task"),
        ("data=other", "data from --data"),
        ("conditions=[clean]", "conditions from --condition"),
        ("features=layer:1", "features from --features"),
        ("seed=3", "seed from --seed"),
        ("asr:seed=3", "seed from --seed"),
        ("noises.musan=[a.tsv]", "noises from --noise"),
    ],
)
def test_what_the_plan_says_is_no_word(students, tmp_path, word, option):
    with pytest.raises(UsageError) as error:
        plan(students, tmp_path, words=["lr=0.1", word])
    assert str(error.value) == f"{word}: a sweep takes {option}, use that"


def test_results_of_other_settings_do_not_count_as_done(students, tmp_path):
    noise = {"noises": {"musan": ["a.tsv", "b.tsv"]}}
    (job,) = plan(students[:1], tmp_path, words=["lr=0.1", "width=8"], **noise)
    noise_words = ["--noise", "musan=a.tsv", "--noise", "musan=b.tsv"]
    assert " ".join(noise_words) in " ".join(job.command())
    finish(job)  # as `distill evaluate` does, which keeps no words
    assert plan(students[:1], tmp_path, words=["width=8", "lr=0.1"], **noise) == []
    assert len(plan(students[:1], tmp_path, words=["lr=0.1", "width=8", "steps=9"], **noise)) == 1
    with pytest.raises(UserError, match="(clean|2-dist).json was measured with other width: choose another"):
        plan(students[:1], tmp_path, words=["lr=0.1", "width=9"], **noise)
    with pytest.raises(UserError, match="measured with other width and noises"):
        plan(students[:1], tmp_path, words=["lr=0.1", "width=9"])


def test_learning_rates_are_heads_of_their_own(students, tmp_path):
    """Neither heads nor results have the same names; each is done or not by itself."""
    rates = {"rates": (1e-3, 1e-4, 1e-3, 0.00010000001)}  # the first is the task's own
    jobs = plan(students[:1], tmp_path, **rates)
    assert [job.lr for job in jobs] == [1e-3, 1e-4, 0.00010000001]
    heads = ["ks-last-seed0", "ks-last-seed0-lr0.0001", "ks-last-seed0-lr0.00010000001"]
    assert [job.head for job in jobs] == heads
    assert [job.config().head_settings["lr"] for job in jobs] == [job.lr for job in jobs]
    assert jobs[1].command()[-1] == "lr=0.0001"
    assert jobs[1].config().result_name("fsd", None, lm=False) == "ks-last-seed0-lr0.0001-fsd.json"
    for job in jobs:
        begin(job)
    finish(jobs[1])
    assert plan(students[:1], tmp_path, **rates) == [jobs[0], jobs[2]]
    finish(jobs[0])
    assert plan(students[:1], tmp_path) == []
    assert [job.lr for job in plan(students[:1], tmp_path, rates=(1e-2, 1e-4))] == [1e-2]
    for word in ("lr=0.1", "ks:lr=0.1"):
        with pytest.raises(UsageError, match=f"^{word}: a sweep takes lr from --lr, use that$"):
            plan(students, tmp_path, words=[word], **rates)


# ------------------------------------------------------------------------------------------------ running


def fail(job: Job) -> None:
    raise UserError("the corpus is missing")


def test_a_failure_does_not_stop_the_others(students, tmp_path):
    jobs = plan(students, tmp_path, seeds=(0, 1))
    done = []

    def evaluate(job: Job) -> None:
        done.append(job)
        if job.seed == 0:
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
    "stop", [KeyboardInterrupt(), SystemExit(143), Interrupted(signal.SIGTERM, Path("a/b/c"))]
)
def test_signals_end_the_sweep(students, tmp_path, stop):
    def evaluate(job: Job) -> None:
        done.append(job)
        raise stop

    done: list[Job] = []
    with pytest.raises(type(stop)):
        run_sweep(plan(students, tmp_path), evaluate)
    assert len(done) == 1


@pytest.fixture
def fake_distill(tmp_path, monkeypatch) -> Path:
    """Stands for Python: notes its arguments, one a line, and ends as the file `code` says."""
    script = tmp_path / "python it is"
    log = tmp_path / "log"
    script.write_text(
        f'#!/bin/sh\nprintf "%s\\n" "$@" > "{log}"\n[ ! -f "{tmp_path}/code" ] || . "{tmp_path}/code"\n'
    )
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(sys, "executable", str(script))
    return log


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


# -------------------------------------------------------------------------------------------------- SLURM


def test_each_array_task_runs_its_job(students, tmp_path, fake_distill):
    jobs = plan(students, tmp_path, seeds=(0, 1), words=["label=it's $HOME; rm"])
    script = write_slurm(jobs, tmp_path / "out", options=["--partition=gpu", "--gpus=1"])
    text = script.read_text()
    assert "#SBATCH --array=0-3\n" in text
    assert "#SBATCH --partition=gpu\n#SBATCH --gpus=1\n" in text
    assert (tmp_path / "out" / "slurm").is_dir()
    for index, job in enumerate(jobs):
        subprocess.run(["bash", script], env=os.environ | {"SLURM_ARRAY_TASK_ID": str(index)}, check=True)
        assert fake_distill.read_text().splitlines() == job.command()[1:]
    outside = subprocess.run(["bash", script], env=os.environ | {"SLURM_ARRAY_TASK_ID": "4"}, check=False)
    assert outside.returncode == 2
    with pytest.raises(ValueError, match="no jobs"):
        write_slurm([], tmp_path)


def test_submitting(tmp_path, monkeypatch):
    script = tmp_path / "sweep.sbatch"
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="sbatch was not found"):
        submit(script)
    sbatch = tmp_path / "sbatch"
    sbatch.write_text('#!/bin/sh\necho "Submitted batch job 7 $1"\n')
    sbatch.chmod(0o755)
    assert submit(script) == f"Submitted batch job 7 {script}"
    sbatch.write_text('#!/bin/sh\necho "sbatch: error: invalid partition" >&2\nexit 1\n')
    with pytest.raises(UserError, match="invalid partition"):
        submit(script)
