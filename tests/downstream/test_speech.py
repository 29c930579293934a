"""The speech of a task, refused as long as any of it is faulty."""

import pytest
import torch
from torch.utils.data import random_split

from distill.downstream.options import EvaluationConfig
from distill.downstream.speech import TaskSpeech


@pytest.mark.parametrize("seed", [0, 5])
def test_the_dev_split_of_s3prl_is_torchs_with_seed_0(quick, seed):
    """`torch.manual_seed(0); random_split(turns, [int(0.8 N), N - int(0.8 N)])`, whatever the run's seed."""
    speech = TaskSpeech(quick("er", protocol="s3prl", seed=seed))
    turns = [
        cut.id
        for session in ("session1", "session3", "session4", "session5")
        for cut in speech.split(session)
    ]
    n_train = int((1 - 0.2) * len(turns))
    torch.manual_seed(0)
    expected = [
        {turns[n] for n in part.indices} for part in random_split(turns, [n_train, len(turns) - n_train])
    ]
    assert [{cut.id for cut in part} for part in speech.training(2)] == expected


def test_the_dev_split_of_the_paper_depends_on_the_seed(quick):
    devs = [{cut.id for cut in TaskSpeech(quick("er", seed=seed)).training(2)[1]} for seed in (0, 1, 0)]
    assert devs[0] == devs[2] != devs[1]


def test_folds_of_emotion_recognition(task_data):
    """Each session is tested on once, by heads that have not heard it; the dev part follows the seed."""
    parts = {}
    for seed in (0, 1):
        config = EvaluationConfig(task="er", data=str(task_data), seed=seed)
        speech = TaskSpeech(config)
        for fold in range(1, 6):
            train, dev = speech.training(fold)
            test = speech.test("clean", fold)
            assert (len(train), len(dev), len(test)) == (32, 8, 10)
            names = [{cut.id for cut in part} for part in (train, dev, test)]
            assert len(set.union(*names)) == 50
            assert {name[:5] for name in names[2]} == {f"Ses{fold:02d}"}
            assert f"Ses{fold:02d}" not in {name[:5] for name in names[0] | names[1]}
            parts[seed, fold] = names[1]
    assert parts[0, 1] != parts[1, 1]
