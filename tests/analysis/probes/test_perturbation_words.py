"""Perturbations from the words of the command line."""

import pytest

from distill.analysis.probes.perturbation_words import parse_perturbations
from distill.analysis.probes.perturbations import GRIDS, PAPER
from distill.errors import DataError, MissingSource, UsageError


def parse(*words, noises=None, **options):
    return parse_perturbations(words, noises=noises or {}, **options)


def test_a_name_alone_is_its_grid():
    found = parse(*PAPER)
    assert [each.name for each in found] == [name for name in PAPER for _ in GRIDS[name]]
    assert [each.value for each in found if each.name == "speed"] == list(GRIDS["speed"])
    assert len(found) == 11 + 8 + 11 + 10


def test_values_options_and_sources(noise_folder):
    found = parse(
        "white_noise=0,0.5", "pgd=40", "fgsm=40", f"background:{noise_folder}=5,-5", level=2.0, steps=3
    )
    assert [(each.name, each.value) for each in found] == [
        ("clean", 0),  # no SNR is that of clean speech
        ("white_noise", 0),
        ("white_noise", 0.5),
        ("pgd", 40),
        ("fgsm", 40),
        (f"background_{noise_folder.name}", 5),
        (f"background_{noise_folder.name}", -5),
    ]
    assert (
        found[1].what == "level 2 of the standard deviation"
        and found[3].what == "3 steps, made on each model"
    )
    assert parse("white_noise=1", absolute=True)[0].what == "level 1 of full scale"


def test_what_is_named_twice_is_there_once():
    assert [each.value for each in parse("speed=50,100", "speed=100,200,50")] == [50, 100, 200]


@pytest.mark.parametrize(
    "word, said",
    [
        ("noise", "--perturb noise: there are white_noise, speed, .*, background, fgsm, pgd; write NAME"),
        ("speed=fast", "--perturb speed=fast: expected numbers with commas after speed="),
        ("speed=", "expected numbers"),
        ("white_noise=2", "white_noise 2: expected 0 to 1"),
        ("speed:fsd", "only background noise has a source"),
        ("background:nowhere", "neither a kind of noise"),
    ],
)
def test_what_cannot_be_understood(word, said):
    with pytest.raises(UsageError, match=said):
        parse(word)


def test_noise_must_be_named_and_exist(noise_folder):
    with pytest.raises(
        DataError, match="background:2-dist needs recordings of musan and wham: add --noise musan"
    ):
        parse("background")
    with pytest.raises(MissingSource, match="nowhere does not exist"):
        parse("background:fsd", noises={"fsd": ["nowhere"]})
    assert parse("background:fsd=1", noises={"fsd": [str(noise_folder)]})[1].value == 1
