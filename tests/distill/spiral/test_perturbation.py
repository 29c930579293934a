"""Masks against those of the reference, shifts against a spelled-out version and an encoder's frames."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from distill.spiral.perturbation import (
    Masks,
    SpecAugment,
    channel_mask,
    draw_masks,
    draw_shifts,
    shift,
    time_mask,
    unshift,
)
from tests.paths import GOLDEN

CASES = torch.load(GOLDEN / "spiral" / "masks.pt", weights_only=True)
IDS = [f"speaker-{i}" for i in range(40)]


def spec_of(case: dict) -> SpecAugment:
    return SpecAugment(
        time_probability=case["probability"],
        time_length=case["length"],
        channel_probability=case["channel_probability"],
        channel_length=case["channel_length"],
    )


@pytest.mark.parametrize("name", CASES)
def test_the_references_random_numbers_give_the_references_masks(name):
    case, random = CASES[name], np.random.RandomState(CASES[name]["numpy_seed"])

    def choose(high: int, number: int) -> list[int]:
        return random.choice(high, number, replace=False).tolist()

    random.rand()
    for row, n in enumerate(case["lengths"].tolist()):
        mask = time_mask(spec_of(case), n, case["frames"], random.rand(), choose)
        assert np.array_equal(mask, case["time_mask"][row].numpy())
    u = random.rand()
    for row in range(len(case["lengths"])):
        mask = channel_mask(spec_of(case), case["channels"], u, choose)
        assert np.array_equal(mask, case["channel_mask"][row].numpy())


@pytest.mark.parametrize("name", CASES)
def test_given_starts_give_the_references_masks(name):
    case = CASES[name]
    for row, n in enumerate(case["lengths"].tolist()):
        starts = case["starts_time"][row]

        def choose(high: int, number: int, starts=starts) -> list[int]:
            assert number == len(starts) and max(starts) < high
            return starts

        mask = time_mask(spec_of(case), n, case["frames"], case["u_time"][row], choose)
        assert np.array_equal(mask, case["time_mask"][row].numpy())


def masks_of(
    ids: Sequence[str],
    frames: Sequence[int],
    *,
    spec: SpecAugment | None = None,
    channels: int = 128,
    **key: Any,
) -> Masks:
    options: dict[str, Any] = {"seed": 1, "epoch": 2, **key}
    return draw_masks(spec or SpecAugment(), ids, frames, channels, **options)


def test_a_draw_depends_on_seed_epoch_stream_and_utterance_alone():
    together = masks_of(IDS[:3], [300, 200, 100])
    for row, n in enumerate([300, 200, 100]):
        alone = masks_of([IDS[row]], [n], width=300)
        assert torch.equal(alone.time[0], together.time[row])
        assert torch.equal(alone.channels[0], together.channels[row])
    others: list[dict[str, Any]] = [{"seed": 0}, {"epoch": 3}, {"stream": "validation"}]
    for other in others:
        changed = masks_of(IDS[:3], [300, 200, 100], **other)
        assert (changed.time != together.time).any(1).all()
    same = masks_of([IDS[0], IDS[1]], [300, 300])
    assert not torch.equal(same.time[0], same.time[1])


def test_coverage_is_that_of_the_paper():
    """40 % of the frames and 34.5 % of the channels, as counted of the reference; never in the padding."""
    ids = [str(i) for i in range(300)]
    masks = masks_of(ids, [1000] * 299 + [400])
    assert masks.time[:299].float().mean() == pytest.approx(0.40, abs=0.01)
    assert masks.channels.float().mean() == pytest.approx(0.345, abs=0.015)
    assert masks.time[299, :400].any() and not masks.time[299, 400:].any()
    assert not masks.time[:, :1000][:299, -1].any()  # starts are below n - length: the last frame stays


@pytest.mark.parametrize("n", [0, 1, 2, 19, 20, 21, 23, 40])
def test_short_utterances(n):
    mask = masks_of(["a"], [n], width=50).time[0]
    assert not mask[n:].any() and mask[:n].any() == (n > 0)


def test_no_masks_on_request():
    masks = masks_of(IDS, [300] * 40, spec=SpecAugment(time_probability=0, channel_probability=0))
    assert not masks.time.any() and not masks.channels.any()


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="channel_length 20 must be below the 20 mel bins"):
        masks_of(["a"], [100], channels=20)
    with pytest.raises(ValueError, match="100 frames does not fit into 99"):
        masks_of(["a"], [100], width=99)
    with pytest.raises(ValueError, match="2 ids, but 1"):
        masks_of(["a", "b"], [100])
    with pytest.raises(ValueError, match="time_probability must be in"):
        SpecAugment(time_probability=1.5)
    with pytest.raises(ValueError, match="channel_length must be at least 1"):
        SpecAugment(channel_length=0)


def test_shifts_are_uniform_with_both_ends_and_independent():
    left, right = draw_shifts([str(i) for i in range(5000)], seed=0, epoch=0)
    for draws in (left, right):
        counts = torch.bincount(draws, minlength=17)
        assert len(counts) == 17 and (counts - 5000 / 17).abs().max() < 5 * math.sqrt(5000 / 17)
    assert torch.corrcoef(torch.stack([left, right]).double())[0, 1].abs() < 0.06
    again = draw_shifts(["7"], seed=0, epoch=0)
    assert (again[0][0], again[1][0]) == (left[7], right[7])
    assert not torch.equal(draw_shifts(IDS, seed=0, epoch=1)[0], draw_shifts(IDS, seed=0, epoch=0)[0])
    assert [x.tolist() for x in draw_shifts(["a", "b"], seed=0, epoch=0, most=0)] == [[0, 0], [0, 0]]


def test_shift_spelled_out():
    """Fill in front, the utterance, fill directly behind its own end, zeros."""
    features, fill = torch.randn(3, 21, 4, generator=torch.Generator().manual_seed(0)), torch.arange(4.0) + 1
    frames, left, right = torch.tensor([21, 13, 5]), torch.tensor([1, 0, 2]), torch.tensor([0, 2, 1])
    for row, n in enumerate(frames.tolist()):
        features[row, n:] = torch.nan
    shifted, lengths = shift(features, frames, left, right, fill)
    assert shifted.shape[1] % 8 == 0 and lengths.tolist() == [29, 29, 29]
    for row, n in enumerate(frames.tolist()):
        before, behind = fill.expand(8 * int(left[row]), 4), fill.expand(8 * int(right[row]), 4)
        expected = torch.cat([before, features[row, :n], behind])
        assert torch.equal(shifted[row, : len(expected)], expected)
        assert not shifted[row, len(expected) :].any()


def test_output_frames_stay_the_utterances_own():
    """Also of lengths that are no multiple of the unit: an output frame here is the mean of 8 mel frames."""
    frames, features = torch.tensor([40, 27, 3]), torch.randn(3, 40, 2)
    features = features.masked_fill(torch.arange(40)[None, :, None] >= frames[:, None, None], 0.0)
    left, right = torch.tensor([3, 16, 0]), torch.tensor([2, 0, 5])

    def encode(x: torch.Tensor) -> torch.Tensor:
        return F.avg_pool1d(x.transpose(1, 2), 8).transpose(1, 2)

    shifted, n = shift(features, frames, left, right, torch.zeros(2))
    lengths = -(-frames // 8)
    assert torch.equal(-(-n // 8), lengths + left + right)
    own = unshift(encode(shifted), left, lengths)
    torch.testing.assert_close(own, encode(features))
    assert torch.equal(unshift(encode(shifted), left, lengths, width=5), own)
    with pytest.raises(ValueError, match="cannot hold 99"):
        unshift(encode(shifted), left, lengths, width=99)


def test_a_shift_of_nothing():
    features, frames, nothing = (
        torch.randn(2, 16, 3),
        torch.tensor([16, 9]),
        torch.zeros(2, dtype=torch.int64),
    )
    features[1, 9:] = 0
    shifted, lengths = shift(features, frames, nothing, nothing, torch.ones(3))
    assert torch.equal(shifted, features) and torch.equal(lengths, frames)
