"""The data of a recipe: speech for every process, and a position that is kept for the same speech only."""

from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

from distill.config import load
from distill.data.datamodule import SpeechData
from distill.data.sampler import EpochSampler
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


def test_short_utterances_are_left_out_in_one_line_and_a_position_holds_for_the_same_ones(mini_data, caplog):
    every = data_of(mini_data)
    lengths = every.train_cuts.durations(np.arange(len(every.train_cuts))) * 16_000
    least = int(np.median(lengths)) + 1
    some = data_of(mini_data, f"data.min_samples={least}")
    short = int((lengths.round() < least).sum())
    assert 0 < short == len(every.train_cuts) - len(some.train_cuts)
    said = f"data.train: {short} of {len(lengths)} utterances are shorter than {least / 16_000:g} s"
    assert [record.message for record in caplog.records] == [f"{said} (data.min_samples) and left out"]
    assert some.speech != every.speech and len(some.dev_cuts) == len(every.dev_cuts)
    with pytest.raises(DataError, match="data.train has changed"):
        some.load_state_dict(every.state_dict())
    with pytest.raises(
        DataError, match=r"data.train: all \d+ utterances are shorter .* \(data.min_samples\)"
    ):
        data_of(mini_data, "data.min_samples=100000000")
    sampler = EpochSampler(some.train_cuts, batch_size=4)
    seen = sorted(number for _, _, numbers in sampler for number in numbers)
    assert seen == list(range(len(some.train_cuts)))


def test_noise_that_is_too_short_to_be_strung_is_said_at_once(mini_data, tmp_path):
    soundfile.write(tmp_path / "click.wav", np.ones(8000), 16_000)
    options = [
        "distortion.additive=[musan,none]",
        "distortion.strung=true",
        f"data.noises={{musan: [{tmp_path}]}}",
    ]
    with pytest.raises(DataError, match="musan noise: no clip has 1 s"):
        data_of(mini_data, *options, streams=["student"])
    data_of(mini_data, *options)  # nothing is drawn


def test_the_mini_multi_condition_recipe_strings_the_clips_of_the_demo(mini_data):
    data = SpeechData(load("spiral_mini_mct", [f"data.root={mini_data}"]), streams=["student"])
    batch = data._dataset("train")[0, 0, list(range(12))]
    view = batch.views["student"]
    noisy = [row for row, plan in enumerate(view.plan) if plan.additive != "none"]
    assert 2 <= len(noisy) <= 10
    for row in noisy:
        noise = view.noises[row]
        assert noise is not None and len(noise) == batch.lengths[row]
        assert float(noise.square().mean()) == pytest.approx(1, rel=1e-3)


def test_order_crops_and_distortions_have_a_seed_of_their_own_if_wanted(mini_data):
    """By default it is the recipe's, as it always was."""

    def batches(*overrides: str):
        made = ["data.workers=0", "data.batch_size=5", "data.max_samples=8000", *overrides]
        data = data_of(mini_data, *made, streams=["student"])
        data.trainer = SimpleNamespace(global_rank=0, world_size=1)
        found = [
            (tuple(b.ids), b.waveforms.tolist(), b.views["student"].plan) for b in data.train_dataloader()
        ]
        return found, next(iter(data.val_dataloader())).views["student"].plan

    first, other = batches("seed=1"), batches("seed=2")
    assert batches("seed=1", "data.order_seed=2") == batches("seed=3", "data.order_seed=2") == other != first
    assert batches("seed=2", "data.order_seed=1") == first
