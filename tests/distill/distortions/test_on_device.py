"""Distortions on a device: nothing is waited for, and the few large launches give what single rows give."""

import pytest
import torch

from distill.distortions import CONDITIONS, Distorter, DistortionConfig, additive, padded
from distill.distortions.clips import Clips
from tests.rehearsal import rehearsal

B = 24


def only(additive: str = "none", non_additive: str = "none", **options) -> DistortionConfig:
    return DistortionConfig(additive=(additive,), non_additive=(non_additive,), **options)


# Launches and copies from the host for 24 utterances of up to 15.6 s.
EFFECTS = {
    "clean": (only(), 15),
    "gaussian": (only("gaussian"), 60),
    "musan": (only("musan"), 60),
    "strung": (only("musan", strung=True), 60),
    "stretched": (only("musan", variant="authors"), 60),
    "reverb": (only(non_additive="reverb"), 40),
    "pitch": (only(non_additive="pitch"), 200),
    "band_reject": (only(non_additive="band_reject"), 40),
    "clipping": (only(non_additive="clipping"), 40),
    "time_drop": (only(non_additive="time_drop"), 40),
    "room": (only(rir=True), 50),
    "room at a level": (only(rir=True, variant="authors"), 60),
    "dns": (CONDITIONS["dns"], 100),
    "2-dist": (CONDITIONS["2-dist"], 270),
}


def batch(seed: int, longest: int, rows: int = B):
    """Speech, lengths, noise (longer and shorter than the speech) and rooms."""
    draw = torch.Generator().manual_seed(seed)
    lengths = torch.randint(longest // 8, longest + 1, (rows,), generator=draw)
    waves = 0.1 * torch.randn(rows, int(lengths.max()), generator=draw)
    n_noise = torch.randint(longest // 20, 2 * longest, (rows,), generator=draw).tolist()
    noises = [torch.randn(n, generator=draw) for n in n_noise]
    rooms = [
        torch.randn(50 + 20 * row, generator=draw) * 0.9 ** torch.arange(50 + 20 * row) for row in range(rows)
    ]
    return waves, lengths, noises, rooms


@pytest.mark.parametrize("name", EFFECTS)
def test_no_effect_makes_the_host_wait(name):
    config, most = EFFECTS[name]
    distorter = Distorter.from_config(config)
    waves, lengths, noises, rooms = batch(0, 250_000)
    if config.strung:
        noises = [torch.zeros(int(n)) for n in lengths]
    waves, packed = waves.to("meta", non_blocking=True), Clips.pack(noises).to("meta")
    with rehearsal() as seen:
        out, labels = distorter(waves, lengths, distorter.plan([str(row) for row in range(B)]), packed, rooms)
    assert out.is_meta and labels.is_meta
    assert seen.launches <= most and seen.copies <= 40


def test_few_sizes_of_transforms_serve_all_batches():
    distorter = Distorter.from_config("2-dist")
    sizes, plans = set(), set()
    for step in range(6):
        waves, lengths, noises, _ = batch(step, 250_000)
        with rehearsal() as seen:
            plan = distorter.plan([f"{step}-{row}" for row in range(B)])
            distorter(waves.to("meta", non_blocking=True), lengths, plan, Clips.pack(noises).to("meta"))
        sizes |= seen.fft_sizes
        plans |= seen.fft_plans
    assert len(sizes) <= 4 and len(plans) <= 20


@pytest.fixture
def as_device(monkeypatch):
    """Take the ways of a device, on the CPU."""

    def start() -> None:
        for module in ("padded", "additive", "pitch", "distorter"):
            monkeypatch.setattr(f"distill.distortions.{module}.on_cpu", lambda x: False)

    return start


@pytest.mark.parametrize("name", EFFECTS)
def test_the_device_s_way_gives_what_the_cpu_s_gives(name, as_device):
    config, _ = EFFECTS[name]
    distorter = Distorter.from_config(config)
    waves, lengths, noises, rooms = batch(1, 20_000, rows=10)
    if config.strung:
        noises = [torch.randn(int(n)) for n in lengths]
    noises[3] = torch.zeros(700)
    plan = distorter.plan([f"u{row}" for row in range(10)])
    if config.strung:
        noises[3] = torch.zeros(int(lengths[3]))
    expected, labels = distorter(waves, lengths, plan, noises, rooms)
    before = distorter.skipped_silent
    as_device()
    found, found_labels = distorter(waves, lengths, plan, Clips.pack(noises), rooms)
    # Ends of filters and blocks that pitch leaves out are 100 dB down.
    torch.testing.assert_close(found, expected, atol=1e-5 if "pitch" in config.non_additive else 2e-6, rtol=0)
    assert torch.equal(labels, found_labels) and distorter.skipped_silent == 2 * before
    alone, _ = distorter(waves[2:3, : lengths[2]], None, plan[2:3], noises[2:3], rooms[2:3])
    torch.testing.assert_close(found[2:3, : lengths[2]], alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("stretch", [False, True])
def test_clips_are_fitted_at_once_as_one_by_one(stretch):
    speech, counts = torch.zeros(4, 100), [100, 37, 90, 100]
    clips = [torch.arange(float(n)) + 1 for n in (100, 200, 13, 99)]
    rows = additive._fit(clips, counts, speech, [stretch] * 4)
    assert torch.equal(additive._fit_at_once(clips, counts, speech, [stretch] * 4), rows)


@pytest.mark.parametrize("n_taps, n_samples, size", [(323, 250_000, 4096), (48_000, 250_000, 131_072)])
def test_the_size_of_a_transform_depends_on_the_filter_alone(n_taps, n_samples, size):
    assert padded._fft_size(n_taps, n_samples) == padded._fft_size(n_taps, n_samples // 2) == size
    assert padded._fft_size(n_taps, 10) == 1 << (n_taps + 8).bit_length()
    assert padded._fft_size(100_000, 10**6) == 262_144


def test_white_noise_given_is_the_noise_drawn():
    from distill.distortions.distorter import white_noise

    distorter = Distorter.from_config(only("gaussian"))
    waves, lengths, _, _ = batch(2, 3000, rows=3)
    plan = distorter.plan(["a", "b", "c"])
    white = white_noise(plan, lengths.tolist())
    drawn = additive.gaussian(lengths, [p.gaussian_seed for p in plan])
    assert all(torch.equal(a, b) for a, b in zip(white, drawn, strict=True) if a is not None)
    out, _ = distorter(waves, lengths, plan)
    assert torch.equal(out, distorter(waves, lengths, plan, white=white)[0])
    silent = distorter(waves, lengths, plan, white=[torch.zeros(int(n)) for n in lengths])[0]
    assert not torch.equal(out, silent)  # it is used
    with pytest.raises(ValueError, match="white: utterance 'b' has"):
        distorter(waves, lengths, plan, white=[white[0], torch.zeros(5), None])
