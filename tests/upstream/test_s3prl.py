"""With s3prl itself: registration, `S3PRLUpstream`, `Featurizer`."""

import pytest
import torch

import distill.upstream
import distill.upstream.s3prl_compat
from distill.checkpoints import export, load_teacher
from distill.errors import CheckpointError
from distill.upstream.expert import UpstreamExpert
from tests.paths import ROOT

pytest.importorskip("s3prl", reason="s3prl is not installed: pip install 'robust-distilhubert[s3prl]'")
for package in ("tensorboardX", "catalyst", "pandas", "editdistance"):
    pytest.importorskip(package, reason="the extra s3prl is not complete")

LENGTHS = torch.tensor([16_000, 12_000, 640])


@pytest.fixture(scope="module")
def s3prl_nn():
    distill.upstream.register()
    distill.upstream.register()
    import s3prl.nn

    return s3prl.nn


@pytest.fixture
def model(s3prl_nn, student_folder):
    return s3prl_nn.S3PRLUpstream("robust_distilhubert_local", str(student_folder)).eval()


@pytest.fixture
def waveforms() -> torch.Tensor:
    x = torch.randn(3, 16_000, generator=torch.Generator().manual_seed(1))
    return x * (torch.arange(16_000) < LENGTHS[:, None])


def test_registration(s3prl_nn):
    from s3prl import hub

    ours = {f"robust_distilhubert_{kind}" for kind in ("local", "url", "custom")}
    assert ours <= set(s3prl_nn.S3PRLUpstream.available_names())
    assert not ours & set(s3prl_nn.S3PRLUpstream.available_names(only_registered_ckpt=True))
    assert ours <= set(dir(hub))
    with pytest.raises(CheckpointError, match="S3PRLUpstream"):
        s3prl_nn.S3PRLUpstream("robust_distilhubert_local")


def test_the_example_of_the_documentation(s3prl_nn, student_folder):
    code = (ROOT / "docs" / "upstream.md").read_text(encoding="utf-8").split("```python")[1].split("```")[0]
    scope: dict = {}
    exec(code.replace("runs/s4", str(student_folder)), scope)
    assert (tuple(scope["features"].shape), scope["frames"].tolist()) == ((2, 100, 128), [100, 75])


def test_shapes_and_lengths(model, waveforms):
    assert (model.num_layers, model.downsample_rates, model.hidden_sizes) == (3, [320] * 3, [128] * 3)
    layers, frames = model(waveforms, LENGTHS)
    assert [tuple(h.shape) for h in layers] == [(3, 50, 128)] * 3
    assert all(f.tolist() == [50, 38, 2] for f in frames)


def test_values_are_the_experts(model, waveforms, student_folder):
    """And those of each utterance alone, the frame that s3prl adds included."""
    expert = UpstreamExpert(student_folder)
    with torch.no_grad():
        layers, _ = model(waveforms, LENGTHS)
        direct = expert([w[:n] for w, n in zip(waveforms, LENGTHS, strict=True)])["hidden_states"]
        for ours, theirs in zip(direct, layers, strict=True):
            torch.testing.assert_close(theirs[:, :49], ours)
        for i in (0, 1):
            alone, frames = model(waveforms[i : i + 1, : LENGTHS[i]], LENGTHS[i : i + 1])
            for one, many in zip(alone, layers, strict=True):
                torch.testing.assert_close(one[0], many[i, : frames[0][0]], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("size", ["base", "large"])
@torch.no_grad()
def test_every_state_is_that_of_stock_s3prl(s3prl_nn, tmp_path, size):
    """Its expert of HuBERT with the same weights; the last state of large ones comes after the final norm."""
    from s3prl.upstream.hubert.expert import UpstreamExpert as Stock

    from distill.checkpoints import safe_pickle

    path = ROOT / "tests" / "golden" / f"hubert_{size}_fairseq.pt"
    written = safe_pickle.load(export(load_teacher(path), "fairseq", tmp_path))
    (labels,) = written["task_state"]["dictionaries"]
    converted = {
        "task_cfg": written["cfg"]["task"],
        "model_cfg": written["cfg"]["model"],
        "model_weight": written["model"],
        "dictionaries_symbols": [labels.state["symbols"]],
    }
    torch.save(converted, tmp_path / "converted.pt")
    waves = list(torch.randn(2, 8000, generator=torch.Generator().manual_seed(0)))
    ours, theirs = UpstreamExpert(path)(waves), Stock(str(tmp_path / "converted.pt")).eval()(waves)
    for mine, other in zip(ours["hidden_states"], theirs["hidden_states"], strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-5)
    torch.testing.assert_close(ours["last_hidden_state"], theirs["last_hidden_state"], rtol=0, atol=1e-5)


def test_weighted_sum(s3prl_nn, model, waveforms):
    featurizer = s3prl_nn.Featurizer(model)
    torch.nn.init.normal_(featurizer.weights)
    layers, frames = model(waveforms, LENGTHS)
    features, n_frames = featurizer(layers, frames)
    weights = featurizer.weights.exp() / featurizer.weights.exp().sum()
    torch.testing.assert_close(features, torch.einsum("l,lbfd->bfd", weights, torch.stack(layers)))
    assert n_frames.tolist() == [50, 38, 2]
    assert (featurizer.output_size, featurizer.downsample_rate) == (128, 320)


@pytest.mark.parametrize("trainable", [False, True])
def test_fine_tuning(s3prl_nn, model, waveforms, trainable):
    from s3prl.nn.upstream import UpstreamDownstreamModel

    whole = UpstreamDownstreamModel(model, s3prl_nn.Featurizer(model), FrameMean(), trainable).train()
    whole(waveforms, LENGTHS).square().mean().backward()
    assert any(p.grad.abs().sum() > 0 for p in whole.featurizer.parameters() if p.grad is not None)
    gradients = {name: p.grad for name, p in model.named_parameters()}
    if not trainable:
        assert not any(g is not None for g in gradients.values())
    else:
        assert all(g is not None and g.abs().max() > 0 for g in gradients.values())
        assert any(".cnn.0." in name for name in gradients)


class FrameMean(torch.nn.Module):
    """A head: mean over valid frames, then a linear layer."""

    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(128, 4)
        self.output_size = 4

    def forward(self, x, lengths):
        return self.linear(torch.stack([h[:n].mean(0) for h, n in zip(x, lengths, strict=True)]))


def test_the_runners_own_featurizer(model, waveforms):
    from s3prl.upstream.interfaces import Featurizer

    expert = model.upstream
    featurizer = Featurizer(expert, upstream_device="cpu")
    assert (featurizer.output_dim, featurizer.downsample_rate) == (128, 320)
    wavs = [w[:n] for w, n in zip(waveforms, LENGTHS, strict=True)]
    assert [len(f) for f in featurizer(wavs, expert(wavs))] == [49, 38, 2]
    last = Featurizer(expert, "last_hidden_state", "cpu")
    torch.testing.assert_close(last(wavs, expert(wavs))[1], expert(wavs)["paper"][1, :38])
