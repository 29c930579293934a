"""Views that the data workers distort, and what travels to the device."""

from dataclasses import replace

import pytest
import torch

from distill.batch import Batch, View
from distill.distortions import Distorter, DistortionConfig

CONFIG = DistortionConfig(rir=True)
IDS = [f"u{n}" for n in range(12)]


def made(where: str) -> tuple[Batch, Distorter]:
    """A batch whose second noise and third room are silent."""
    distorter = Distorter.from_config(replace(CONFIG, where=where))
    draw = torch.Generator().manual_seed(0)
    lengths = torch.randint(2000, 4000, (12,), generator=draw)
    waves = torch.zeros(12, int(lengths.max()))
    for row, n in enumerate(lengths.tolist()):
        waves[row, :n] = 0.1 * torch.randn(n, generator=draw)
    plan = distorter.plan(IDS)
    noises = [torch.randn(1500, generator=draw) for _ in IDS]
    noises[next(row for row, p in enumerate(plan) if p.noise_corpus)].zero_()
    rooms = [torch.tensor([0.0, 1.0, 0.5, 0.0, 0.3]) for _ in IDS]
    rooms[2] = torch.zeros(3)
    view = View(plan, noises, rooms)
    if where == "workers":
        view = view.distorted_by(distorter, waves, lengths)
    return Batch(IDS, waves, lengths, {"student": view}), Distorter.from_config(replace(CONFIG, where=where))


def heard(batch: Batch, distorter: Distorter):
    return batch.views["student"].distort(distorter, batch.waveforms, batch.lengths)


def test_workers_distort_as_the_device_does():
    (here, device), (there, workers) = made("device"), made("workers")
    assert there.views["student"].noises == [None] * 12
    for a, b in zip(heard(here, device), heard(there, workers), strict=True):
        assert a.dtype == b.dtype and torch.equal(a, b)
    assert device.skipped_silent == workers.skipped_silent == 2


def test_micro_batches_get_their_part_of_what_workers_distorted():
    batch, distorter = made("workers")
    whole, labels = heard(batch, distorter)
    parts = [heard(part, distorter) for part in batch.split(3)]
    assert torch.equal(torch.cat([some for _, some in parts]), labels)
    for (waves, _), first in zip(parts, (0, 4, 8), strict=True):
        assert torch.equal(waves, whole[first : first + 4, : waves.shape[1]])
        assert waves.shape[1] == int(batch.lengths[first : first + 4].max())
    assert distorter.skipped_silent == 4  # two in the whole, the same two in its parts


@pytest.mark.parametrize("where", ["device", "workers"])
def test_what_the_device_needs_travels_and_rooms_stay(where):
    view = made(where)[0].to("meta").views["student"]
    if where == "workers":
        assert view.heard is not None and view.heard.waveforms.is_meta and view.heard.labels.is_meta
    else:
        assert view.noises[0].is_meta and view.rirs[0].device.type == "cpu"  # pyright: ignore


def test_unknown_places_are_refused():
    with pytest.raises(ValueError, match="where must be device or workers, got 'gpu'"):
        DistortionConfig(where="gpu")
