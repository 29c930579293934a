"""The loss against the reference's numbers, and negatives against what they promise."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from distill.spiral.contrastive import contrasted_frames, contrastive_loss, draw_negatives
from tests.paths import GOLDEN

STORED = torch.load(GOLDEN / "spiral" / "contrastive.pt", weights_only=True)
COUNTS = torch.tensor(STORED["counts"])
VALID = torch.arange(int(COUNTS.max())) < COUNTS[:, None]


def padded(flat: torch.Tensor, value: float = 0.0) -> torch.Tensor:
    """(N, ...) valid frames of all utterances -> (B, F, ...)."""
    x = flat.new_full((*VALID.shape, *flat.shape[1:]), value)
    x[VALID] = flat
    return x


def arguments(case: dict, padding: float = 0.0) -> tuple[torch.Tensor, ...]:
    offsets = (COUNTS.cumsum(0) - COUNTS).repeat_interleave(COUNTS)
    negatives = padded(case["negatives"] - offsets[:, None])
    return padded(case["student"], padding), padded(case["teacher"], padding), COUNTS, negatives


@pytest.mark.parametrize("padding", [0.0, float("nan")])
@pytest.mark.parametrize("name", STORED["cases"])
def test_the_reference(name, padding):
    case = STORED["cases"][name]
    student, *others = arguments(case, padding)
    student.requires_grad_()
    loss = contrastive_loss(student, *others, temperature=case["temperature"])
    torch.testing.assert_close(loss.total, case["loss"], rtol=2e-6, atol=0)
    per_frame = padded(case["loss_per_frame"])
    torch.testing.assert_close(loss.per_utterance, per_frame.sum(1), rtol=5e-6, atol=0)
    assert int(loss.frames) == int(COUNTS.sum())
    assert float(loss.correct / loss.frames) == pytest.approx(case["accuracy"], abs=1e-6)
    (gradient,) = torch.autograd.grad(loss.total, student)
    largest = float(case["grad_student"].abs().max())
    torch.testing.assert_close(gradient[VALID], case["grad_student"], rtol=0, atol=2e-5 * largest)
    assert not gradient[~VALID].any()


@pytest.mark.parametrize("name", STORED["cases"])
def test_frame_by_frame_from_the_references_logits(name):
    """Each frame alone, as an utterance's only counted one: n_frames is the divisor."""
    case = STORED["cases"][name]
    expected = F.cross_entropy(case["logits"], torch.zeros(len(case["logits"]), dtype=torch.int64))
    loss = contrastive_loss(*arguments(case), temperature=case["temperature"], n_frames=1.0)
    assert float(loss.total) == pytest.approx(float(expected) * int(COUNTS.sum()), rel=5e-6)


def test_equal_frames_are_in_the_case_and_matter():
    case = STORED["cases"]["equal_frames"]
    assert case["logits"].isinf().any()
    student, teacher, counts, negatives = arguments(case)
    jittered = teacher + 1e-4 * torch.randn(teacher.shape, generator=torch.Generator().manual_seed(0))
    loss = contrastive_loss(student, jittered, counts, negatives, temperature=case["temperature"])
    assert float(loss.total) > float(case["loss"]) + 1e-3


def test_utterances_of_one_frame_are_left_out():
    student, teacher, counts, negatives = arguments(STORED["cases"]["plain"])
    student, teacher = (torch.cat([x, torch.ones_like(x[:1])]) for x in (student, teacher))
    counts = torch.cat([counts, torch.tensor([1])])
    negatives = torch.cat([negatives, torch.zeros_like(negatives[:1])])
    student.requires_grad_()
    loss = contrastive_loss(student, teacher, counts, negatives)
    torch.testing.assert_close(loss.total, STORED["cases"]["plain"]["loss"], rtol=2e-6, atol=0)
    assert int(loss.frames) == int(contrasted_frames(counts)) == int(COUNTS.sum())
    loss.total.backward()
    assert student.grad is not None and not student.grad[-1].any() and loss.per_utterance[-1] == 0
    alone = contrastive_loss(student[-1:], teacher[-1:], counts[-1:], negatives[-1:])
    assert float(alone.total.detach()) == 0 and int(alone.frames) == int(alone.correct) == 0
    alone.total.backward()  # to zeros


def test_what_is_equal_everywhere_is_neither_right_nor_a_number_out_of_range():
    """A teacher that says one thing: all negatives are gone, as in the reference."""
    student, teacher = torch.randn(1, 5, 4), torch.ones(1, 5, 4)
    negatives = draw_negatives(["a"], [5], 3, seed=0, epoch=0)
    loss = contrastive_loss(student, teacher, torch.tensor([5]), negatives)
    assert float(loss.total) == 0
    nearly = teacher + 1e-3 * torch.arange(5)[None, :, None]  # other lengths, the same direction
    loss = contrastive_loss(student * 0 + 1, nearly, torch.tensor([5]), negatives)
    assert float(loss.total) == pytest.approx(float(torch.tensor(4.0).log()), rel=1e-4)


def test_half_precision_is_compared_in_single():
    student, teacher, counts, negatives = arguments(STORED["cases"]["plain"])
    half = contrastive_loss(student.bfloat16(), teacher.bfloat16(), counts, negatives)
    with torch.autocast("cpu", torch.bfloat16):
        full = contrastive_loss(student.bfloat16().float(), teacher.bfloat16().float(), counts, negatives)
    assert half.total.dtype == torch.float32 and torch.equal(half.total, full.total)


def test_shapes_must_agree():
    student, teacher, counts, negatives = arguments(STORED["cases"]["plain"])
    for changed in ((student[:, 1:], teacher, negatives), (student, teacher, negatives[:, 1:])):
        with pytest.raises(ValueError, match=r"must both be \(B, F, P\)"):
            contrastive_loss(*changed[:2], counts, changed[2])


class Largest(TorchDispatchMode):
    """Remembers how many numbers the largest floating-point tensor has."""

    size = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        found = [out] if isinstance(out, torch.Tensor) else []
        self.size = max([self.size, *(x.numel() for x in found if x.is_floating_point())])
        return out


def test_memory():
    """No array is larger than all pairs of frames, or the predictions themselves."""
    b, f, p, k = 2, 60, 24, 50
    negatives = draw_negatives(["a", "b"], [f] * b, k, seed=0, epoch=0)
    with Largest() as largest:
        student = torch.randn(b, f, p).requires_grad_()
        contrastive_loss(student, torch.randn(b, f, p), torch.tensor([f] * b), negatives).total.backward()
    assert largest.size <= b * f * max(f, p, k)


def test_negatives_are_uniform_over_the_others_of_an_utterance():
    negatives = draw_negatives(["a", "b", "c"], [6, 2, 1], 12_000, seed=0, epoch=0)
    assert negatives.shape == (3, 6, 12_000) and negatives.dtype == torch.int64
    for frame in range(6):
        counts = torch.bincount(negatives[0, frame], minlength=6)
        assert counts[frame] == 0 and len(counts) == 6
        assert (counts[counts > 0] - 2400).abs().max() < 5 * 2400**0.5
    assert (negatives[1, 0] == 1).all() and (negatives[1, 1] == 0).all()
    assert not negatives[2].any()
    assert not torch.equal(negatives[0, 0], negatives[0, 1])


def test_negatives_depend_on_seed_epoch_and_utterance_alone():
    together = draw_negatives(["a", "b"], [9, 5], 7, seed=1, epoch=2)
    alone = draw_negatives(["b"], [5], 7, seed=1, epoch=2, width=9)
    assert torch.equal(alone[0], together[1])
    for other in ({"seed": 0, "epoch": 2}, {"seed": 1, "epoch": 0}):
        assert not torch.equal(draw_negatives(["a", "b"], [9, 5], 7, **other), together)
    with pytest.raises(ValueError, match="n_negatives must be at least 1"):
        draw_negatives(["a"], [9], 0, seed=0, epoch=0)
