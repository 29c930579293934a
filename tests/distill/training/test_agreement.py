"""Processes compare what they are about to train."""

from types import SimpleNamespace

import pytest

from distill.config import load
from distill.training import agreement
from distill.training.agreement import Agreement, Disagreement


def trainer(**changes):
    about = {"world_size": 2, "ckpt_path": None, "global_step": 0}
    return SimpleNamespace(**(about | {"datamodule": SimpleNamespace(speech={"ids": "ab"})} | changes))


def begin(recipe, trainer):
    Agreement(recipe).setup(trainer, None, "fit")
    Agreement(recipe).on_train_start(trainer, None)


def compare(monkeypatch, first, second):
    """(recipe, trainer) of two processes, as the second sees them."""
    said = []

    def alone(every, own):
        said.append(own)
        every[:] = [own, own]

    def both(every, own):
        every[:] = [said.pop(0), own]

    for gather, process in ((alone, first), (both, second)):
        monkeypatch.setattr(agreement.distributed, "all_gather_object", gather)
        begin(*process)


def test_paths_machines_and_logs_may_differ(monkeypatch):
    words = ["data.root=/scratch", "teacher=/scratch/hubert", "logging.wandb=off", "data.workers=1"]
    words += ['data.train=["/a/b/train.jsonl.gz"]', 'data.dev=["/c/dev-clean.jsonl.gz"]']
    compare(monkeypatch, (load("s4"), trainer()), (load("s4", words), trainer()))
    words = ["decoding.lm=/mine.arpa", "tests.x.sources=[/x.tsv]"]
    compare(monkeypatch, (load("finetune_mini"), trainer()), (load("finetune_mini", words), trainer()))
    paths = ({"ckpt_path": "/a/last.ckpt"}, {"ckpt_path": "/b/last.ckpt"})
    first, second = (trainer(global_step=5, **path) for path in paths)
    compare(monkeypatch, (load("s4"), first), (load("s4"), second))


@pytest.mark.parametrize(
    ("words", "changes", "said"),
    [
        (["optim.lr=1"], {}, "optim.lr: 0.0002 -> 1.0"),
        (["seed=1"], {}, "seed: 0 -> 1"),
        (["data.order_seed=1"], {}, "data.order_seed: None -> 1"),
        (["data.buckets=1"], {}, "data.buckets: 30 -> 1"),
        (["validation.every_n_steps=7"], {}, "validation.every_n_steps: 1000 -> 7"),
        (["logging.every_n_steps=7"], {}, "logging.every_n_steps: 50 -> 7"),
        (["trainer.precision=bf16-mixed"], {}, "trainer.precision: None -> bf16-mixed"),
        (["data.noises.wham=[/b/cv.jsonl.gz]"], {}, "data.noises.wham: ['tr.jsonl.gz'] -> ['cv.jsonl.gz']"),
        (["name=s5"], {}, "name: s4 -> s5"),
        ([], {"ckpt_path": "/b/last.ckpt", "global_step": 7}, "at step: 0 -> 7; resumed: False -> True"),
        ([], {"datamodule": SimpleNamespace(speech={"ids": "ac"})}, "speech.ids: ab -> ac"),
    ],
)
def test_nothing_else(monkeypatch, words, changes, said):
    with pytest.raises(Disagreement) as refused:
        compare(monkeypatch, (load("s4"), trainer()), (load("s4", words), trainer(**changes)))
    assert f"process 1 would train something else than the first one ({said}): " in str(refused.value)
    assert refused.value.joint


def test_one_process_has_nobody_to_agree_with(monkeypatch):
    monkeypatch.setattr(agreement.distributed, "all_gather_object", None)
    begin(load("s4"), trainer(world_size=1))
