"""The dress rehearsal itself: every kind of wait and mixing is caught, and nothing else is."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.rehearsal import HiddenWait, MixedDevices, rehearsal

X = torch.zeros(3, 4, device="meta")
HOST = torch.zeros(3, 4)

WAITS = {
    "item": lambda: X.sum().item(),
    "float": lambda: float(X.sum()),
    "bool": lambda: bool(X.sum() > 0),
    "if": lambda: 1 if X.any() else 0,
    "int": lambda: int(X.sum()),
    "range": lambda: range(X.sum().long()),  # pyright: ignore
    "slice": lambda: X[: X.sum().long()],
    "zero-dimensional index": lambda: X[X.sum().long()],
    "tolist": lambda: X.tolist(),
    "numpy": lambda: X.numpy(),
    "asarray": lambda: np.asarray(X),
    "cpu": lambda: X.cpu(),
    "to cpu, not blocking": lambda: X.to("cpu", non_blocking=True),
    "copy_ to the host": lambda: HOST.clone().copy_(X),
    "f-string": lambda: f"{X.sum()}",
    "print": lambda: str(X),
    "nonzero": lambda: X.nonzero(),
    "where": lambda: torch.where(X > 0),
    "mask": lambda: X[X > 0],
    "mask of rows": lambda: X.clone()[X[:, 0] > 0],
    "assigned to a mask": lambda: X.clone().__setitem__(X > 0, X[0]),
    "masked_select": lambda: X.masked_select(X > 0),
    "unique": lambda: X.unique(),
    "equal": lambda: torch.equal(X, X),
    "allclose": lambda: torch.allclose(X, X),
    "repeat_interleave": lambda: torch.repeat_interleave(X[:, 0].long()),
    "tensor": lambda: torch.tensor([1.0], device="meta"),
    "as_tensor": lambda: torch.as_tensor(HOST, device="meta"),
    "asarray of a list": lambda: torch.asarray([1.0], device="meta"),
    "new_tensor": lambda: X.new_tensor([1.0]),
    "to": lambda: HOST.to("meta"),
    "to another": lambda: HOST.to(X),
    "copy_": lambda: X.clone().copy_(HOST),
    "list index": lambda: X[[0, 1]],
    "list index of columns": lambda: X[:, [0, 1]],
    "array index": lambda: X[np.array([0, 1])],
    "assigned to a list": lambda: X.clone().__setitem__([0, 1], 0),
    "tensor of the host as index": lambda: X[torch.tensor([0, 1])],
}

MIXINGS = {
    "add": lambda: X + HOST,
    "where": lambda: torch.where(HOST > 0, X, 0.0),
    "index_select": lambda: X.index_select(0, torch.tensor([0])),
    "host by number of the device": lambda: HOST * X.sum(),
    "stack": lambda: torch.stack([X.sum(), torch.tensor(1.0)]),
    "matmul": lambda: X @ HOST.T,
}

FREE = {
    "number of the host": lambda: X + torch.tensor(1.0),
    "not blocking": lambda: HOST.to("meta", non_blocking=True),
    "copy_, not blocking": lambda: X.clone().copy_(HOST, non_blocking=True),
    "filled mask": lambda: X.clone().__setitem__(X > 0, 0.0),
    "filled slice": lambda: X.clone().__setitem__((0, slice(2)), 0.0),
    "positions on the device": lambda: X[torch.arange(2, device="meta")],
    "repeat_interleave of known length": lambda: torch.repeat_interleave(X[:, 0].long(), output_size=3),
    "the host by itself": lambda: float(HOST[[0, 1]].sum().item()),
    "autocast": lambda: torch.autocast("meta", enabled=False).__enter__(),
}


@pytest.mark.parametrize("name", WAITS)
def test_waits_are_caught(name):
    with rehearsal(), pytest.raises(HiddenWait):
        WAITS[name]()


@pytest.mark.parametrize("name", MIXINGS)
def test_mixed_devices_are_caught(name):
    with rehearsal(), pytest.raises(MixedDevices, match="on the host beside"):
        MIXINGS[name]()


@pytest.mark.parametrize("name", FREE)
def test_what_costs_no_wait_passes(name):
    with rehearsal():
        FREE[name]()


def test_backward_is_rehearsed_too():
    class Reads(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):  # pyright: ignore
            return gradient * float(gradient.sum())

    x = X.clone().requires_grad_()
    with rehearsal(), pytest.raises(HiddenWait, match=r"__float__|_local_scalar_dense"):
        Reads.apply(x).sum().backward()


def test_launches_are_counted_and_views_and_the_host_are_not():
    with rehearsal() as seen:
        x = X.clone()  # 1
        x[:, 1:].T.unsqueeze(0).reshape(-1)  # 2: the copy
        x[0, 1:] = 0  # 3
        torch.empty(3, device="meta")
        (HOST + 1).sum()
        HOST.to("meta", non_blocking=True)
        x.add_(torch.zeros(4, device="meta"))  # 4, 5
    assert (seen.launches, seen.copies) == (5, 1)


def test_transforms_are_told_apart_by_length_and_plans_by_shape():
    with rehearsal() as seen:
        for rows in (1, 2):
            torch.fft.irfft(torch.fft.rfft(torch.zeros(rows, 12, device="meta"), 16), 16)
    assert seen.fft_sizes == {("_fft_r2c", (16,)), ("_fft_c2r", (16,))}
    assert seen.fft_plans == {
        ("_fft_r2c", (16,), (1, 16)),
        ("_fft_r2c", (16,), (2, 16)),
        ("_fft_c2r", (16,), (1, 9)),
        ("_fft_c2r", (16,), (2, 9)),
    }


def test_a_training_step_of_torch_runs_through():
    with torch.device("meta"):
        model = torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    optimizer = torch.optim.AdamW(model.parameters(), foreach=True)
    with rehearsal() as seen:
        F.mse_loss(model(torch.zeros(2, 5, 8, device="meta")), torch.zeros(2, 5, 8, device="meta")).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    assert seen.launches > 20 and seen.copies == 0
