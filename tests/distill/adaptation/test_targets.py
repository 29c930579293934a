import json
from typing import Any

import numpy as np
import pytest
import torch
from scipy.fftpack import dct

from distill.adaptation.mfcc import align_labels, mfcc_features
from distill.adaptation.targets import (
    Targets,
    _sample_frames,
    assign,
    fit_kmeans,
    layer_features,
    make_targets,
    nearest,
)
from distill.errors import DataError
from distill.hubert import HubertConfig, HubertEncoder

TINY: dict[str, Any] = {"dim": 32, "heads": 2, "ffn_dim": 64, "position_groups": 4}


def noise(samples, seed=0):
    return 0.1 * torch.randn(samples, generator=torch.Generator().manual_seed(seed))


def tone(samples, hz):
    return 0.3 * torch.sin(2 * torch.pi * hz * torch.arange(samples) / 16_000)


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    return HubertEncoder.from_preset("mini", layers=2, **TINY)


@pytest.fixture
def corpus():
    """Two tones that alternate half a second each: what a frame holds is known."""
    return [
        (f"a/{i}", torch.cat([tone(8000, 300), tone(8000, 2500)]) + 0.01 * noise(16_000, i)) for i in range(4)
    ]


def kaldi_mfcc(waveform):
    """Kaldi's MFCC written out from its documentation, in float64: the reference for one window at a time."""
    x = waveform.double().numpy()
    frames = np.stack([x[start : start + 400] for start in range(0, len(x) - 399, 160)])
    frames = frames - frames.mean(1, keepdims=True)
    frames = frames - 0.97 * np.concatenate([frames[:, :1], frames[:, :-1]], axis=1)
    window = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 399)) ** 0.85  # Povey's
    power = np.abs(np.fft.rfft(frames * window, 512)) ** 2

    def mel(hz):
        return 1127.0 * np.log(1.0 + hz / 700.0)

    edges = np.linspace(mel(20.0), mel(8000.0), 25)
    bins = mel(np.arange(256) * 16_000 / 512)[None]
    left, centre, right = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    bank = np.maximum(0.0, np.minimum((bins - left) / (centre - left), (right - bins) / (right - centre)))
    log_mel = np.log(power[:, :256] @ bank.T)
    cepstrum = dct(log_mel, type=2, norm="ortho", axis=1)[:, :13]
    return cepstrum * (1.0 + 11.0 * np.sin(np.pi * np.arange(13) / 22.0))  # lifter


def test_mfcc_agrees_with_kaldis_definition():
    waveform = noise(4000)
    assert np.abs(mfcc_features(waveform)[:, :13].numpy() - kaldi_mfcc(waveform)).max() < 1e-3


def test_mfcc_differences_are_regressions_over_five_frames():
    features = mfcc_features(noise(16_000)).double().numpy()
    weights = np.array([-2, -1, 0, 1, 2]) / 10
    for source, result in ((features[:, :13], features[:, 13:26]), (features[:, 13:26], features[:, 26:])):
        expected = np.stack([weights @ source[i - 2 : i + 3] for i in range(2, len(source) - 2)])
        assert np.abs(expected - result[2:-2]).max() < 1e-3


@pytest.mark.parametrize("samples", [400, 559, 560, 719, 720, 16_000, 16_319, 32_007])
def test_every_second_mfcc_frame_is_a_hubert_frame(samples):
    features = mfcc_features(noise(samples))
    assert features.shape == ((samples - 400) // 160 + 1, 39)
    assert len(features[::2]) == HubertConfig().frames(samples)
    # frame i depends on samples 320 i .. 320 i + 399 alone, as the encoder's frame i does
    moved = noise(samples)
    moved[: -400 - (samples - 400) % 320] = 0.01
    last = HubertConfig().frames(samples) - 1
    assert torch.equal(mfcc_features(moved)[2 * last, :13], features[2 * last, :13])


def test_mfcc_refuses_what_is_not_a_waveform():
    for wrong in (noise(399), noise(1000)[None]):
        with pytest.raises(ValueError, match="waveform"):
            mfcc_features(wrong)


def test_layer_features_are_the_encoders_without_dropout(encoder):
    encoder.train()
    waveform = noise(8000)
    features = layer_features(encoder, waveform, 2)
    assert encoder.training and not features.requires_grad
    expected = encoder.eval()(waveform[None]).hidden_states[2][0]
    assert torch.allclose(features, expected, atol=1e-6)
    with pytest.raises(ValueError, match="layer must be in 1..2"):
        layer_features(encoder, waveform, 3)


def test_the_last_layer_of_a_pre_norm_model_is_taken_behind_its_final_norm():
    """And only of the last: shards are made with an encoder that is cut after the layer."""
    torch.manual_seed(0)
    large = HubertEncoder.from_preset("mini", layers=3, pre_norm=True, **TINY).eval()
    torch.nn.init.uniform_(large.norm.weight, 0.5, 1.5)
    with torch.no_grad():
        out = large(noise(4000)[None])
    torch.testing.assert_close(layer_features(large, noise(4000), 3), out.last_hidden_state[0])
    large.layers = large.layers[:2]
    torch.testing.assert_close(layer_features(large, noise(4000), 2), out.hidden_states[2][0])


@pytest.mark.parametrize("strides", [(5, 2, 2, 2, 2, 2, 2, 2), (5, 2, 2, 2, 2, 2), (5, 2, 2, 2, 2, 2, 1)])
def test_mfcc_labels_are_those_at_the_middle_of_each_frame(strides):
    """Of encoders of other frame rates: windows of 400 samples every 160, the nearest to its middle."""
    kernels = (10, 3, 3, 3, 3, 2, 2, 2)
    slow = HubertConfig(conv_layers=tuple((8, k, s) for k, s in zip(kernels, strides, strict=False)))
    middles = torch.arange(100) * 160 + 200
    found = align_labels(middles, 20, slow)
    wanted = torch.arange(20) * slow.hop + slow.receptive_field / 2
    assert (found - wanted).abs().max() <= 80


def test_mfcc_of_another_rate_are_refused(corpus):
    odd = HubertConfig(conv_layers=((8, 10, 5), (8, 3, 3), (8, 3, 7)))
    with pytest.raises(ValueError, match="MFCC are 160 samples apart, the model's frames 105"):
        make_targets(corpus, n_clusters=2, seed=0, model=odd, progress=False)


@pytest.mark.parametrize("samples", [400 + 320 * 60, 400 + 320 * 59 + 17, 400 + 320 * 20, 8000])
def test_long_recordings_are_encoded_in_parts_that_lose_no_frame(encoder, monkeypatch, samples):
    """Without anything that looks beyond a frame's own samples, parts and whole are the same."""
    local = HubertEncoder.from_preset("mini", layers=1, conv_norm="layer", **TINY).eval()
    monkeypatch.setattr(local.position, "forward", torch.zeros_like)
    torch.nn.init.zeros_(local.layers[0].get_parameter("attention_out.weight"))
    waveform = noise(samples)
    whole = layer_features(local, waveform, 1)
    monkeypatch.setattr("distill.adaptation.targets.MAX_FRAMES", 20)
    calls = []
    local.register_forward_pre_hook(lambda module, arguments: calls.append(arguments[0].shape[1]))
    parts = layer_features(local, waveform, 1)
    n_parts = -(-len(whole) // 20)
    assert len(calls) == n_parts and max(calls) < 400 + 320 * 20
    assert parts.shape == whole.shape and torch.allclose(parts, whole, atol=1e-5)


def test_kmeans_recovers_separated_blobs():
    rng = torch.Generator().manual_seed(0)
    centres = 20.0 * torch.eye(5, 8)
    truth = torch.arange(5).repeat_interleave(200)
    features = centres[truth] + torch.randn(1000, 8, generator=rng)
    codebook = fit_kmeans(features, 5, seed=1)
    assert codebook.shape == (5, 8) and codebook.dtype == torch.float32
    distance = torch.cdist(centres, codebook)
    assert distance.min(1).values.max() < 0.5
    found = assign(features, codebook)
    assert torch.equal(distance.argmin(1)[truth], found)
    assert torch.equal(codebook, fit_kmeans(features, 5, seed=1))


def test_assign_is_nearest_neighbour_across_chunks(monkeypatch):
    monkeypatch.setattr("distill.adaptation.targets.CHUNK_FRAMES", 64)
    rng = torch.Generator().manual_seed(0)
    features, codebook = torch.randn(1000, 8, generator=rng), torch.randn(30, 8, generator=rng)
    labels = assign(features, codebook)
    assert labels.dtype == torch.int64
    assert torch.equal(labels, torch.cdist(features.double(), codebook.double()).argmin(1))


def test_nearest_gives_squared_distances():
    rng = torch.Generator().manual_seed(0)
    features, codebook = torch.randn(500, 8, generator=rng), torch.randn(30, 8, generator=rng)
    features[:30] = codebook
    _, distance = nearest(features, codebook)
    expected = torch.cdist(features.double(), codebook.double()).min(1).values.square()
    assert (distance - expected).abs().max() < 1e-5 and (distance >= 0).all()


def test_kmeans_refuses_bad_input():
    with pytest.raises(ValueError, match="5 clusters need as many frames"):
        fit_kmeans(torch.randn(4, 2), 5, seed=0)
    with pytest.raises(ValueError, match="finite"):
        fit_kmeans(torch.full((10, 2), float("nan")), 2, seed=0)
    with pytest.raises(ValueError, match="n_clusters"):
        fit_kmeans(torch.randn(4, 2), 40_000, seed=0)
    with pytest.raises(ValueError, match="do not fit"):
        assign(torch.randn(4, 2), torch.randn(3, 5))


def test_align_labels():
    labels = torch.arange(10)
    assert align_labels(labels, 5).tolist() == [0, 2, 4, 6, 8]
    assert align_labels(labels, 3).tolist() == [0, 2, 4]
    assert align_labels(labels, 7).tolist() == [0, 2, 4, 6, 8, 9, 9]
    with pytest.raises(ValueError, match="labels_100hz"):
        align_labels(labels[:0], 5)


def test_frames_are_sampled_uniformly_whatever_their_place():
    utterances = [(str(i), torch.full((1000,), float(i))) for i in range(60)]  # 2.5 hold a frame each

    def constant(_, waveform):
        return waveform[:50, None]

    counts = np.zeros(60)
    for seed in range(40):
        sample = _sample_frames(utterances, constant, 300, seed)
        assert sample.shape == (300, 1)
        counts += np.bincount(sample[:, 0].long().numpy(), minlength=60)
    expected = counts.sum() / 60
    assert ((counts - expected) ** 2 / expected).sum() < 100  # chi-square, 59 degrees: p = 0.0007


def test_mfcc_targets_follow_the_sound(corpus):
    targets = make_targets(corpus, n_clusters=2, seed=0, progress=False)
    assert targets.features == "mfcc" and targets.codebook.shape == (2, 39)
    assert list(targets.labels) == ["a/0", "a/1", "a/2", "a/3"]
    for labels in targets.labels.values():
        assert labels.dtype == np.int16 and len(labels) == 49
        # two tones, two clusters; the deltas' window blurs the change at frame 25
        assert len(set(labels[:22])) == len(set(labels[28:])) == 1
        assert labels[0] != labels[-1]


def test_layer_targets_have_one_label_a_frame(encoder, corpus):
    targets = make_targets(corpus, n_clusters=4, seed=0, encoder=encoder, layer=1, progress=False)
    assert targets.features == "layer 1" and targets.codebook.shape == (4, 32)
    utterance_id, waveform = corpus[2]
    expected = torch.cdist(layer_features(encoder, waveform, 1), targets.codebook).argmin(1)
    assert (targets.labels[utterance_id] == expected.numpy()).mean() > 0.97  # but for rounding


def test_targets_do_not_depend_on_anything_but_the_seed(corpus):
    first, second = (make_targets(corpus, n_clusters=8, seed=5, progress=False) for _ in range(2))
    assert torch.equal(first.codebook, second.codebook)
    assert all(np.array_equal(first.labels[name], second.labels[name]) for name in first.labels)


def test_save_and_load(corpus, tmp_path):
    targets = make_targets([*corpus, ("file", noise(400))], n_clusters=3, seed=7, progress=False)
    targets.save(tmp_path / "km")
    again = Targets.load(tmp_path / "km")
    assert torch.equal(again.codebook, targets.codebook)
    assert list(again.labels) == list(targets.labels)
    for name, labels in targets.labels.items():
        assert np.array_equal(again.labels[name], labels) and again.labels[name].dtype == np.int16
    assert (again.features, again.seed, again.n_clusters) == ("mfcc", 7, 3)
    description = json.loads((tmp_path / "km" / "targets.json").read_text())
    assert description["frame_rate_hz"] == 50 and description["frames"] == 4 * 49 + 1


def test_counts_of_clusters():
    labels = {"a": np.array([0, 2, 2], np.int16), "b": np.zeros(0, np.int16), "c": np.array([2], np.int16)}
    targets = Targets(torch.zeros(4, 2), labels, "mfcc", 0)
    assert targets.counts().tolist() == [1, 0, 3, 0] and targets.n_frames == 4


def test_damaged_targets_are_one_clear_line(corpus, tmp_path):
    targets = make_targets(corpus, n_clusters=3, seed=7, progress=False)
    with pytest.raises(DataError, match="targets.json is missing.*distill adapt targets"):
        Targets.load(tmp_path / "nowhere")
    for name, content in (("labels.npz", b"PK"), ("codebook.npy", b""), ("targets.json", b"{")):
        folder = tmp_path / name
        targets.save(folder)
        (folder / name).write_bytes(content)
        with pytest.raises(DataError, match="damaged") as caught:
            Targets.load(folder)
        assert "\n" not in str(caught.value)
    targets.save(tmp_path / "mixed")
    np.save(tmp_path / "mixed" / "codebook.npy", np.zeros((2, 39), np.float32))
    with pytest.raises(DataError, match="do not belong together"):
        Targets.load(tmp_path / "mixed")


def test_pickled_arrays_are_refused(corpus, tmp_path):
    make_targets(corpus, n_clusters=3, seed=7, progress=False).save(tmp_path)
    np.save(tmp_path / "codebook.npy", np.array([{"a": 1}] * 3, dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match="damaged"):
        Targets.load(tmp_path)


def test_bad_corpora_are_named(corpus, encoder):
    options = {"n_clusters": 2, "seed": 0, "progress": False}
    with pytest.raises(DataError, match="'short'.*leave it out"):
        make_targets([*corpus, ("short", noise(300))], **options)
    with pytest.raises(DataError, match="'stereo'"):
        make_targets([*corpus, ("stereo", noise(3000).view(2, -1))], **options)
    with pytest.raises(DataError, match="'broken'.*finite"):
        make_targets([*corpus, ("broken", torch.full((1000,), float("inf")))], **options)
    with pytest.raises(DataError, match="'a/0'.*unique"):
        make_targets([*corpus, corpus[0]], **options)
    with pytest.raises(DataError, match="no utterances"):
        make_targets([], **options)
    with pytest.raises(DataError, match="too few for 200 clusters"):
        make_targets([("one", noise(1000))], n_clusters=200, seed=0, progress=False)
    with pytest.raises(ValueError, match="iterator"):
        make_targets(iter(corpus), **options)
    with pytest.raises(ValueError, match="go together"):
        make_targets(corpus, encoder=encoder, **options)
