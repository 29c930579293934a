"""The heads: the same numbers as s3prl's with the same weights, and no trace of padding."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.downstream.heads import CharacterHead, PhoneHead, UtteranceHead, ctc_loss, spec_augment

FRAMES = torch.tensor([30, 17, 25, 8])


@pytest.fixture
def features() -> torch.Tensor:
    x = torch.randn(4, 30, 24, generator=torch.Generator().manual_seed(0))
    return x * (torch.arange(30) < FRAMES[:, None])[:, :, None]


@pytest.fixture(params=["utterance", "characters", "phones"])
def head(request) -> torch.nn.Module:
    torch.manual_seed(1)
    return {
        "utterance": lambda: UtteranceHead(24, (3, 4), 16),
        "characters": lambda: CharacterHead(24, 9, 16),
        "phones": lambda: PhoneHead(24, 9, 16),
    }[request.param]().eval()


def test_padding_changes_nothing(head, features):
    batch = head(features, FRAMES)
    noisy = torch.where((torch.arange(30) < FRAMES[:, None])[:, :, None], features, 100.0)
    for row, count in enumerate(FRAMES.tolist()):
        alone = head(features[row : row + 1, :count], FRAMES[row : row + 1])[0]
        expected = batch[row] if alone.dim() == 1 else batch[row, :count]
        torch.testing.assert_close(alone, expected, atol=1e-5, rtol=1e-4)
        filled = head(noisy, FRAMES)[row]
        torch.testing.assert_close(filled if alone.dim() == 1 else filled[:count], expected)


def test_sizes_are_superbs():
    def count(module):
        return sum(parameter.numel() for parameter in module.parameters())

    assert count(UtteranceHead(768, (12,))) == 768 * 256 + 256 + 256 * 12 + 12
    lstm = 2 * 4 * 1024 * (1024 + 1024 + 2)
    second = 2 * 4 * 1024 * (2048 + 1024 + 2)
    assert count(CharacterHead(768, 29)) == 769 * 1024 + lstm + second + 2049 * 29
    assert count(PhoneHead(768, 72)) == 769 * 256 + 257 * 72


@pytest.fixture(scope="module")
def s3prl():
    """s3prl's head modules; read from their files, which need none of its other packages."""
    pytest.importorskip("s3prl")
    spec = importlib.util.find_spec("s3prl")
    assert spec is not None and spec.submodule_search_locations
    folder = Path(spec.submodule_search_locations[0]) / "downstream"

    def load(name: str):
        path = folder / f"{name}.py"
        spec = importlib.util.spec_from_file_location(f"theirs_{path.parent.name}_{path.stem}", path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
        return module

    return load


def exactly(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-6)


def test_utterance_head_is_s3prls(s3prl, features):
    """SUPERB's KS, IC and ER: a projector, `UtteranceLevel` with mean pooling, cross-entropy of each slot."""
    torch.manual_seed(2)
    ours = UtteranceHead(24, (3, 4, 2), 16)
    theirs = s3prl("model").UtteranceLevel(16, 9, pooling="MeanPooling")
    theirs.post_net.linear.load_state_dict(ours.linear.state_dict())
    logits, _ = theirs(ours.projector(features), FRAMES)
    exactly(ours(features, FRAMES), logits)
    targets = torch.tensor([[0, 3, 1], [2, 0, 0], [1, 1, 1], [0, 2, 0]])
    objective, loss, predicted = torch.nn.CrossEntropyLoss(), torch.zeros(()), []
    for slot, (start, end) in enumerate(((0, 3), (3, 7), (7, 9))):
        loss = loss + objective(logits[:, start:end], targets[:, slot])
        predicted.append(logits[:, start:end].max(1)[1])
    exactly(ours.loss(ours(features, FRAMES), targets), loss)
    assert torch.equal(ours.predict(ours(features, FRAMES)), torch.stack(predicted, 1))


@pytest.mark.parametrize("training", [False, True])
def test_character_head_is_s3prls(s3prl, features, training):
    """SUPERB's ASR: a projector and `RNNs` with two bidirectional LSTMs, dropout 0.2, CTC."""
    torch.manual_seed(3)
    ours = CharacterHead(24, 9, 16).train(training)
    theirs = s3prl("asr/model").RNNs(
        16,
        9,
        320,
        module="LSTM",
        bidirection=True,
        dim=[16, 16],
        dropout=[0.2, 0.2],
        layer_norm=[False, False],
        proj=[False, False],
        sample_rate=[1, 1],
        sample_style="concat",
    )
    theirs.train(training)
    for rnn, lstm in zip(theirs.rnns, ours.lstms, strict=True):
        rnn.layer.load_state_dict(lstm.state_dict())
    theirs.linear.load_state_dict(ours.linear.state_dict())
    torch.manual_seed(4)
    logits, lengths = theirs(ours.projector(features), FRAMES)
    torch.manual_seed(4)
    found = ours(features, FRAMES)
    exactly(found, logits.log_softmax(-1))
    targets, counts = torch.randint(1, 9, (4, 6)), torch.tensor([6, 2, 4, 3])
    objective = torch.nn.CTCLoss(blank=0, zero_infinity=True)
    expected = objective(logits.log_softmax(-1).transpose(0, 1), targets, lengths, counts)
    exactly(ctc_loss(found, FRAMES, targets, counts), expected)


def test_phone_head_is_s3prls(s3prl, features):
    """SUPERB's PR: a projector and `FrameLevel`, CTC."""
    torch.manual_seed(5)
    ours = PhoneHead(24, 9, 16)
    theirs = s3prl("model").FrameLevel(16, 9)
    theirs.linear.load_state_dict(ours.linear.state_dict())
    logits, _ = theirs(ours.projector(features), FRAMES)
    exactly(ours(features, FRAMES), logits.log_softmax(-1))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 200), min_size=1, max_size=4), st.integers(0, 2**31))
def test_spec_augment_hides_stretches(lengths, seed):
    frames = torch.tensor(lengths)
    x = 1.0 + torch.rand(len(lengths), max(lengths), 80, generator=torch.Generator().manual_seed(seed))
    before = x.clone()
    one, two = (spec_augment(x, frames, torch.Generator().manual_seed(seed)) for _ in range(2))
    assert torch.equal(one, two) and torch.equal(x, before)
    assert one.shape == x.shape and one.isfinite().all()
    for row, length in zip(range(len(lengths)), lengths, strict=True):
        hidden = one[row, :length] == 0
        rows, columns = hidden.all(1), hidden.all(0)
        assert int(rows.sum()) <= 2 * 39
        assert int(columns.sum()) <= 4 * 49 or length <= 2 * 39
        if not rows.all():  # what is not in a stretch stays, up to the warping's overshoot
            left = one[row, :length][~rows][:, ~columns]
            assert left.numel() == 0 or (left.min() > 0.5 and left.max() < 2.5)
        assert torch.equal(one[row, length:], x[row, length:])


def test_spec_augment_hides_as_much_as_it_should():
    """Expected share of frames: 2 stretches of 19.5 of 300, of features: 4 of 24.5 of 768, overlaps apart."""
    x, generator = torch.ones(200, 300, 768), torch.Generator().manual_seed(0)
    augmented = spec_augment(x, torch.full((200,), 300), generator)
    time = (augmented == 0).all(2).float().mean().item()
    columns = (augmented == 0).all(1).float().mean().item()
    assert time == pytest.approx(2 * 19.5 / 300, rel=0.15)
    assert columns == pytest.approx(4 * 24.5 / 768, rel=0.15)


def test_warping_moves_time_a_little():
    ramp = torch.arange(200.0)[None, :, None].expand(1, 200, 2).contiguous() + 1000
    generator = torch.Generator().manual_seed(3)
    from distill.downstream.heads import _warp

    shifts = [float((_warp(ramp[0], generator)[:, 0] - ramp[0, :, 0]).abs().max()) for _ in range(50)]
    assert min(shifts) >= 0.0 and 3.0 < max(shifts) < 8.0 and np.mean(shifts) > 1.0
