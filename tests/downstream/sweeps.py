"""Sweeps for tests: plans, and what evaluations leave behind."""

import json

from distill.downstream.head_record import sign_head
from distill.downstream.sweep import Job, plan_sweep

CONDITIONS = ("clean", "2-dist")


def plan(students, tmp_path, tasks=("ks",), conditions=CONDITIONS, **options) -> list[Job]:
    return plan_sweep(students, tasks, conditions, data="data", out=tmp_path / "out", **options)


def finish(job: Job, *, conditions=None, folds=(None,), lms=(False,)) -> None:
    """Write results as an evaluation would."""
    (job.out / "results").mkdir(parents=True, exist_ok=True)
    for condition in job.config.effective_conditions if conditions is None else conditions:
        for fold in folds:
            for lm in lms:
                result = {
                    "task": job.config.task,
                    "condition": condition,
                    "metric": "accuracy",
                    "value": 50.0,
                    "seed": job.config.seed,
                    "fold": fold,
                    "lm": lm,
                    "features": job.config.features,
                    "model": "m",
                    "checkpoint_hash": "h",
                    "recipe": None,
                    "head_steps": job.config.recipe().optim.max_steps,
                    "n_utterances": 1,
                    "versions": {},
                    "finished": "2026-01-01",
                    "settings": job.config.settings(lm=lm),
                }
                (job.out / "results" / f"{job.head}-{condition}-{fold}-{lm}.json").write_text(
                    json.dumps(result)
                )


def begin(job: Job) -> None:
    """What an evaluation leaves that was stopped while its head was trained."""
    for fold in job.config.effective_folds:
        sign_head(job.out / "heads" / job.config.head_name(fold), job.config.head_settings)
