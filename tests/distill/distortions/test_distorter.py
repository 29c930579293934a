"""Plans applied to batches: who gets which effect, silence, padding, devices."""

import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.distortions import (
    CONDITIONS,
    LABELS,
    VARIANTS,
    Distorter,
    DistortionConfig,
    Plan,
    additive,
    band_reject,
    clipping,
    pitch,
    reverb,
    time_drop,
)

MIX = Distorter.from_config("2-dist")
EXTRAS = Distorter.from_config(
    {"additive": ["wham", "gaussian", "none"], "non_additive": ["reverb", "clipping", "time_drop", "none"]}
)


def batch(n_rows: int = 16, n_samples: int = 4000, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    x = 0.1 * torch.randn(n_rows, n_samples, generator=generator)
    lengths = torch.randint(n_samples // 2, n_samples + 1, (n_rows,), generator=generator)
    noises = [torch.randn(2500, generator=generator) for _ in range(n_rows)]
    return x, lengths, noises, [f"utt-{seed}-{i}" for i in range(n_rows)]


def only(additive: str = "none", non_additive: str = "none", rir: bool = False) -> Distorter:
    return Distorter.from_config(
        DistortionConfig(additive=(additive,), non_additive=(non_additive,), rir=rir), split="test"
    )


def on(labels: torch.Tensor) -> set[str]:
    return {name for name, value in zip(LABELS, labels, strict=True) if value}


@pytest.mark.parametrize("distorter", [MIX, EXTRAS])
@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 1000))
def test_invariants(distorter, seed):
    x, lengths, noises, ids = batch(6, 3000, seed)
    x[0, int(lengths[0]) :] = 7.0  # rubbish in the padding
    before = x.clone(), [n.clone() for n in noises]
    plan = distorter.plan(ids, seed)
    y, labels = distorter(x, lengths, plan, noises)
    assert torch.equal(x, before[0])
    assert all(torch.equal(a, b) for a, b in zip(noises, before[1], strict=True))
    assert y.shape == x.shape and y.dtype == torch.float32 and bool(y.isfinite().all())
    assert torch.equal(labels, plan.labels())
    for row, n in enumerate(lengths):
        assert not y[row, n:].any()
    again, _ = distorter(x, lengths, distorter.plan(ids, seed), noises)
    assert torch.equal(y, again)


@pytest.mark.parametrize("distorter", [MIX, EXTRAS])
def test_an_utterance_does_not_depend_on_its_batch(distorter):
    x, lengths, noises, ids = batch(24)
    plan = distorter.plan(ids)
    config = distorter.config
    assert {p.additive for p in plan} == set(config.additive)
    assert {p.non_additive for p in plan} == set(config.non_additive)
    y, labels = distorter(x, lengths, plan, noises)
    for row, n in enumerate(lengths.tolist()):
        alone, label = distorter(x[row : row + 1, :n], None, plan[row : row + 1], noises[row : row + 1])
        torch.testing.assert_close(y[row : row + 1, :n], alone, atol=1e-5, rtol=0)
        assert torch.equal(labels[row], label[0])


@pytest.mark.parametrize("distorter", [MIX, EXTRAS])
def test_rows_get_exactly_the_effects_of_their_plan_in_order(distorter):
    x, lengths, noises, ids = batch(48, 2000)
    plan = distorter.plan(ids, seed=5)
    y, _ = distorter(x, lengths, plan, noises)
    for row, (p, n) in enumerate(zip(plan, lengths.tolist(), strict=True)):
        z = x[row : row + 1, :n]
        if p.additive != "none":
            clip = additive.gaussian([n], [p.gaussian_seed])[0] if p.additive == "gaussian" else noises[row]
            z = additive.apply(z, None, [clip], [p.snr_db])
        if p.non_additive == "reverb":
            z = reverb.apply(z, None, [p.room_scale])
        elif p.non_additive == "pitch":
            z = pitch.apply(z, None, [p.cents])
        elif p.non_additive == "band_reject":
            z = band_reject.apply(z, None, [p.low_hz], [p.high_hz])
        elif p.non_additive == "clipping":
            z = clipping.apply(z, None, [p.clip_factor])
        elif p.non_additive == "time_drop":
            start, n_dropped = time_drop.stretch(n, p.n_dropped, p.drop_place)
            z = time_drop.apply(z, None, [start], [n_dropped])
        torch.testing.assert_close(y[row : row + 1, :n], z, atol=1e-5, rtol=0)


def test_dns_reverberates_first_and_sets_the_snr_against_the_reverberant_speech():
    x, lengths, noises, ids = batch(4)
    rirs = [torch.tensor([0.0, 1.0, 0.5, 0.0, 0.3])] * 4
    dns = Distorter.from_config("dns", split="test")
    plan = dns.plan(ids)
    y, labels = dns(x, lengths, plan, noises, rirs)
    reverberant = reverb.convolve_rir(x, lengths, rirs)
    for row, n in enumerate(lengths.tolist()):
        speech, noise = reverberant[row, :n], (y - reverberant)[row, :n]
        snr = 10 * torch.log10(speech.square().sum() / noise.square().sum())
        assert float(snr) == pytest.approx(plan[row].snr_db, abs=0.1)
    assert not labels.any()


def test_clean_is_untouched():
    x, lengths, _, ids = batch(2)
    clean = Distorter.from_config(None)
    y, labels = clean(x, None, clean.plan(ids))
    assert torch.equal(x, y) and y.data_ptr() != x.data_ptr()
    assert [on(row) for row in labels] == [{"clean"}] * 2


@pytest.mark.parametrize("effect", ["none", "band_reject"])
def test_silence_takes_the_noise_label_back(effect):
    distorter = only("musan", effect)
    x, _, noises, ids = batch(3)
    x[1] = 0
    noises[2] = torch.zeros(100)
    y, labels = distorter(x, None, distorter.plan(ids), noises)
    rest = {"clean"} if effect == "none" else {effect}
    assert [on(row) for row in labels] == [{"musan", effect} - {"none"}, rest, rest]
    assert distorter.skipped_silent == 2
    assert bool(y.isfinite().all())
    distorter(x, None, distorter.plan(ids), noises)
    assert distorter.skipped_silent == 4


def test_counting_what_is_left_out_changes_no_earlier_count():
    """Runs that train together keep the count from before."""
    distorter = only(rir=True)
    distorter.skipped = before = torch.tensor(3)
    x, _, _, ids = batch(1)
    distorter(x, None, distorter.plan(ids), None, [torch.zeros(9)])
    assert before == 3
    assert distorter.skipped_silent == 4


def test_silent_rir_is_left_out():
    distorter = only(rir=True)
    x, _, _, ids = batch(2)
    y, labels = distorter(x, None, distorter.plan(ids), None, [torch.zeros(9), torch.tensor([1.0, 0.5])])
    assert torch.equal(y[0], x[0]) and not torch.equal(y[1], x[1])
    assert [on(row) for row in labels] == [{"clean"}, set()]
    assert distorter.skipped_silent == 1


@pytest.mark.parametrize("effect", ["clipping", "time_drop"])
def test_clipping_and_time_drop_are_applied_and_not_clean(effect):
    distorter = only("none", effect)
    x, lengths, _, ids = batch(8)
    plan = distorter.plan(ids)
    y, labels = distorter(x, lengths, plan)
    assert not labels.any() and all(not torch.equal(a, b) for a, b in zip(x, y, strict=True))
    short, applied = distorter.apply(x[:, :400], None, plan)
    assert short.isfinite().all() and [p.non_additive for p in applied] == [effect] * 8
    assert all(p.n_dropped == min(drawn.n_dropped, 200) for p, drawn in zip(applied, plan, strict=True))


def test_micro_batches_equal_the_batch():
    x, lengths, noises, ids = batch(8)
    plan = MIX.plan(ids)
    whole, labels = MIX(x, lengths, plan, noises)
    for part in (slice(0, 3), slice(3, 8)):
        y, some = MIX(x[part], lengths[part], plan[part], noises[part])
        torch.testing.assert_close(y, whole[part], atol=1e-5, rtol=0)
        assert torch.equal(some, labels[part])


@pytest.mark.parametrize("samples", [1, 9000])
def test_the_size_of_the_groups_does_not_matter(monkeypatch, samples):
    x, lengths, noises, ids = batch(24)
    plan = MIX.plan(ids)
    whole, _ = MIX(x, lengths, plan, noises)
    monkeypatch.setattr("distill.distortions.distorter._CPU_SAMPLES", samples)
    torch.testing.assert_close(MIX(x, lengths, plan, noises)[0], whole, atol=1e-5, rtol=0)


def test_computes_in_float32_under_autocast_and_for_half_input():
    x, lengths, noises, ids = batch(8)
    plan = MIX.plan(ids)
    plain, _ = MIX(x, lengths, plan, noises)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(MIX(x, lengths, plan, noises)[0], plain)
    half, _ = MIX(x.to(torch.bfloat16), lengths, plan, noises)
    assert half.dtype == torch.float32


def test_no_gradient_is_recorded():
    x, lengths, noises, ids = batch(8)
    assert not MIX(x.requires_grad_(), lengths, MIX.plan(ids), noises)[0].requires_grad


def test_pickles():
    distorter = only("musan")
    x, _, noises, ids = batch(1)
    distorter(x, None, distorter.plan(ids), [torch.zeros(5)])
    copy = pickle.loads(pickle.dumps(distorter))
    assert copy.plan(ids) == distorter.plan(ids) and copy.skipped_silent == 1


def test_empty_batch():
    y, labels = MIX(torch.zeros(0, 100), None, Plan(()))
    assert y.shape == (0, 100) and labels.shape == (0, 7)


def test_missing_clips_name_the_utterance():
    x, _, noises, ids = batch(2)
    noisy, dns = only("wham"), Distorter.from_config("dns")
    with pytest.raises(ValueError, match="noises: utterance 'utt-0-0' needs a noise clip"):
        noisy(x, None, noisy.plan(ids))
    with pytest.raises(ValueError, match="noises: utterance 'utt-0-1'"):
        noisy(x, None, noisy.plan(ids), [noises[0], None])
    with pytest.raises(ValueError, match="rirs: utterance 'utt-0-0' needs a room impulse response"):
        dns(x, None, dns.plan(ids), noises)
    with pytest.raises(ValueError, match="noises must have one entry per utterance, got 1 for 2"):
        noisy(x, None, noisy.plan(ids), noises[:1])
    with pytest.raises(ValueError, match="the plan is for 1 utterances, the batch has 2"):
        noisy(x, None, noisy.plan(ids[:1]), noises)


def test_messages_tell_shapes_not_values():
    noisy = only("wham")
    with pytest.raises(ValueError, match=r"got one of shape \(1, 3\)$"):
        noisy(torch.zeros(1, 9), None, noisy.plan(["a"]), [torch.zeros(1, 3)])


def test_options_as_a_mapping():
    made = Distorter.from_config({"additive": ["none"], "snr_db": [0, 5]})
    assert made.config == DistortionConfig(additive=("none",), snr_db=(0, 5))
    assert made.plan(["a"])[0].additive == "none"
    with pytest.raises(ValueError, match="unknown option 'noise' of distortion; there are additive, "):
        Distorter.from_config({"noise": ["none"]})
    with pytest.raises(ValueError, match="snr_db must be"):
        Distorter.from_config({"snr_db": 5})
    with pytest.raises(ValueError, match="unknown condition 3"):
        Distorter.from_config(3)  # pyright: ignore


@pytest.mark.parametrize("wrap", [float, np.float64, torch.tensor, np.array])
def test_one_number_serves_a_whole_batch(wrap):
    x, lengths, noises, _ = batch(3)
    one, three = (lambda value: wrap(float(value))), (lambda value: [value] * 3)
    effects = [
        lambda number: reverb.apply(x, lengths, room_scale=number(50)),
        lambda number: pitch.apply(x, lengths, cents=number(120)),
        lambda number: band_reject.apply(x, lengths, low_hz=number(500), high_hz=number(900)),
        lambda number: additive.apply(x, lengths, noises[:3], snr_db=number(12)),
        lambda number: clipping.apply(x, lengths, factor=number(0.5)),
        lambda number: time_drop.apply(x, lengths, start=number(100), n_dropped=number(50)),
    ]
    for effect in effects:
        assert torch.equal(effect(one), effect(three))
    with pytest.raises(ValueError, match="room_scale must be between 0 and 100, got 101"):
        reverb.apply(x, lengths, room_scale=101)


def test_the_plan_of_what_was_applied():
    """Waveforms are those of a call; of the plan, what silence made impossible is gone."""
    waves = 0.1 * torch.randn(3, 4000, generator=torch.Generator().manual_seed(0))
    dns = Distorter.from_config("dns")
    plan = dns.plan(["a", "b", "c"])
    noises = [torch.ones(50), torch.zeros(50), torch.ones(50)]
    rirs = [torch.ones(1), torch.ones(1), torch.zeros(3)]
    out, applied = dns.apply(waves, None, plan, noises, rirs)
    assert torch.equal(out, dns(waves, None, plan, noises, rirs)[0])
    assert [(p.additive, p.rir) for p in applied] == [("dns", True), ("none", True), ("dns", False)]
    assert [p.snr_db for p in applied] == [p.snr_db for p in plan]


def test_the_distorter_does_as_its_variant():
    generator = torch.Generator().manual_seed(0)
    waves, noise = 0.1 * torch.randn(1, 4000, generator=generator), torch.randn(900, generator=generator)
    rir = torch.randn(300, generator=generator)
    heard = {}
    for variant in VARIANTS:
        distorter = Distorter.from_config(CONDITIONS["dns"].of_variant(variant))
        plan = distorter.plan(["a"])
        heard[variant], _ = distorter(waves, None, plan, [noise], [rir])
        room = reverb.convolve_rir(waves, None, [rir], None if variant == "paper" else [plan[0].rir_db])
        expected = additive.apply(room, None, [noise], [plan[0].snr_db], stretch=variant == "authors")
        torch.testing.assert_close(heard[variant], expected)
    assert not torch.allclose(heard["paper"], heard["authors"])


def test_imports_without_the_data_stack():
    code = (
        "import sys; sys.modules.update(lhotse=None, omegaconf=None, torchaudio=None);"
        "import distill.distortions"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_gpu_equals_cpu():
    x, lengths, noises, ids = batch(24, 16_000)
    plan = MIX.plan(ids)
    expected, labels = MIX(x, lengths, plan, noises)
    with torch.autocast("cuda", dtype=torch.float16):
        y, gpu_labels = MIX(x.cuda(), lengths, plan, noises)
    assert y.is_cuda and gpu_labels.is_cuda
    torch.testing.assert_close(y.cpu(), expected, atol=1e-5, rtol=0)
    assert torch.equal(gpu_labels.cpu(), labels)
