"""The data of a recipe: speech for every process, and a position that is kept for the same speech only."""

from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

from distill.config import load
from distill.data.audio import read_audio
from distill.data.datamodule import SpeechData
from distill.data.sampler import EpochSampler
from distill.distortions import Distorter
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


def views(data: SpeechData, *, epochs: int = 1, rank: int = 0, of: int = 1) -> dict:
    """(epoch, batch) -> its student's plan."""
    data.trainer = SimpleNamespace(global_rank=rank, world_size=of)
    loader = data.train_dataloader()
    return {b.position: b.views["student"].plan for _ in range(epochs) for b in loader}


CURRICULUM = (
    *("distortion.snr_db=[0,20]", "distortion.curriculum=0.5", "distortion.additive=[musan,wham]"),
    *("optim.max_steps=20", "data.workers=0", "data.batch_size=4"),
)


def test_a_curriculum_follows_the_number_of_the_update(mini_data):
    """Of 20 updates the first ten lower the lowest SNR from 20 dB to 0."""
    data = data_of(mini_data, *CURRICULUM, streams=["student"])
    n_batches = -(-len(data.train_cuts) // 4)
    epochs = -(-20 // n_batches) + 1
    full = views(
        data_of(mini_data, *CURRICULUM, "distortion.curriculum=null", streams=["student"]), epochs=epochs
    )
    found = views(data, epochs=epochs)
    assert len(found) == epochs * n_batches > 20
    for (epoch, index), plan in found.items():
        lowest = 20 - 20 * min(1, (epoch * n_batches + index) / 20 / 0.5)
        for p, before in zip(plan, full[epoch, index], strict=True):
            assert p.snr_db == pytest.approx(lowest + (20 - lowest) * before.snr_db / 20, abs=1e-9)
    assert all(p.snr_db == 20 for p in found[0, 0])
    (dev,) = list(data.val_dataloader())[:1]
    other = data_of(mini_data, *CURRICULUM, "distortion.curriculum=null", streams=["student"])
    other.trainer = data.trainer
    assert dev.views["student"].plan == next(iter(other.val_dataloader())).views["student"].plan


def test_a_curriculum_is_the_same_whatever_the_workers_ranks_and_where_a_run_is_resumed(mini_data):
    alone = views(data_of(mini_data, *CURRICULUM, streams=["student"]), epochs=3)
    workers = data_of(mini_data, *CURRICULUM, "data.workers=2", streams=["student"])
    assert views(workers, epochs=3) == alone
    for rank in (0, 1):
        part = views(data_of(mini_data, *CURRICULUM, streams=["student"]), epochs=3, rank=rank, of=2)
        assert part.keys() == alone.keys()
        for position, plan in part.items():
            assert set(plan) <= set(alone[position])
    resumed = data_of(mini_data, *CURRICULUM, streams=["student"])
    resumed.load_state_dict(resumed.state_dict() | {"epoch": 1, "batches": 2})
    rest = {position: plan for position, plan in alone.items() if position >= (1, 2)}
    assert views(resumed, epochs=2) == rest


def test_a_curriculum_counts_batches_of_seconds(mini_data):
    more = ["data.batch_seconds=12", "data.buckets=2"]
    data = data_of(mini_data, *CURRICULUM, *more, streams=["student"])
    found = views(data, epochs=2)
    n_batches = len(found) // 2
    lowest = {e * n_batches + i: min(p.snr_db for p in plan) for (e, i), plan in found.items()}
    assert set(lowest) == set(range(2 * n_batches))
    assert all(low >= 20 - 20 * min(1, update / 10) for update, low in lowest.items())


def test_other_speech_comes_from_the_split_itself_unless_another_source_is_given(mini_data):
    speech = ["distortion.additive=[speech]"]
    data = data_of(mini_data, *speech, streams=["student"])
    assert data.noises["train"].corpora == {"speech": data.train_cuts}
    assert data.noises["dev"].corpora == {"speech": data.dev_cuts}
    other = f"data.noises={{speech: [{mini_data}/speech_test.jsonl.gz]}}"
    data = data_of(mini_data, *speech, other, streams=["student"])
    assert {cut.id.split("-")[0] for cut in data.noises["train"].corpora["speech"]} == {"speech_test"}
    assert data.noises["dev"].corpora == {"speech": data.dev_cuts}
    data.recipe.data.dev_noises = {}  # then as in training
    assert len(data._open_noises("dev", ["speech"]).corpora["speech"]) == 4


def test_other_speech_is_added_at_the_plans_snr_and_never_the_utterance_itself(mini_data):
    recipe = ["distortion.additive=[speech]", "distortion.non_additive=[none]", "data.max_samples=16000"]
    data = data_of(mini_data, *recipe, streams=["student"])
    own = {cut.id: read_audio(cut) for cut in data.train_cuts}
    batch = data._dataset("train")[0, 0, list(range(len(data.train_cuts)))]
    view = batch.views["student"]
    heard, labels = view.distort(Distorter(data.recipe.distortion), batch.waveforms, batch.lengths)
    for row, (name, plan, n) in enumerate(zip(batch.ids, view.plan, batch.lengths.tolist(), strict=True)):
        clip = view.noises[row]
        assert clip is not None and not any((own[name].unfold(0, len(clip), 1) == clip).all(1).tolist())
        speech, noise = batch.waveforms[row, :n].double(), (heard - batch.waveforms)[row, :n].double()
        snr = 10 * np.log10(float(speech.square().sum() / noise.square().sum()))
        assert snr == pytest.approx(plan.snr_db, abs=0.1)
    assert not labels.any()
