"""The options of the distortions: what they mean, what they need, what is refused."""

from dataclasses import replace

import pytest

from distill.distortions import CONDITIONS, Distorter, DistortionConfig

AUTHORS = DistortionConfig(variant="authors")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("additive", ()),
        ("additive", ("rain",)),
        ("additive", "musan"),
        ("non_additive", ("musan",)),
        ("snr_db", (20.0, 10.0)),
        ("snr_db", (10.0,)),
        ("room_scale", (0, 101)),
        ("room_scale", (0.5, 10)),
        ("pitch_cents", -1.0),
        ("pitch_cents", 5000.0),
        ("band_scaler", 0.0),
        ("band_scaler", 10.0),
        ("clip_factor", (0.0, 0.5)),
        ("clip_factor", (0.5, 1.0)),
        ("clip_factor", (0.5, 0.2)),
        ("clip_factor", 0.5),
        ("time_drop_s", 0.0),
        ("time_drop_s", 11.0),
        ("time_drop_s", float("nan")),
    ],
)
def test_config_mistakes_name_the_field(field, value):
    with pytest.raises(ValueError, match=field):
        DistortionConfig(**{field: value})


def test_a_config_knows_what_recordings_it_needs():
    assert CONDITIONS["clean"].corpora == ()
    assert CONDITIONS["dns"].corpora == ("dns", "rir")
    config = DistortionConfig(additive=("wham", "gaussian", "musan", "wham", "none"))
    assert config.corpora == ("wham", "musan")


def test_config_accepts_lists_and_unknown_conditions_are_refused():
    assert DistortionConfig(additive=["musan"], snr_db=[1, 2]).additive == ("musan",)  # pyright: ignore
    with pytest.raises(ValueError, match="clean, 2-dist, fsd, dns"):
        Distorter.from_config("3-dist")
    assert set(CONDITIONS) == {"clean", "2-dist", "fsd", "dns", "ns"}


def test_noisy_librispeech_is_dns_noise_without_a_room():
    ns = CONDITIONS["ns"]
    assert (ns.corpora, ns.snr_db, ns.strung, ns.rir) == (("dns",), (0, 30), True, False)
    assert ns.non_additive == ("none",)


def test_multi_condition_training_leaves_half_clean():
    mct = DistortionConfig(additive=("dns", "none"), non_additive=("none",), snr_db=(0, 30), strung=True)
    plan = Distorter.from_config(mct).plan([f"u{n}" for n in range(4000)])
    assert 0.47 < sum(p.additive == "dns" for p in plan) / len(plan) < 0.53
    assert {p.non_additive for p in plan} == {"none"}
    assert 14 < sum(p.snr_db for p in plan) / len(plan) < 16


def test_the_values_of_each_variant():
    paper = DistortionConfig()
    assert (paper.snr_db, paper.pitch_cents, paper.band_scaler) == ((10, 20), 300, 1.0)
    assert (AUTHORS.snr_db, AUTHORS.pitch_cents, AUTHORS.band_scaler) == ((10, 19), 500, 0.5)


def test_what_is_said_explicitly_wins_over_the_variant():
    mixed = DistortionConfig(variant="authors", pitch_cents=0.0, snr_db=(0, 5))
    assert (mixed.pitch_cents, mixed.snr_db, mixed.band_scaler) == (0.0, (0, 5), 0.5)


def test_a_change_of_variant_takes_all_of_its_values():
    assert CONDITIONS["2-dist"].of_variant("authors") == AUTHORS
    assert AUTHORS.of_variant("paper") == DistortionConfig()
    assert replace(CONDITIONS["dns"], rir=True).of_variant("authors").rir


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variant": "s3prl"}, "variant must be paper or authors, got 's3prl'"),
        (
            {"variant": "authors", "snr_db": (10.0, 19.5)},
            "snr_db must hold whole numbers with variant authors",
        ),
    ],
)
def test_wrong_variants(options, message):
    with pytest.raises(ValueError, match=message):
        DistortionConfig(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"curriculum": 0}, "curriculum must be a share of the training, above 0 and at most 1, got 0"),
        ({"curriculum": 1.5}, "curriculum must be a share of the training"),
        ({"curriculum": 0.5, "snr_db": [5, 5]}, r"curriculum needs a range .* snr_db is \[5, 5\]"),
        ({"curriculum": 0.5, "additive": ["none"]}, "curriculum needs noise: additive is none alone"),
    ],
)
def test_a_curriculum_needs_something_that_falls(options, message):
    with pytest.raises(ValueError, match=message):
        DistortionConfig(**options)
