"""The stand-in for the class that s3prl takes from catalyst."""

import sys

import pytest
import torch
from torch.utils.data import WeightedRandomSampler

from distill.upstream._catalyst import DistributedSamplerWrapper, supply


def draws() -> WeightedRandomSampler:
    weights = [1.0, 0.0, 5.0, 2.0, 1.0]  # the second is never drawn
    return WeightedRandomSampler(weights, 11, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("shuffle", [True, False])
def test_processes_share_what_the_sampler_draws(shuffle):
    whole = list(draws())
    shares = [list(DistributedSamplerWrapper(draws(), 2, rank, shuffle=shuffle)) for rank in (0, 1)]
    assert len(shares[0]) == len(shares[1]) == 6  # one is repeated, so that both have as many
    together = sorted(shares[0] + shares[1])
    for number in sorted(whole):
        together.remove(number)
    assert len(together) == 1 and 1 not in whole
    if not shuffle:
        assert shares[0] == whole[0::2] and shares[1][:5] == whole[1::2]


def test_every_epoch_is_drawn_anew():
    sampler = DistributedSamplerWrapper(draws(), 1, 0, shuffle=False)
    assert list(sampler) != list(sampler)


def test_it_is_imported_by_catalysts_name(monkeypatch):
    for name in ("catalyst", "catalyst.data", "catalyst.data.sampler"):
        monkeypatch.setitem(sys.modules, name, None)
    supply()
    from catalyst.data.sampler import DistributedSamplerWrapper as found  # pyright: ignore

    assert found is DistributedSamplerWrapper
