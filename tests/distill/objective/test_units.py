"""Masks that belong to an utterance, labels of the nearest centre, and the cross-entropy written out."""

import math

import pytest
import torch

from distill.objective.units import Units, unit_logits
from distill.options import UnitsConfig

FRAMES, D, K, LENGTHS = 30, 5, 4, torch.tensor([30, 11, 1])
IDS = ["a", "b", "c"]


def units(seed: int = 0, **changes) -> Units:
    torch.manual_seed(0)
    codebook = torch.randn(K, 7)
    return Units(UnitsConfig(**{"dim": 6, **changes}), codebook, D, seed)


def test_a_mask_depends_on_seed_epoch_and_id_alone():
    made = units().mask(IDS, 3, LENGTHS, FRAMES)
    for row, name in enumerate(IDS):
        alone = units().mask([name], 3, LENGTHS[row : row + 1], 40)
        assert torch.equal(alone[0, :FRAMES], made[row]) and not alone[0, FRAMES:].any()
    turned = units().mask(IDS[::-1], 3, LENGTHS.flip(0), FRAMES)
    assert torch.equal(turned.flip(0), made)
    for other in (units(seed=1).mask(IDS, 3, LENGTHS, FRAMES), units().mask(IDS, 4, LENGTHS, FRAMES)):
        assert not torch.equal(other, made)


def test_masks_have_spans_and_spare_the_padding():
    names = [str(number) for number in range(50)]
    mask = units(probability=0.5, length=4).mask(names, 0, torch.full((50,), 80), 90)
    assert 0.3 < float(mask[:, :80].float().mean()) < 0.5 and not mask[:, 80:].any()
    assert mask.any(1).all()


def test_labels_are_the_nearest_centres():
    found, features = units(), torch.randn(2, 9, 7, generator=torch.Generator().manual_seed(1))
    assert torch.equal(found.labels(features), torch.cdist(features, found.codebook).argmin(2))


def test_the_loss_is_the_cross_entropy_of_masked_frames():
    module, generator = units(temperature=0.3), torch.Generator().manual_seed(1)
    z, features = (torch.randn(3, FRAMES, dim, generator=generator) for dim in (D, 7))
    mask = module.mask(IDS, 0, LENGTHS, FRAMES)
    total, right = 0.0, 0
    with torch.no_grad():
        for row, frame in mask.nonzero().tolist():
            label = int(torch.cdist(features[row, frame][None], module.codebook).argmin())
            h = module.projection(z[row, frame])
            cosines = [float(h @ e / h.norm() / e.norm()) / 0.3 for e in module.embeddings]
            total -= cosines[label] - math.log(sum(map(math.exp, cosines)))
            right += max(range(K), key=cosines.__getitem__) == label
    count = int(mask.sum())
    loss, accuracy = module(z, features, mask, LENGTHS, count)
    assert float(loss.detach()) == pytest.approx(total / count, rel=1e-5)
    assert float(accuracy) == pytest.approx(right / count)
    half, _ = module(z, features, mask, LENGTHS, 2.0 * count)
    assert float(half.detach()) == pytest.approx(total / count / 2, rel=1e-5)


def test_the_padding_changes_neither_loss_nor_gradient():
    def gradient(value: float):
        module, generator = units(), torch.Generator().manual_seed(1)
        z, features = (torch.randn(3, FRAMES, dim, generator=generator) for dim in (D, 7))
        for x in (z, features):
            x[1, 11:], x[2, 1:] = value, value
        z.requires_grad_()
        loss, _ = module(z, features, module.mask(IDS, 0, LENGTHS, FRAMES), LENGTHS, 10.0)
        loss.backward()
        return [loss.detach(), z.grad, *(p.grad for p in module.parameters() if p.grad is not None)]

    for found, expected in zip(gradient(float("nan")), gradient(0.0), strict=True):
        assert torch.equal(found, expected)


def test_logits_are_cosines():
    x, e = torch.tensor([[3.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 2.0], [-1.0, 0.0]])
    assert unit_logits(x, e, 0.5).tolist() == [[2.0, 0.0, -2.0]]
