"""The data of a recipe: speech for every process, and a position that is kept for the same speech only."""

from types import SimpleNamespace

import pytest

from distill.config import load
from distill.data.datamodule import SpeechData
from distill.errors import ConfigError, DataError


def data_of(root, *overrides: str, streams=(), **options) -> SpeechData:
    return SpeechData(load("mini", [f"data.root={root}", *overrides]), streams=streams, **options)


@pytest.mark.parametrize("key", ["train", "dev"])
def test_fewer_utterances_than_processes_are_said_before_the_first_step(mini_data, key):
    data = data_of(mini_data)
    few = len(data.train_cuts if key == "train" else data.dev_cuts)
    setattr(data, f"{'dev' if key == 'train' else 'train'}_cuts", range(few + 1))
    data.trainer = SimpleNamespace(global_rank=0, world_size=few + 1)
    with pytest.raises(DataError, match=rf"data.{key} has {few} utterances for {few + 1} processes: use few"):
        data.setup("fit")
    data.trainer.world_size = few
    data.setup("fit")


def test_a_position_is_kept_for_the_same_speech_only(mini_data):
    state = data_of(mini_data).state_dict() | {"epoch": 2, "batches": 5}
    resumed = data_of(mini_data)
    resumed.load_state_dict(state)
    assert resumed.consumed == {"epoch": 2, "batches": 5}
    other = [mini_data, f"data.train=[{mini_data}/speech_test.jsonl.gz]"]
    with pytest.raises(DataError, match="data.train has changed since the checkpoint was written"):
        data_of(*other).load_state_dict(state)
    overridden = data_of(*other, other_speech=True)
    overridden.load_state_dict(state)
    assert overridden.consumed == {"epoch": 2, "batches": 5}


def test_only_the_noise_that_is_drawn_is_opened(mini_data):
    gone = "data.noises={musan: [/none]}"
    assert not data_of(mini_data, gone).noises["train"].corpora
    with pytest.raises(DataError, match="^musan noise: /none does not exist"):
        data_of(mini_data, gone, "distortion.additive=[musan]", streams=["student"])
    with pytest.raises(ConfigError, match="draws recorded rooms, but data.noises.rir is not set"):
        data_of(mini_data, "distortion.rir=true", streams=["student"])
