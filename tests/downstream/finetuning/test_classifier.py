"""The classifier and its loss, against the reference implementation's numbers."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from distill.downstream.finetuning.classifier import (
    Classifier,
    ClassifierShape,
    ctc_losses,
    frames_needed,
)
from tests.paths import GOLDEN

EXPECTED = torch.load(GOLDEN / "spiral" / "classifier.pt", weights_only=True)


def near(a, b, tolerance=2e-5):
    assert a.shape == b.shape
    assert (a - b).abs().max() <= tolerance * b.abs().max()


def of_the_reference(case: dict) -> Classifier:
    """A classifier with the weights that a case has under the reference's names."""
    state = case["state"]
    upsampled = "proj_upsampling.norm.weight" in state
    width = state["decoder_layers.0.weight"].shape[1]
    shape = ClassifierShape(
        dim=case["encoder_out"].shape[1],
        outputs=case["outputs"],
        upsampling=4 if upsampled else 1,
        upsampling_width=width,
        convolutions=sum("conv.weight" in name for name in state) - upsampled,
        width=width,
        layer_norm="conv_layers.0.norm.weight" in state,
    )
    names = {
        "proj_upsampling.proj.conv.conv": "upsampling.conv",
        "proj_upsampling.norm": "upsampling.norm",
        "decoder_layers.0": "output",
        "conv_layers": "convolutions",
        ".conv.conv": ".conv",
    }
    ours = {}
    for name, value in state.items():
        for theirs, our in names.items():
            name = name.replace(theirs, our)
        ours[name] = value.squeeze(2) if name == "output.weight" else value
    classifier = Classifier(shape)
    classifier.load_state_dict(ours)
    return classifier.eval()


@pytest.mark.parametrize("name", EXPECTED)
def test_meets_the_reference(name):
    case = EXPECTED[name]
    features = case["encoder_out"].clone().requires_grad_()
    log_probs, frames = of_the_reference(case)(features.transpose(1, 2), case["lengths"])
    assert frames.tolist() == case["out_lengths"].tolist()
    for row, n_frames in enumerate(frames.tolist()):
        near(log_probs[row, :n_frames], case["log_probs"][row, :n_frames])
    losses = ctc_losses(log_probs, frames, case["targets"], case["target_lengths"], blank=case["blank"])
    near(losses, case["loss_per_utterance"])
    near(losses.mean(), case["loss"])
    losses.mean().backward()
    near(features.grad, case["grad_encoder_out"], 1e-3)


@pytest.mark.parametrize("name", ["subword", "characters"])
def test_padding_does_not_matter(name):
    case = EXPECTED[name]
    classifier = of_the_reference(case)
    together, frames = classifier(case["encoder_out"].transpose(1, 2), case["lengths"])
    for row, n_frames in enumerate(case["lengths"].tolist()):
        alone, own = classifier(
            case["encoder_out"][row : row + 1, :, :n_frames].transpose(1, 2), torch.tensor([n_frames])
        )
        assert int(own) == int(frames[row])
        near(together[row, : int(own)], alone[0])


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ({"dim": 768, "outputs": 1024}, 3_803_136),
        ({"dim": 1024, "outputs": 1024}, 4_458_496),
        ({"dim": 768, "outputs": 29, "upsampling": 4, "convolutions": 3}, 11_815_965),
        (
            {"dim": 1024, "outputs": 29, "upsampling": 4, "convolutions": 3, "layer_norm": True},
            14_438_941,
        ),
    ],
)
def test_full_size(options, count):
    """Parameters of the reference's classifiers."""
    with torch.device("meta"):
        classifier = Classifier(ClassifierShape(**options))
    assert sum(p.numel() for p in classifier.parameters()) == count


def test_the_papers_upsampling_is_a_convolution_alone():
    shape = ClassifierShape(
        dim=8, outputs=5, upsampling=4, upsampling_width=None, upsampling_norm=False, layer_norm=True, width=6
    )
    classifier = Classifier(shape).eval()
    assert classifier.upsampling is not None
    x = torch.randn(1, 3, 8)
    y = classifier.upsampling(x, torch.ones(1, 3, dtype=torch.bool))
    conv = classifier.upsampling.conv
    expected = F.conv1d(x.transpose(1, 2), conv.weight, conv.bias, padding=2)[0]  # (4 D, F)
    assert torch.allclose(y[0], torch.cat([expected[:, frame].view(4, 8) for frame in range(3)]))


def enumerated_ctc(log_probs, target):
    """-log of the summed probability of all paths that spell the target: a sum over V ** F of them."""
    n_frames, outputs = log_probs.shape
    total = torch.tensor(float("-inf"))
    for path in itertools.product(range(outputs), repeat=n_frames):
        merged = [symbol for symbol, _ in itertools.groupby(path) if symbol != 0]
        if merged == target:
            total = torch.logaddexp(total, sum(log_probs[f, s] for f, s in enumerate(path)))
    return -total


@pytest.mark.parametrize("target", [[1], [1, 2], [2, 2], [1, 2, 1]])
def test_ctc_is_a_sum_over_all_alignments(target):
    log_probs = torch.randn(2, 4, 3).log_softmax(2)
    padded = torch.tensor([target, target])
    losses = ctc_losses(log_probs, torch.tensor([4, 3]), padded, torch.tensor([len(target)] * 2))
    assert losses[0] == pytest.approx(float(enumerated_ctc(log_probs[0], target)), abs=1e-5)
    assert losses[1] == pytest.approx(float(enumerated_ctc(log_probs[1, :3], target)), abs=1e-5)


@pytest.mark.parametrize(("target", "needed"), [([], 0), ([3], 1), ([3, 3], 3), ([1, 1, 1, 2], 6)])
def test_frames_needed(target, needed):
    assert frames_needed(target) == needed
    if target:
        log_probs = torch.randn(1, needed, 5).log_softmax(2)
        lengths = torch.tensor([len(target)])
        enough = ctc_losses(log_probs, torch.tensor([needed]), torch.tensor([target]), lengths)
        short = ctc_losses(log_probs, torch.tensor([needed - 1]), torch.tensor([target]), lengths)
        assert float(enough) > 0.0 and float(short) == 0.0


@pytest.mark.parametrize(
    ("options", "named"),
    [({"kernel": 4}, "kernel"), ({"dropout": 1.0}, "dropout"), ({"outputs": 0}, "outputs")],
)
def test_impossible_shapes(options, named):
    with pytest.raises(ValueError, match=named):
        ClassifierShape(**({"dim": 8, "outputs": 5} | options))
