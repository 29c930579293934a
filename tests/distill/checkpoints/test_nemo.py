"""SPIRAL checkpoints of the reference implementation, against what it computed with the same weights."""

import pickle
from copy import deepcopy

import pytest
import torch

from distill import load_student, load_teacher
from distill.checkpoints import export, inspect, nemo, safe_pickle
from distill.errors import CheckpointError
from distill.spiral.encoder import SpiralEncoder
from tests.paths import GOLDEN

CHECKPOINT = GOLDEN / "spiral" / "nemo_checkpoint.ckpt"
BLOCKS = "conv_transformer_blocks"


@pytest.fixture(scope="module")
def contents():
    read = safe_pickle.load(CHECKPOINT)
    return {
        "state_dict": dict(read["state_dict"]),
        "hyper_parameters": safe_pickle.plain(read["hyper_parameters"]),
        "global_step": read["global_step"],
        "pytorch-lightning_version": "1.1.0",
    }


@pytest.fixture
def changed(contents, tmp_path):
    """Write a checkpoint with changed contents."""

    def write(change):
        copy = {**contents, "state_dict": dict(contents["state_dict"])}
        copy["hyper_parameters"] = deepcopy(contents["hyper_parameters"])
        change(copy)
        torch.save(copy, tmp_path / "changed.ckpt")
        return tmp_path / "changed.ckpt"

    return write


@torch.no_grad()
def test_the_students_encoder_computes_what_the_reference_did():
    expected = torch.load(GOLDEN / "spiral" / "nemo_checkpoint_expected.pt", weights_only=True)
    encoder = load_teacher(CHECKPOINT)
    assert isinstance(encoder, SpiralEncoder) and not encoder.training
    out = encoder(expected["waveforms_int16"].float() / 32768, expected["lengths"])
    assert out.lengths.tolist() == expected["out_lengths"].tolist()
    theirs, teachers = expected["encoder_out"], expected["teacher_encoder_out"]
    for row, frames in enumerate(out.lengths):
        ours = out.last_hidden_state[row, :frames]
        assert (ours - theirs[row, :frames]).abs().max() < 2e-5 * theirs.abs().max()
        assert (ours - teachers[row, :frames]).abs().max() > 1e-3


def test_it_is_named_and_can_be_kept_as_ours(tmp_path):
    info = inspect(CHECKPOINT)
    assert (info.format, info.kind, info.family, info.hop) == ("nemo", "teacher", "spiral", 1280)
    assert info.provenance == {"model": "SPIRAL", "fine_tuned": False, "step": 5}
    assert any("12.5 Hz (every 80 ms)" in line for line in info.lines())
    assert "block 2: 2 convolutions, 1 layers of 16" in info.blocks
    encoder = load_teacher(CHECKPOINT)
    again = load_teacher(export(encoder, "native", tmp_path))
    assert again.config == encoder.config
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), encoder.parameters(), strict=True))
    with pytest.raises(CheckpointError, match="holds an encoder without prediction heads"):
        load_student(CHECKPOINT)


def test_the_encoder_of_a_fine_tuned_model(changed):
    def fine_tune(copy):
        old = copy["state_dict"]
        kept = {k.replace("st2vec_encoder.", "encoder."): v for k, v in old.items() if "target" not in k}
        copy["state_dict"] = kept | {"decoder.decoder_layers.0.weight": torch.zeros(3, 16, 1)}
        copy["hyper_parameters"]["encoder"] = copy["hyper_parameters"].pop("st2vec_encoder")

    path = changed(fine_tune)
    assert inspect(path).provenance["fine_tuned"]
    pairs = zip(load_teacher(path).parameters(), load_teacher(CHECKPOINT).parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def encoder_section(copy):
    return copy["hyper_parameters"]["st2vec_encoder"]


def set_block(number, **values):
    return lambda copy: encoder_section(copy)["feature_encoder"][BLOCKS][number].update(values)


def set_transformer(number, **values):
    def change(copy):
        block = encoder_section(copy)["feature_encoder"][BLOCKS][number]
        block["transformer_block"]["encoder"].update(values)

    return change


def set_convolution(number, index, **values):
    def change(copy):
        encoder_section(copy)["feature_encoder"][BLOCKS][number]["conv_layers"][index].update(values)

    return change


def set_weight(name, value):
    return lambda copy: copy["state_dict"].update({f"st2vec_encoder.{name}": value})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("hyper_parameters"), "does not say what its model is like"),
        (lambda c: encoder_section(c)["preprocessor"].update(preemph=0.9), "preemph of its preprocessor is"),
        (lambda c: encoder_section(c)["preprocessor"].update(features=24), "mel filters of another shape"),
        (lambda c: encoder_section(c).pop("preprocessor"), "does not describe its preprocessor"),
        (lambda c: encoder_section(c)["feature_encoder"][BLOCKS].pop(), "not a list of two blocks"),
        (set_block(0, conv_layers=None), "block 1 is not described as the reference does"),
        (set_block(0, transformer_block={}), "block 1 is not described .*: conv is missing"),
        (set_transformer(1, encoder_layers=900), "described with 900 layers in block 2 but holds 1"),
        (set_transformer(1, num_attention_heads=3), r"dim \(16\) must be a multiple of heads \(3\)"),
        (set_transformer(0, num_attention_heads="many"), "block1_heads is 'many'"),
        (set_transformer(0, layer_norm_first=False), "layer_norm_first of its block 1 is False"),
        (set_transformer(0, ffn_embedding_dim=32), r"does not fit its architecture: .*\(24, 16\)"),
        (set_convolution(0, 0, act_func="gelu"), "convolution 0 of kernel 5 has the activation 'gelu'"),
        (set_convolution(1, 1, norm_type="bn"), "norm_type of its block 2, convolution 1 is 'bn'"),
        (set_convolution(0, 0, stride=[4]), "strides of 1 or 2"),
        (set_weight("mask_emb", torch.full((16,), torch.nan)), "mask_embedding.*NaN|NaN.*mask_embedding"),
        (set_weight("feature_encoder.extra", torch.zeros(1)), "does not have: 'feature_encoder.extra'|extra"),
        (
            set_weight("wav2spec.featurizer.fb", torch.ones(1, 16, 257)),
            "other mel filters than SPIRAL's",
        ),
    ],
)
def test_what_cannot_be_computed_is_refused_in_one_line(changed, change, message):
    with pytest.raises(CheckpointError, match=message) as error:
        load_teacher(changed(change))
    assert "\n" not in str(error.value)


def test_missing_weights_are_named(changed):
    path = changed(lambda c: c["state_dict"].pop("st2vec_encoder.mask_emb"))
    with pytest.raises(CheckpointError, match="mask_embedding is missing"):
        load_teacher(path)


def test_nothing_in_it_is_run(changed):
    class Hostile:
        def __reduce__(self):
            return pickle.loads, (b"",)

    with pytest.raises(CheckpointError, match="asks for pickle.loads, which no checkpoint needs"):
        load_teacher(changed(lambda c: c.update(more=Hostile())))
    assert nemo.matches({"state_dict": {"encoder.feature_encoder.block_modules.0.x": 0}})
    assert not nemo.matches({"state_dict": 3}) and not nemo.matches([])
