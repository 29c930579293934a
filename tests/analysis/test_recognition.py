"""CTC losses and errors in characters."""

import torch

from distill.analysis.recognition import character_errors, ctc_losses
from distill.downstream.heads import ctc_loss


def test_losses_are_those_that_a_head_is_trained_with():
    generator = torch.Generator().manual_seed(0)
    outputs = torch.randn(2, 9, 5, generator=generator).log_softmax(2)
    frames, targets = torch.tensor([9, 6]), [[1, 2, 2], [3]]
    losses = ctc_losses(outputs, frames, targets, blank=0)
    padded = torch.tensor([[1, 2, 2], [3, 0, 0]])
    together = ctc_loss(outputs, frames, padded, torch.tensor([3, 1]))
    assert losses.shape == (2,) and torch.allclose(losses.mean(), together)
    moved = torch.cat([outputs[:, :, 1:], outputs[:, :, :1]], dim=2)  # the blank at the end
    assert torch.allclose(ctc_losses(moved, frames, [[0, 1, 1], [2]], blank=4), losses)
    assert ctc_losses(outputs, torch.tensor([3, 6]), targets, blank=0)[0] == 0  # a frame too few


def test_spaces_are_characters():
    assert character_errors("AB CD", "ABCD") == (1.0, 5.0)
    assert character_errors("AB", "") == (2.0, 2.0)
