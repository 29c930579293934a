"""MUSAN and WHAM! against lhotse's recipes, FSD50K and DNS against files written by hand."""

import pytest
from lhotse.recipes import prepare_musan
from lhotse.recipes.wham import prepare_wham

from distill.data_prep.mini_files import write_lines
from tests.data_prep.corpora import noise, prepared


def test_musan_is_what_lhotse_finds(layouts, manifests):
    theirs = prepare_musan(layouts / "musan")
    expected = {(r.id, r.duration, kind) for kind, parts in theirs.items() for r in parts["recordings"]}
    assert {(c.id, c.duration, c.custom["kind"]) for c in manifests("musan", "all")} == expected
    assert {kind for _, _, kind in expected} == {"music", "noise", "speech"}


def test_wham_is_what_lhotse_finds(layouts, manifests):
    for split, parts in prepare_wham(layouts / "wham_noise").items():
        theirs = {recording.id: recording.duration for recording in parts["recordings"]}
        assert {cut.id: cut.duration for cut in manifests("wham", split)} == theirs


def test_fsd50k_labels_and_a_missing_ground_truth(tmp_path):
    root = tmp_path / "root"
    for name in ("64760", "16399"):
        noise(root / f"FSD50K.dev_audio/{name}.wav", rate=44_100)
    rows = ['64760,"Electric_guitar,Guitar","/m/02sgy,/m/0342h",train', "16399,Rain,/m/06mb1,val"]
    write_lines(root / "FSD50K.ground_truth/dev.csv", ["fname,labels,mids,split", *rows])
    cuts = prepared("fsd50k", root, tmp_path / "out")["dev"]
    assert {cut.id: cut.custom["labels"] for cut in cuts} == {
        "64760": ["Electric_guitar", "Guitar"],
        "16399": ["Rain"],
    }
    (root / "FSD50K.ground_truth/dev.csv").unlink()
    cuts = prepared("fsd50k", root, tmp_path / "out")["dev"]
    assert {cut.id for cut in cuts} == {"64760", "16399"} and not cuts[0].custom


@pytest.mark.parametrize(
    "noises, rooms",
    [
        ("datasets/noise", "datasets/impulse_responses"),
        ("datasets_fullband/noise_fullband", "datasets_fullband/impulse_responses"),
        ("noise_fullband", "impulse_responses"),
    ],
)
def test_dns_layouts_and_the_noises_among_room_responses(tmp_path, noises, rooms):
    root = tmp_path / "root"
    noise(root / noises / "a.wav", rate=48_000)
    noise(root / noises / "b/a.wav")
    real = root / rooms / "SLR28/RIRS_NOISES"
    noise(root / rooms / "SLR26/simulated_rirs_16k/smallroom/Room001/Room001-00001.wav")
    noise(real / "simulated_rirs/smallroom/Room001/Room001-00001.wav")
    noise(real / "real_rirs_isotropic_noises/RVB2014_type1_rir_largeroom1_far_angla.wav", channels=8)
    noise(real / "real_rirs_isotropic_noises/RVB2014_type1_noise_largeroom1_1.wav", channels=8)
    noise(real / "pointsource_noises/noise-free-sound-0000.wav")
    found = prepared("dns", root, tmp_path / "out")
    assert {cut.id for cut in found["noise"]} == {"a", "b/a"}
    assert {cut.id for cut in found["rir"]} == {
        "SLR26/simulated_rirs_16k/smallroom/Room001/Room001-00001",
        "SLR28/RIRS_NOISES/simulated_rirs/smallroom/Room001/Room001-00001",
        "SLR28/RIRS_NOISES/real_rirs_isotropic_noises/RVB2014_type1_rir_largeroom1_far_angla",
    }
    assert {cut.load_audio().shape for cut in found["rir"]} == {(1, 1600)}
