import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.objective.masking import span_mask


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def runs(row):
    """Lengths of the runs of true values."""
    edges = torch.diff(torch.cat([torch.zeros(1), row.float(), torch.zeros(1)]))
    return (torch.where(edges < 0)[0] - torch.where(edges > 0)[0]).tolist()


def test_share_of_masked_frames_is_that_of_random_overlapping_spans():
    frames, length = 500, 10
    mask = span_mask(torch.full((200,), frames), generator=generator())
    share = mask.float().mean().item()
    assert 0.55 < share < 0.65
    # A frame away from the edges is left visible if none of the 40 of 491 starts is among its own ten.
    starts, spans = frames - length + 1, 40
    visible = 1.0
    for drawn in range(spans):
        visible *= (starts - length - drawn) / (starts - drawn)
    middle = mask[:, length:-length].float().mean().item()
    assert middle == pytest.approx(1 - visible, abs=0.01)


def test_masked_runs_are_whole_spans_and_reach_both_ends():
    mask = span_mask(torch.full((300,), 60), probability=0.3, length=10, generator=generator())
    assert min(length for row in mask for length in runs(row)) >= 10
    assert mask[:, 0].any() and mask[:, -1].any()


def test_number_of_spans_is_rounded_at_random_to_the_exact_mean():
    # 0.45 * 10 / 1: four or five distinct frames
    mask = span_mask(torch.full((4000,), 10), probability=0.45, length=1, generator=generator())
    counts = mask.sum(1)
    assert set(counts.tolist()) == {4, 5}
    assert counts.float().mean().item() == pytest.approx(4.5, abs=0.05)


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 120), min_size=1, max_size=6),
    probability=st.floats(0.01, 1.0),
    length=st.integers(1, 30),
    seed=st.integers(0, 2**31),
)
def test_padding_is_never_masked_and_every_utterance_has_a_span(lengths, probability, length, seed):
    mask = span_mask(torch.tensor(lengths), probability=probability, length=length, generator=generator(seed))
    assert mask.shape == (len(lengths), max(lengths)) and mask.dtype == torch.bool
    for row, n_valid in zip(mask, lengths, strict=True):
        assert not row[n_valid:].any()
        assert row[:n_valid].any() == (n_valid > 0)


def test_short_utterances_keep_some_context():
    for frames in range(2, 20):
        mask = span_mask(torch.full((50,), frames), probability=0.08, length=10, generator=generator())
        assert not mask.all(dim=1).any()


def test_same_generator_state_same_mask():
    lengths = torch.tensor([200, 150])
    first = span_mask(lengths, generator=generator(3))
    assert torch.equal(first, span_mask(lengths, generator=generator(3)))
    assert not torch.equal(first, span_mask(lengths, generator=generator(4)))
    running = generator(3)
    span_mask(lengths, generator=running)
    assert not torch.equal(first, span_mask(lengths, generator=running))


def test_the_global_generator_is_left_alone():
    before = torch.get_rng_state()
    span_mask(torch.tensor([100]), generator=generator())
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("options", "name"),
    [({"probability": 0.0}, "probability"), ({"probability": 1.1}, "probability"), ({"length": 0}, "length")],
)
def test_wrong_options_are_refused_by_name(options, name):
    with pytest.raises(ValueError, match=name):
        span_mask(torch.tensor([100]), generator=generator(), **options)
    with pytest.raises(ValueError, match="lengths_in_frames"):
        span_mask(torch.ones(2, 2, dtype=torch.int64), generator=generator())
