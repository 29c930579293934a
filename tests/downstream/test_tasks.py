"""Protocols: the values that they change; recorded test sets."""

import pytest

from distill.data_prep.chime3 import CHIME3
from distill.downstream.options import EvaluationConfig
from distill.downstream.paper import size_of_test
from distill.downstream.task_sources import source_of
from distill.downstream.tasks import PROTOCOLS, RECORDED, TASKS, task_of


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


def test_every_channel_of_chime3_that_was_published_can_be_tested():
    prepared = {f"{CHIME3.name}/{split.name}": split.files for split in CHIME3.splits}
    found = {name: source for name, source in RECORDED.items() if name.startswith("chime3")}
    assert [source[-3:] for source in found.values()] == ["ch0", "ch5", "ch1", "ch2"]
    for name, source in found.items():
        assert prepared[source] == size_of_test("asr", name, None)
    config = EvaluationConfig(task="asr", conditions=["chime3-ch5"])
    assert source_of(config, "chime3-ch5") == "data/chime3/et05_real_ch5.jsonl.gz"


def test_protocols_name_tasks_and_options_that_exist():
    for protocol, changes in PROTOCOLS.items():
        for task in changes:
            assert task_of(task, protocol) != TASKS[task]
    assert task_of("ks", "of a later version") == TASKS["ks"]
