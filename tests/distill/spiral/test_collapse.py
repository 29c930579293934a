"""Cosines of pairs against loops that spell them out."""

import pytest
import torch
import torch.nn.functional as F

from distill.spiral.collapse import collapse_stats


def spelled_out(targets: torch.Tensor, lengths: list[int]) -> dict[str, float]:
    pairs: dict[str, list[float]] = {"within_utterance": [], "same_position": [], "other_positions": []}
    frames = [(b, f) for b, n in enumerate(lengths) for f in range(n)]
    for b, f in frames:
        for c, g in frames:
            if (b, f) != (c, g):
                name = "within_utterance" if b == c else "same_position" if f == g else "other_positions"
                pairs[name].append(float(F.cosine_similarity(targets[b, f], targets[c, g], dim=0)))
    return {name: sum(values) / len(values) for name, values in pairs.items() if values}


@pytest.mark.parametrize("lengths", [[7, 4, 1], [5], [1], [1, 1], [2, 2]])
def test_spelled_out(lengths):
    generator = torch.Generator().manual_seed(0)
    targets = torch.randn(len(lengths), 7, 5, generator=generator) + torch.arange(7)[None, :, None] / 3
    for row, n in enumerate(lengths):
        targets[row, n:] = torch.nan
    found = collapse_stats(targets, torch.tensor(lengths))
    expected = spelled_out(targets, lengths)
    assert {name: float(value) for name, value in found.items()} == pytest.approx(expected, abs=2e-6)


def test_collapse_of_each_kind_is_seen():
    lengths, generator = torch.tensor([20] * 6), torch.Generator().manual_seed(0)
    constant = torch.randn(1, 1, 64, generator=generator).expand(6, 20, 64)
    assert all(float(x) == pytest.approx(1) for x in collapse_stats(constant, lengths).values())
    positions = torch.randn(1, 20, 64, generator=generator).expand(6, 20, 64)
    found = collapse_stats(positions.bfloat16(), lengths)
    assert float(found["same_position"]) == pytest.approx(1, abs=1e-3)
    assert abs(float(found["other_positions"])) < 0.05 and abs(float(found["within_utterance"])) < 0.05
