"""What runs share: batches of a loader, the teacher, what is computed of a batch."""

import pytest
import torch

from distill.errors import DataError
from distill.hubert import HubertEncoder
from distill.training.relay import Relay
from distill.training.sharing import Group, SharedLoader, digest_of


def test_batches_and_errors_of_a_loader_are_the_same_for_all():
    """Each is read once, and forgotten when all have had it; a run that has ended is not waited for."""
    read = []

    class Loader:
        def __iter__(self):
            for item in ("a", "b"):
                read.append(item)
                yield item
            if len(read) > 2:
                raise DataError("broken")

    relay = Relay(2)
    loader = SharedLoader(Loader(), relay, start=(0, 0), training=True)
    assert [loader.take(run, 0) for run in (0, 1)] == ["a", "a"] and read == ["a"]
    assert [loader.take(run, 1) for run in (0, 0, 1, 1)][0::2] == ["b", "b"]  # and the end of the epoch
    assert [loader.take(0, number) for number in (0, 1)] == ["a", "b"] and len(loader._kept) == 2
    with pytest.raises(DataError):
        loader.take(0, 2)
    relay.leave(0)
    assert [loader.take(1, number) for number in (0, 1)] == ["a", "b"] and len(read) == 4
    with pytest.raises(DataError):
        loader.take(1, 2)
    assert not loader._kept
    loader.close()


def test_batches_of_a_dev_set_begin_anew_with_every_validation():
    relay = Relay(2)
    loader = SharedLoader(["a", "b", "c"], relay, start=(0, 0), training=False)
    assert [loader.take(run, number) for number in (0, 1) for run in (0, 1)] == ["a", "a", "b", "b"]
    assert not loader._kept  # and not all were wanted
    relay.batches |= {0: 4, 1: 5}
    assert loader.take(0, 0) == "a" and loader._kept == {}  # the other is further: it does not validate here
    relay.batches[0] = 5
    assert [loader.take(run, 0) for run in (1, 0)] == ["a", "a"]


def test_only_equal_teachers_have_the_same_digest():
    torch.manual_seed(0)
    teacher, other = (HubertEncoder.from_preset("mini") for _ in range(2))
    same = HubertEncoder.from_preset("mini")
    same.load_state_dict(teacher.state_dict())
    normalised = HubertEncoder.from_preset("mini", normalize_input=not teacher.config.normalize_input)
    normalised.load_state_dict(teacher.state_dict())
    digest = digest_of(teacher)
    assert digest == digest_of(same) and digest not in (digest_of(other), digest_of(normalised))


def test_what_is_computed_of_a_batch_is_forgotten_with_the_next():
    group, calls = Group(2, []), []
    for batch in ("a", "a", "b"):
        group.begin("train", (0, 0), [batch])
        made, new = group.once(("key",), lambda: calls.append(0) or len(calls))
        assert (made, new) == (1 if batch == "a" else 2, new)
    assert len(calls) == 2
