"""The distortion classifier and its loss (Eq. 3 and 4) against torch's own."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from distill.objective import DistortionClassifier, classification_loss

B, FRAMES, D = 3, 7, 5
LENGTHS = torch.tensor([7, 4, 1])


def features(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_the_classifier_pools_valid_frames():
    classifier = DistortionClassifier(D, 7)
    z = features(B, FRAMES, D, seed=2)
    alone = [classifier.linear(z[row, :length].mean(0)) for row, length in enumerate(LENGTHS.tolist())]
    for row, length in enumerate(LENGTHS.tolist()):
        z[row, length:] = float("nan")
    torch.testing.assert_close(classifier(z, LENGTHS), torch.stack(alone))


@pytest.mark.parametrize("frozen", [False, True])
def test_frozen_gradients_reach_z_and_nothing_else(frozen):
    classifier = DistortionClassifier(D, 7)
    z = features(B, FRAMES, D, seed=2).requires_grad_()
    logits = classifier(z, LENGTHS, frozen=frozen)
    logits.square().sum().backward()
    assert z.grad is not None and z.grad[0].any()
    assert not z.grad[1, 4:].any() and not z.grad[2, 1:].any()
    assert [p.grad is None for p in classifier.parameters()] == [frozen, frozen]
    torch.testing.assert_close(logits, classifier(z, LENGTHS, frozen=not frozen))


def test_classification_loss_is_binary_cross_entropy():
    logits, labels = features(B, 7, seed=3), (features(B, 7, seed=4) > 0).float()
    expected = F.binary_cross_entropy_with_logits(logits, labels)
    torch.testing.assert_close(classification_loss(logits, labels), expected)
    torch.testing.assert_close(nn.BCEWithLogitsLoss()(logits, labels), expected)
    torch.testing.assert_close(classification_loss(logits, labels, n_utterances=1.5), expected * B / 1.5)
