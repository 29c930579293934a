"""Layer-wise CCA on tones: what is known to be there is found, and nothing where nothing is."""

import json
from dataclasses import replace
from statistics import mean

import pytest
import torch

from distill.analysis.cca.layerwise import CcaOptions, analyse, tables
from distill.analysis.cca.ranking import scores_of
from distill.analysis.models import OurModel
from distill.errors import UsageError, UserError
from distill.spiral.encoder import SpiralEncoder
from tests.analysis.cca.tones import PHONES, small_model, spoken

OPTIONS = CcaOptions(views=("local", "mel", "phone", "word"), utterances=30, samples=2)
LABELS = CcaOptions(views=("phone",), samples=1)


@pytest.fixture(scope="module")
def speech(tmp_path_factory):
    return str(spoken(tmp_path_factory.mktemp("tones")))


@pytest.fixture(scope="module")
def record(speech, tmp_path_factory):
    return analyse([small_model()], speech, OPTIONS, tmp_path_factory.mktemp("cca") / "a")


def means(record, model="m"):
    return {v: {n: mean(s) for n, s in layers.items()} for v, layers in scores_of(record.rows, model).items()}


def test_every_layer_has_a_score_for_every_view_sample_and_split(record):
    model = small_model()
    assert len(record.rows) == (4 * len(model.layers) - 1) * 2 * 3  # without cnn against itself
    assert {row["identity"] for row in record.rows} == {model.identity}
    found = means(record)
    assert list(found["mel"]) == list(model.layers) and "cnn" not in found["local"]
    assert all(0 < value <= 1 for layers in found.values() for value in layers.values())


def test_tones_are_found(record):
    """Random convolutions filter, random layers keep: phones are tones here."""
    found = means(record)
    assert min(found["phone"][layer] for layer in ("cnn", "0", "1", "2", "3")) > 0.35
    assert found["local"]["0"] > 0.5 and found["mel"]["cnn"] > 0.3


def test_labels_of_other_utterances_are_not_found(tmp_path, record):
    shuffled = str(spoken(tmp_path, shuffled=True))
    found = means(analyse([small_model()], shuffled, LABELS, tmp_path / "a"))
    real = means(record)
    assert all(abs(value) < 0.25 < real["phone"][layer] - value for layer, value in found["phone"].items())


def test_a_second_model_is_added_and_the_first_is_not_measured_again(speech, tmp_path, monkeypatch):
    one, other = small_model("one"), small_model("other", seed=1)
    analyse([one], speech, LABELS, tmp_path)
    before = json.loads((tmp_path / "analysis.json").read_text())["rows"]
    monkeypatch.setattr(one, "activations", None)
    record = analyse([one, other], speech, LABELS, tmp_path)
    assert record.rows[: len(before)] == before and len(record.rows) == 2 * len(before)
    table = tables(record, ["one", "other"])
    assert "| phone | one | other |" in table and "| cnn |" in table
    with pytest.raises(UserError, match=r"other settings \(seed\)"):
        analyse([one], speech, replace(LABELS, seed=1), tmp_path)


def test_what_the_rows_of_a_folder_are_of_may_not_change(speech, tmp_path):
    """Neither the weights behind a name, nor the alignments, also after a run without them."""
    analyse([small_model()], speech, LABELS, tmp_path / "a")
    with pytest.raises(UserError, match="has another model by the name m"):
        analyse([small_model(seed=1)], speech, replace(LABELS, views=("mel",)), tmp_path / "a")
    analyse([small_model()], speech, replace(LABELS, views=("mel",)), tmp_path / "a")
    ctm = tmp_path / "other.ctm"
    ctm.write_text(
        "".join(f"u{number:02d} 1 {0.1 * i:.1f} 0.1 AA\n" for number in range(40) for i in range(3))
    )
    with pytest.raises(UserError, match=r"other settings \(phone\)"):
        analyse([small_model()], speech, replace(LABELS, phones=str(ctm)), tmp_path / "a")


def test_scores_do_not_depend_on_what_else_is_asked_for(speech, tmp_path, record):
    alone = analyse([small_model()], speech, replace(OPTIONS, views=("word",), layers=("2",)), tmp_path)
    expected = [row["score"] for row in record.find(view="word", layer="2")]
    assert [row["score"] for row in alone.rows] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"views": ("noise",)}, "unknown view 'noise': choose from local, mel, phone, word"),
        ({"samples": 0}, "samples must be at least 1, not 0"),
        ({"most_utterances": 0}, "most_utterances must be at least 1, not 0"),
    ],
)
def test_options_that_make_no_sense(changes, message):
    with pytest.raises(UsageError, match=message):
        replace(LABELS, **changes)


def test_too_little_speech_is_refused(tmp_path):
    few = str(spoken(tmp_path, utterances=8, words=2))
    with pytest.raises(UserError, match="8 utterances are too few: each of 10 parts needs one"):
        analyse([small_model()], few, replace(LABELS, views=("mel",)), tmp_path / "a")
    with pytest.raises(UserError, match="m, layer .*: .* instances of .* phones are too few for .* at least"):
        analyse([small_model()], few, replace(LABELS, most_utterances=5), tmp_path / "b")


def test_a_layer_that_does_not_exist(speech, tmp_path):
    with pytest.raises(UsageError, match="m has no layer '9'"):
        analyse([small_model()], speech, replace(LABELS, layers=("9",)), tmp_path)


def test_every_phone_of_the_tones_is_a_phone():
    assert len(PHONES) == 8


def test_a_spiral_is_compared_with_its_own_local_features_at_80_ms(speech, tmp_path):
    torch.manual_seed(0)
    changes = {"conv_layers": ((8, 5, 2), (8, 1, 1)), "heads": 2, "ffn_dim": 16, "position_groups": 4}
    first = {"block1_conv_layers": ((8, 5, 2), (8, 5, 2), (8, 1, 1)), "block1_ffn_dim": 16}
    encoder = SpiralEncoder.from_preset("mini", layers=2, block1_heads=2, **changes, **first)
    model = OurModel(encoder, "spiral")
    record = analyse([model], speech, replace(OPTIONS, samples=1), tmp_path)
    found = means(record, "spiral")
    assert set(found) == {"local", "mel", "phone", "word"}
    assert list(found["mel"]) == list(model.layers) and "conv3" not in found["local"]
    assert all(0 < value <= 1 for layers in found.values() for value in layers.values())
    assert found["mel"]["conv3"] > 0.3 and found["local"]["conv2"] > found["local"]["2"]
