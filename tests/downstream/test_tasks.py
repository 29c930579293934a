"""Protocols: the values that they change."""

import pytest

from distill.downstream.options import EvaluationConfig
from distill.downstream.tasks import PROTOCOLS, TASKS, task_of


@pytest.mark.parametrize(
    ("task", "protocol", "values"),
    [
        ("er", "paper", {"batch_size": 4, "every_n_steps": 500, "dev_seed": None, "gain_db": 0.0}),
        ("er", "s3prl", {"batch_size": 32, "every_n_steps": 1000, "dev_seed": 0, "gain_db": 0.0}),
        ("asr", "paper", {"batch_size": 32}),
        ("asr", "s3prl", {"batch_size": 16}),
        ("ks", "paper", {"gain_db": 0.0, "batch_size": 32}),
        ("ks", "s3prl", {"gain_db": -3.0, "batch_size": 32}),
    ],
)
def test_the_values_of_each_protocol(task, protocol, values):
    found = EvaluationConfig(task=task, protocol=protocol).defaults
    assert {name: getattr(found, name) for name in values} == values


def test_protocols_name_tasks_and_options_that_exist():
    for protocol, changes in PROTOCOLS.items():
        for task in changes:
            assert task_of(task, protocol) != TASKS[task]
    assert task_of("ks", "of a later version") == TASKS["ks"]
