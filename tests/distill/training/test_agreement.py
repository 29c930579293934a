"""Processes compare what they are about to train."""

from types import SimpleNamespace

import pytest

from distill.config import load
from distill.training import agreement
from distill.training.agreement import Agreement, Disagreement


def trainer(**changes):
    about = {
        "world_size": 2,
        "ckpt_path": None,
        "global_step": 0,
        "datamodule": SimpleNamespace(speech={"utterances": 8, "ids": "ab"}),
    }
    return SimpleNamespace(**(about | changes))


def compare(monkeypatch, first, second):
    """(recipe, trainer) of two processes, as the second sees them."""
    monkeypatch.setattr(
        agreement.distributed,
        "all_gather_object",
        lambda every, own: every.__setitem__(slice(None), [Agreement(first[0])._about(first[1]), own]),
    )
    Agreement(second[0]).on_train_start(second[1], None)


def test_paths_machines_and_logs_may_differ(monkeypatch):
    other = load("s4", ["data.root=/scratch", "teacher=/scratch/hubert", "logging.wandb=off"])
    compare(monkeypatch, (load("s4"), trainer()), (other, trainer()))
    resumed = {"global_step": 5}
    paths = ({"ckpt_path": "/a/last.ckpt"}, {"ckpt_path": "/b/last.ckpt"})
    one, another = (trainer(**resumed, **path) for path in paths)
    compare(monkeypatch, (load("s4"), one), (load("s4"), another))


@pytest.mark.parametrize(
    ("words", "changes", "said"),
    [
        (["optim.lr=1"], {}, "recipe.optim.lr: None -> 1.0"),
        (["seed=1"], {}, "data.order_seed: 0 -> 1; seed: 0 -> 1"),
        (["name=s5"], {}, "recipe.name: s4 -> s5"),
        ([], {"ckpt_path": "/b/last.ckpt", "global_step": 7}, "at step: 0 -> 7; resumed: False -> True"),
        (
            [],
            {"datamodule": SimpleNamespace(speech={"utterances": 9, "ids": "ab"})},
            "speech.utterances: 8 -> 9",
        ),
    ],
)
def test_nothing_else(monkeypatch, words, changes, said):
    with pytest.raises(Disagreement) as refused:
        compare(monkeypatch, (load("s4"), trainer()), (load("s4", words), trainer(**changes)))
    assert f"process 1 would train something else than the first one ({said}): all machines" in str(
        refused.value
    )
    assert refused.value.joint


def test_one_process_has_nobody_to_agree_with(monkeypatch):
    monkeypatch.setattr(agreement.distributed, "all_gather_object", None)
    Agreement(load("s4")).on_train_start(trainer(world_size=1), None)
