"""What data workers hand over, and machines that have little room for it."""

import pickle
import resource
import subprocess
import sys
import time

import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset

from distill.batch import Batch, View
from distill.data import parcels
from distill.data.loading import batch_loader
from distill.data.parcels import Parcel, allow_open_files, send
from distill.distortions import Plan


class Noisy(Dataset):
    """Batches of many recordings of noise."""

    def __init__(self, noises: int = 60):
        self.noises = noises

    def __getitem__(self, number: int) -> Batch:
        draw = torch.Generator().manual_seed(number)
        noises: list[Tensor | None] = [torch.randn(50 + n, generator=draw) for n in range(self.noises)]
        view = View(Plan(()), [*noises, None], [None])
        targets = torch.arange(6).reshape(2, 3)
        waves = torch.randn(2, 500, generator=draw)
        return Batch(["a", "b"], waves, torch.tensor([500, 400]), {"student": view}, targets, (0, number))


def same(one: Batch, other: Batch) -> bool:
    def tensors(batch):
        view = batch.views["student"]
        return [batch.waveforms, batch.lengths, batch.targets, *view.noises, *view.rirs]

    pairs = list(zip(tensors(one), tensors(other), strict=True))
    return (one.ids, one.position) == (other.ids, other.position) and all(
        (a is None and b is None)
        or (a is not None and b is not None and a.dtype == b.dtype and torch.equal(a, b))
        for a, b in pairs
    )


@pytest.mark.parametrize("room", [True, False])
def test_a_parcel_opens_as_what_was_sent(monkeypatch, caplog, room):
    monkeypatch.setattr(parcels, "_said", set())
    if not room:
        monkeypatch.setattr(torch.UntypedStorage, "_new_shared", full)
    contents = {
        "odd": torch.arange(5, dtype=torch.int16)[::2],
        "empty": torch.zeros(0, 400),
        "truth": torch.tensor([True, False]),
        "number": torch.tensor(2.5, dtype=torch.float64),
        "wide": torch.ones(3, 1).expand(3, 4),
        "text": ["a", None, 3],
    }
    # (Shared memory itself can only be pickled for another process.)
    parcel = Parcel(contents)
    opened = parcels._open(parcel.form, parcel.layout, parcel.flat)
    if not room:
        opened = pickle.loads(pickle.dumps(parcel))
    assert opened.keys() == contents.keys() and opened["text"] == contents["text"]
    for name in contents.keys() - {"text"}:
        assert opened[name].dtype == contents[name].dtype and torch.equal(opened[name], contents[name])
    Parcel(contents)
    assert caplog.text.count("goes through a pipe") == (0 if room else 1)
    assert len(pickle.loads(pickle.dumps(Noisy()[3])).views["student"].noises) == 61  # as ever
    assert send(contents) is contents  # in the training process


def full(*_):
    raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space left on device")


@pytest.mark.parametrize("room", [True, False])
def test_batches_arrive_whole_with_and_without_shared_memory(monkeypatch, room):
    if not room:
        monkeypatch.setattr(torch.UntypedStorage, "_new_shared", full)  # the workers inherit it
    found = list(batch_loader(range(8), Noisy(), workers=2))
    assert all(same(batch, Noisy()[number]) for number, batch in enumerate(found)) and len(found) == 8


FEW_FILES = """
import time
from tests.distill.data.test_parcels import Noisy
from distill.data.loading import batch_loader
kept = [batch for batch in batch_loader(range(10), Noisy(200), workers=2)]
print(len(kept))
"""


def test_few_open_files_are_enough():
    """A batch needs one, however many recordings there are in it."""

    def few() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128))

    done = subprocess.run(
        [sys.executable, "-c", FEW_FILES],
        preexec_fn=few,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout == "10\n", done.stderr[-2000:]


def test_the_limit_of_open_files_is_raised(monkeypatch):
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(256, before[1]), before[1]))
        list(batch_loader(range(1), Noisy(), workers=1))
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        assert soft == hard or soft >= 65_536
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    allow_open_files()


def test_an_error_in_a_worker_is_one_of_the_training_process():
    class Broken(Dataset):
        def __getitem__(self, number):
            return {"unpicklable": lambda: None}

    started = time.monotonic()
    with pytest.raises((pickle.PicklingError, AttributeError)):
        list(batch_loader(range(2), Broken(), workers=1))
    assert time.monotonic() - started < 30
