"""What is drawn for an utterance: distributions, independence of the batch, labels."""

import hashlib
import json
import math
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from scipy.stats import chisquare, kstest

from distill.distortions import LABELS, Distorter, DistortionConfig, Plan

DRAWN = (
    *("additive", "non_additive", "rir", "snr_db", "noise_choice", "noise_offset", "rir_choice"),
    *("gaussian_seed", "room_scale", "cents", "low_hz", "high_hz"),
)
IDS = [f"utt-{i}" for i in range(8000)]


@pytest.fixture(scope="module")
def plan() -> Plan:
    return Distorter.from_config("2-dist").plan(IDS, seed=1)


def test_types_are_uniform_and_independent(plan):
    config = DistortionConfig()
    counts = np.zeros((4, 4))
    for p in plan:
        counts[config.additive.index(p.additive), config.non_additive.index(p.non_additive)] += 1
    assert chisquare(counts.ravel()).pvalue > 1e-3


@pytest.mark.parametrize(
    ("field", "low", "high"),
    [
        ("snr_db", 10, 20),
        ("noise_choice", 0, 1),
        ("noise_offset", 0, 1),
        ("rir_choice", 0, 1),
        ("gaussian_seed", 0, 2**53),
        ("cents", -300, 300),
    ],
)
def test_numbers_are_uniform(plan, field, low, high):
    values = np.array([getattr(p, field) for p in plan], dtype=float)
    assert kstest((values - low) / (high - low), "uniform").pvalue > 1e-3


def test_room_scales_are_uniform_integers_including_both_ends(plan):
    counts = np.bincount([p.room_scale for p in plan], minlength=101)
    assert len(counts) == 101
    assert chisquare(counts).pvalue > 1e-3


def test_bands_have_uniform_width_on_the_mel_scale(plan):
    def mel(hz):
        return 2595 * np.log10(1 + hz / 700)

    low, high = (mel(np.array([getattr(p, edge) for p in plan])) for edge in ("low_hz", "high_hz"))
    widths = (high - low) / (mel(8000) / 256)
    assert widths.min() > 1 - 1e-6 and widths.max() < 27
    assert kstest(widths[widths > 1.001], "uniform", args=(1, 26)).pvalue > 1e-3
    assert low.min() >= 0 and max(p.high_hz for p in plan) <= 8000
    places = low / (mel(8000) - (high - low))
    assert kstest(places, "uniform").pvalue > 1e-3


def test_draws_do_not_depend_on_the_batch():
    distorter = Distorter.from_config("2-dist")
    together = distorter.plan(["a", "b", "c"], 3, 2)
    assert distorter.plan(["c"], seed=3, epoch=2)[0] == together[2]
    assert distorter.plan(["a", "b"], 3, 2) == together[:2]


def test_every_part_of_the_key_matters():
    train, dev = (Distorter.from_config("2-dist", split=s) for s in ("train", "dev"))
    plans = [
        train.plan(["1"]),
        train.plan(["1"], seed=1),
        train.plan(["1"], epoch=1),
        train.plan(["1"], stream="teacher"),
        dev.plan(["1"]),
        train.plan(["2"]),
    ]
    assert len({p[0].noise_offset for p in plans}) == len(plans)


def test_draws_stay_the_same_over_releases():
    p = Distorter.from_config("2-dist").plan(["84-121123-0000"], seed=7, epoch=3)[0]
    assert (p.additive, p.non_additive, p.room_scale) == ("wham", "band_reject", 6)
    assert (p.snr_db, p.cents) == pytest.approx((13.7904767, 142.431854))


@pytest.mark.parametrize(
    "change",
    [
        {"additive": ("musan",)},
        {"non_additive": ("none",)},
        {"snr_db": (0.0, 5.0)},
        {"room_scale": (10, 20)},
        {"pitch_cents": 50.0},
        {"band_scaler": 2.0},
        {"rir": True},
        {"clip_factor": (0.2, 0.3)},
        {"time_drop_s": 0.1},
        {"strung": True},
    ],
)
def test_changing_one_option_leaves_the_other_draws_alone(change):
    before = Distorter.from_config(DistortionConfig()).plan(IDS[:50])
    after = Distorter.from_config(replace(DistortionConfig(), **change)).plan(IDS[:50])
    allowed = {
        "pitch_cents": {"cents"},
        "band_scaler": {"low_hz", "high_hz"},
        "time_drop_s": {"n_dropped"},
    }
    option = next(iter(change))
    changed = {
        f.name
        for a, b in zip(before, after, strict=True)
        for f in fields(a)
        if getattr(a, f.name) != getattr(b, f.name)
    }
    assert changed == allowed.get(option, {option})


def test_labels_are_multi_hot():
    plan = Distorter.from_config("2-dist").plan(IDS[:400])
    labels = plan.labels()
    assert labels.shape == (400, 7) and labels.dtype == torch.float32
    for row, p in zip(labels, plan, strict=True):
        expected = {p.additive, p.non_additive} - {"none"} or {"clean"}
        assert {name for name, on in zip(LABELS, row, strict=True) if on} == expected


def test_test_conditions_have_no_column():
    for name in ("fsd", "dns"):
        plan = Distorter.from_config(name).plan(["a"])
        assert plan.labels().sum() == 0
        assert plan[0].noise_corpus == name
        assert plan[0].rir == (name == "dns")
    assert Distorter.from_config("clean").plan(["a"]).labels()[0, LABELS.index("clean")] == 1
    assert Distorter.from_config(None).plan(["a"])[0].noise_corpus is None


def test_clipping_and_time_drop_are_drawn_if_asked_for():
    config = DistortionConfig(non_additive=("clipping", "time_drop", "none"))
    assert (config.clip_factor, config.time_drop_s) == ((0.1, 0.5), 0.05)
    plan = Distorter.from_config(config).plan(IDS, seed=1)
    counts = [sum(p.non_additive == kind for p in plan) for kind in config.non_additive]
    assert chisquare(counts).pvalue > 1e-3
    factors = np.array([p.clip_factor for p in plan])
    assert kstest((factors - 0.1) / 0.4, "uniform").pvalue > 1e-3
    assert kstest([p.drop_place for p in plan], "uniform").pvalue > 1e-3
    dropped = np.bincount([p.n_dropped for p in plan], minlength=801)
    assert len(dropped) == 801 and dropped[0] == 0  # 1 to 800 samples, 50 ms
    assert chisquare(dropped[1:].reshape(20, 40).sum(1)).pvalue > 1e-3


def test_clipping_and_time_drop_have_no_label_and_are_not_clean():
    config = DistortionConfig(additive=("wham", "none"), non_additive=("clipping", "time_drop", "none"))
    plan = Distorter.from_config(config).plan(IDS[:200])
    for row, p in zip(plan.labels(), plan, strict=True):
        expected = {"wham"} if p.additive == "wham" else {"clean"} if p.non_additive == "none" else set()
        assert {name for name, on in zip(LABELS, row, strict=True) if on} == expected


def test_slices_are_plans_and_to_dict_is_json():
    plan = Distorter.from_config("2-dist").plan(["a", "b", "c"])
    assert isinstance(plan[1:], Plan) and len(plan[1:]) == 2
    assert json.loads(json.dumps(plan.to_dict()))["utterances"][2]["utterance_id"] == "c"


def digest(config, names=DRAWN, count: int = 10_000) -> str:
    """Of 10 000 plans, to nine digits."""
    found = hashlib.blake2b(digest_size=16)
    for plan in Distorter.from_config(config).plan([f"utt-{n}" for n in range(count)], seed=3, epoch=2):
        values = [getattr(plan, name) for name in names]
        texts = [f"{value:.9g} " if isinstance(value, float) else f"{value} " for value in values]
        found.update("".join(texts).encode())
    return found.hexdigest()


def test_the_draws_of_the_paper_are_those_of_before_there_were_variants():
    """Digests made by the code before that."""
    assert [digest(name) for name in ("2-dist", "dns")] == [
        "7d003ceed7b45b0ff940a6e6186b7ab5",
        "25765b747d9e1f6597ceed976b234386",
    ]


def test_all_draws_are_those_of_before_there_were_strung_clips():
    """A digest made by the code before that."""
    config = DistortionConfig(variant="authors", rir=True, non_additive=("clipping", "time_drop", "none"))
    extras = ("rir_db", "stretch_noise", "clip_factor", "n_dropped", "drop_place")
    assert digest(config, (*DRAWN, *extras), 1000) == "d4ded63a9e06c9b714140380b9332ae6"


def test_the_seeds_of_strung_clips_are_uniform_and_differ():
    seeds = [p.string_seed for p in Distorter.from_config("ns").plan(IDS, seed=1)]
    assert kstest(np.array(seeds) / 2**53, "uniform").pvalue > 1e-3 and len(set(seeds)) == len(IDS)
    assert [p.string_seed for p in Distorter.from_config("ns").plan(IDS, seed=1, epoch=1)] != seeds


@pytest.fixture(scope="module")
def authors() -> Plan:
    return Distorter.from_config(DistortionConfig(variant="authors")).plan(IDS, seed=1)


def test_the_authors_draw_whole_decibels_10_to_19(authors):
    for name in ("snr_db", "rir_db"):
        values = np.array([getattr(plan, name) for plan in authors])
        assert (values == values.astype(int)).all()
        counts = np.bincount(values.astype(int), minlength=20)
        assert counts[:10].sum() == 0 and len(counts) == 20
        assert chisquare(counts[10:]).pvalue > 1e-3
    assert np.corrcoef([p.snr_db for p in authors], [p.rir_db for p in authors])[0, 1] < 0.05


def test_the_authors_shift_further_and_cut_narrower_bands(authors):
    assert 490 < max(abs(plan.cents) for plan in authors) <= 500

    def bins(plan):
        mels = [2595 * np.log10(1 + hz / 700) for hz in (plan.low_hz, plan.high_hz, 8000)]
        return (mels[1] - mels[0]) / mels[2] * 256

    assert 13 < max(map(bins, authors)) <= 13.5 + 1e-6


def test_all_but_the_numbers_is_drawn_as_in_the_paper(authors):
    paper = Distorter.from_config("2-dist").plan([plan.utterance_id for plan in authors], seed=1)
    for name in ("additive", "non_additive", "noise_choice", "noise_offset", "gaussian_seed", "room_scale"):
        assert [getattr(plan, name) for plan in authors] == [getattr(plan, name) for plan in paper]


@pytest.mark.parametrize(
    ("progress", "lowest"), [(0.0, 20.0), (0.1, 16.0), (0.25, 10.0), (0.5, 0.0), (0.8, 0.0)]
)
def test_a_curriculum_lowers_the_lowest_snr(progress, lowest):
    """low(p) = 20 - 20 · min(1, p / 0.5), and every SNR keeps its place in what is left of the range."""
    whole = DistortionConfig(snr_db=(0.0, 20.0))
    falling = Distorter.from_config(replace(whole, curriculum=0.5))
    plan, full = falling.plan(IDS, seed=1, progress=progress), Distorter.from_config(whole).plan(IDS, seed=1)
    for p, before in zip(plan, full, strict=True):
        assert p.snr_db == pytest.approx(lowest + before.snr_db / 20 * (20 - lowest), abs=1e-9)
        assert replace(p, snr_db=0.0) == replace(before, snr_db=0.0)
    if progress >= 0.5:
        assert plan == full
    assert falling.plan(IDS[:50], seed=1) == full[:50]  # without a training: the whole range


def test_without_a_curriculum_progress_changes_nothing():
    distorter = Distorter.from_config("2-dist")
    assert distorter.plan(IDS[:200], progress=0.0) == distorter.plan(IDS[:200])


def test_the_curriculum_of_the_authors_draws_whole_decibels():
    distorter = Distorter.from_config(DistortionConfig(variant="authors", curriculum=1.0))
    for progress in np.linspace(0, 1, 13).tolist():
        lowest = math.ceil(round(19 - 9 * progress, 9))
        drawn = {p.snr_db for p in distorter.plan(IDS[:1000], progress=progress)}
        assert drawn == set(range(lowest, 20))


def test_other_speech_has_no_label_and_is_not_clean():
    config = DistortionConfig(additive=("speech", "musan", "none"), non_additive=("pitch", "none"))
    assert config.corpora == ("speech", "musan")
    plan = Distorter.from_config(config).plan(IDS[:200])
    for row, p in zip(plan.labels(), plan, strict=True):
        expected = {p.additive, p.non_additive} - {"none", "speech"}
        if (p.additive, p.non_additive) == ("none", "none"):
            expected = {"clean"}
        assert {name for name, on in zip(LABELS, row, strict=True) if on} == expected
    assert len(LABELS) == 7
