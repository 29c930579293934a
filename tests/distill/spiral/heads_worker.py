"""One of two processes that share a batch; run by test_heads.py. Usage: heads_worker.py FOLDER RANK"""

import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from distill.spiral.contrastive import contrasted_frames, contrastive_loss, draw_negatives
from distill.spiral.heads import Predictor, Projection

LENGTHS = [11, 3, 7, 1, 9]
SHARES = ([0, 1], [2, 3, 4])


class Heads(nn.Module):
    """A projection and a predictor."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.projection, self.predictor = Projection(12, 8), Predictor(8)

    def forward(self, x: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        return self.predictor(self.projection(x, lengths), lengths)


def learn(heads: nn.Module, rows: Sequence[int], n_processes: int, steps: int = 3) -> dict[str, torch.Tensor]:
    """Some updates with a share of a batch; everything that is learnt, last gradients and the loss."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(5, 11, 12, generator=generator) + 2
    targets = torch.randn(5, 11, 8, generator=generator)
    lengths = torch.tensor(LENGTHS)
    negatives = draw_negatives([str(n) for n in range(5)], LENGTHS, 6, seed=0, epoch=0)
    optimizer = torch.optim.SGD(heads.parameters(), 0.1)
    rows = list(rows)
    loss = x.new_zeros(())
    for _ in range(steps):
        optimizer.zero_grad()
        loss = contrastive_loss(
            heads(x[rows], lengths[rows]),
            targets[rows],
            lengths[rows],
            negatives[rows],
            n_frames=contrasted_frames(lengths) / n_processes,
        ).total
        loss.backward()
        optimizer.step()
    state = {name.removeprefix("module."): value for name, value in heads.state_dict().items()}
    gradients = {
        f"gradient of {n.removeprefix('module.')}": p.grad
        for n, p in heads.named_parameters()
        if p.grad is not None
    }
    return {**state, **gradients, "loss": loss.detach()}


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder, rank = Path(sys.argv[1]), int(sys.argv[2])
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    # Buffers are the same everywhere by themselves: nothing may hide it if they are not.
    heads = DistributedDataParallel(Heads(), broadcast_buffers=False)
    torch.save(learn(heads, SHARES[rank], 2), folder / f"rank{rank}.pt")
    dist.destroy_process_group()
