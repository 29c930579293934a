"""Shapes of classifiers, and the files of fine-tuned models."""

import json

import pytest
import torch

from distill.downstream.finetuning.classifier import Classifier
from distill.downstream.finetuning.model import NAME, FineTuned, load_finetuned, make_shape, write
from distill.downstream.finetuning.units import FILE, Characters, learn_subwords
from distill.errors import CheckpointError, ConfigError
from distill.hubert import HubertEncoder
from distill.options import ClassifierConfig
from distill.spiral.encoder import SpiralEncoder

TEXTS = ["the cat sat on the mat", "the cat is not there", "that is the hat of the cat"]


ENCODERS: dict = {"hubert": HubertEncoder, "spiral": SpiralEncoder}


def model_of(family: str, units, **options) -> FineTuned:
    encoder = ENCODERS[family].from_preset("mini")
    shape = make_shape(ClassifierConfig(width=8, upsampling_width=8, **options), encoder, units)
    return FineTuned(encoder, Classifier(shape)).eval()


@pytest.mark.parametrize(
    ("family", "frame_ms", "factor"),
    [
        ("spiral", None, 4),
        ("hubert", None, 1),
        ("spiral", 40, 2),
        ("spiral", 80, 1),
        ("hubert", 10, 2),
    ],
)
def test_frames_of_characters(family, frame_ms, factor):
    model = model_of(family, Characters(), frame_ms=frame_ms)
    assert model.classifier.shape.upsampling == factor
    assert model.classifier.shape.convolutions == 3
    lengths = torch.tensor([16_000, 9_000])
    log_probs, frames = model(torch.randn(2, 16_000), lengths)
    assert frames.tolist() == [model.frames(16_000), model.frames(9_000)]
    assert log_probs.shape == (2, model.frames(16_000), 29)


@pytest.mark.parametrize("frame_ms", [30, 160])
def test_frames_can_only_be_divided(frame_ms):
    with pytest.raises(ConfigError, match=f"^classifier.frame_ms {frame_ms}: frames of the encoder, 80 ms"):
        model_of("spiral", Characters(), frame_ms=frame_ms)


@pytest.mark.parametrize("kind", ["characters", "subwords"])
@pytest.mark.parametrize("family", ["hubert", "spiral"])
def test_a_model_and_its_files(family, kind, tmp_path):
    if kind == "subwords":
        pytest.importorskip("sentencepiece")
    units = Characters() if kind == "characters" else learn_subwords(TEXTS, 18)
    model = model_of(family, units)
    path = write(model, units, tmp_path, {"recipe": "x"})
    assert path == tmp_path / NAME and (tmp_path / FILE).exists() == (kind == "subwords")
    waveforms = torch.randn(1, 16_000)
    for source in (tmp_path, path, path.with_suffix(".json")):
        loaded = load_finetuned(source)
        assert loaded.units == units and loaded.provenance == {"recipe": "x"}
        assert torch.equal(loaded.model(waveforms)[0], model(waveforms)[0])


def test_files_that_are_not_a_model(tmp_path):
    with pytest.raises(CheckpointError, match="is no fine-tuned model, expected"):
        load_finetuned(tmp_path)
    path = write(model_of("hubert", Characters()), Characters(), tmp_path, {})
    described = json.loads(path.with_suffix(".json").read_text())

    def refused(match: str, **changes):
        path.with_suffix(".json").write_text(json.dumps(described | changes))
        with pytest.raises(CheckpointError, match=match) as error:
            load_finetuned(tmp_path)
        assert "\n" not in str(error.value)

    architecture = described["architecture"]
    refused("describes 'teacher' of version 1", kind="teacher")
    refused("of version 2, this release reads", version=2)
    refused("its units are 'runes'", units="runes")
    refused("subwords.model, its subwords, cannot be read", units="subwords")
    refused("impossible model", architecture={"encoder": architecture["encoder"]})
    refused("impossible model", architecture=architecture | {"classifier": {"dims": 3}})
    refused("impossible model", architecture=architecture | {"encoder": {"family": "whale"}})
    wider = architecture["classifier"] | {"outputs": 30}
    refused("does not fit its architecture", architecture=architecture | {"classifier": wider})
