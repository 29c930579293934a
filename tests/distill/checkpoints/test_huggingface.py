"""Hugging Face folders, against transformers itself, both ways."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from distill.checkpoints import export, huggingface, inspect, load_teacher
from distill.errors import CheckpointError
from distill.hubert import PRESETS, HubertConfig, HubertEncoder
from distill.student import Student
from distill.waveforms import normalize_waveforms

transformers = pytest.importorskip("transformers")

SMALL = replace(
    PRESETS["mini"],
    conv_layers=tuple((16, kernel, stride) for _, kernel, stride in PRESETS["mini"].conv_layers),
    dim=32, layers=3, ffn_dim=48, position_kernel=16, position_groups=4, layerdrop=0.05,
)  # fmt: skip
VARIANTS: dict[str, HubertConfig] = {
    "base": SMALL,
    "large": replace(SMALL, conv_norm="layer", conv_bias=True, normalize_input=True, pre_norm=True),
    "student": replace(SMALL, projection_norm=False),
}
TOLERANCE = 1e-5  # measured: 0


def reference(variant: str):
    """A random model made by transformers alone."""
    torch.manual_seed(0)
    large = variant == "large"
    config = transformers.HubertConfig(
        hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=48, conv_dim=[16] * 7,
        num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4, do_stable_layer_norm=large,
        conv_bias=large, feat_extract_norm="layer" if large else "group",
        feat_proj_layer_norm=variant != "student",
    )  # fmt: skip
    model = transformers.HubertModel(config)
    for name, parameter in model.named_parameters():
        if "norm" in name:  # ones and zeros would hide a mix-up
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    return model.eval()


def encoder(variant: str) -> HubertEncoder:
    torch.manual_seed(1)
    model = HubertEncoder(VARIANTS[variant]).eval()
    for name, parameter in model.named_parameters():
        if "norm" in name:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    return model


@torch.no_grad()
def assert_same(ours: HubertEncoder, theirs) -> None:
    """Equal hidden states at equal lengths; transformers expects normalised waveforms where we normalise."""
    waves = torch.randn(2, 9000, generator=torch.Generator().manual_seed(2)) * 3 + 0.5
    out = ours(waves)
    expected = theirs(
        normalize_waveforms(waves, None) if ours.config.normalize_input else waves, output_hidden_states=True
    )
    assert len(out.hidden_states) == len(expected.hidden_states)
    pairs = list(zip(out.hidden_states, expected.hidden_states, strict=True))
    for mine, other in pairs[:-1]:
        torch.testing.assert_close(mine, other, rtol=0, atol=TOLERANCE)
    # Whether the last one comes after the final norm of pre-norm models differs between versions of theirs.
    last = [(mine - expected.hidden_states[-1]).abs().max() for mine in (pairs[-1][0], out.features[-1])]
    assert min(last) <= TOLERANCE
    torch.testing.assert_close(out.features[-1], expected.last_hidden_state, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("variant", VARIANTS)
def test_theirs_read_by_us(tmp_path, variant):
    model = reference(variant)
    model.save_pretrained(tmp_path)
    ours = load_teacher(tmp_path)
    assert not ours.training
    assert ours.config.normalize_input == (variant == "large")
    assert ours.config.activation_dropout == 0.1 and ours.config.layerdrop == 0.1
    assert_same(ours, model)


@pytest.mark.parametrize("variant", VARIANTS)
def test_ours_read_by_them(tmp_path, variant):
    ours = encoder(variant)
    assert huggingface.write(ours, tmp_path / "new" / "folder") == tmp_path / "new" / "folder"
    loaded, report = transformers.HubertModel.from_pretrained(
        tmp_path / "new" / "folder", output_loading_info=True
    )
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"]
    assert_same(ours, loaded.eval())
    extractor = transformers.AutoFeatureExtractor.from_pretrained(tmp_path / "new" / "folder")
    assert extractor.do_normalize == ours.config.normalize_input and extractor.sampling_rate == 16_000


@pytest.mark.parametrize("variant", VARIANTS)
def test_round_trip_is_exact(tmp_path, variant):
    ours = encoder(variant)
    again = load_teacher(huggingface.write(ours, tmp_path, {"made": "by a test"}))
    assert again.config == ours.config
    for name, weight in ours.state_dict().items():
        assert torch.equal(weight, again.state_dict()[name]), name
    info = inspect(tmp_path)
    assert info.kind == ("student" if variant == "student" else "teacher")
    assert info.provenance["made"] == "by a test"


def test_a_student_goes_without_its_heads(tmp_path):
    student = Student.from_teacher(encoder("base"), layers=2, targets=(1, 3)).eval()
    export(student, "huggingface", tmp_path)
    assert_same(student.encoder, transformers.HubertModel.from_pretrained(tmp_path).eval())


def test_ctc_models_and_pickled_weights(tmp_path):
    base = reference("base")
    model = transformers.HubertForCTC(base.config).eval()
    model.hubert.load_state_dict(base.state_dict())
    base.config.save_pretrained(tmp_path)
    names = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
    state = model.state_dict()
    for new, old in names.items():  # as torch wrote them before 2.1
        state = {key.replace(new, old): value for key, value in state.items()}
    assert any(key.endswith("weight_g") for key in state) and "lm_head.weight" in state
    torch.save(state, tmp_path / "pytorch_model.bin")
    assert_same(load_teacher(tmp_path), base)
    assert_same(load_teacher(tmp_path / "pytorch_model.bin"), base)


def edit(folder: Path, **changes) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"model_type": "data2vec-audio"},
            "model of type 'data2vec-audio', expected 'hubert' or 'wav2vec2' or 'wavlm'",
        ),
        ({"model_type": "wavlm"}, "is a WavLM by its config.json, but its weights have no relative position"),
        ({"hidden_act": "relu"}, "hidden_act is 'relu' in config.json, expected 'gelu'"),
        ({"conv_pos_batch_norm": True}, "conv_pos_batch_norm is True"),
        ({"num_attention_heads": 5}, "must be a multiple of heads"),
        ({"num_attention_heads": None}, "heads is 'None'"),
        ({"conv_stride": [5, 2]}, "7 convolutions but 2 strides"),
        ({"conv_stride": 5}, "conv_stride is 5 in config.json"),
        ({"conv_stride": ["5"] * 7}, "conv_layers is"),
        ({"do_stable_layer_norm": "no"}, "pre_norm is 'no'"),
    ],
)
def test_configurations_that_are_refused(tmp_path, changes, message):
    huggingface.write(encoder("base"), tmp_path)
    edit(tmp_path, **changes)
    with pytest.raises(CheckpointError, match=message) as error:
        load_teacher(tmp_path)
    assert "\n" not in str(error.value) and str(tmp_path) in str(error.value)


def test_damaged_folders(tmp_path):
    huggingface.write(encoder("base"), tmp_path)
    weights = tmp_path / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="not a readable safetensors file"):
        load_teacher(tmp_path)
    weights.unlink()
    with pytest.raises(CheckpointError, match=r"neither model\.safetensors nor pytorch_model\.bin"):
        load_teacher(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="not a readable JSON file"):
        load_teacher(tmp_path)


def test_a_hub_id_is_downloaded(tmp_path, monkeypatch):
    huggingface.write(encoder("base"), tmp_path)
    asked = []

    def snapshot_download(repo_id, allow_patterns):
        asked.append((repo_id, allow_patterns))
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    assert load_teacher("some-lab/hubert-mini").config == VARIANTS["base"]
    assert asked == [
        (
            "some-lab/hubert-mini",
            [
                *("config.json", "preprocessor_config.json"),
                *("model.safetensors", "model.safetensors.index.json", "model-*-of-*.safetensors"),
            ],
        )
    ]


def test_no_network_is_explained(monkeypatch):
    def snapshot_download(repo_id, allow_patterns):
        raise ConnectionError("no route to host\nand more lines")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    with pytest.raises(
        CheckpointError, match=r"no route to host\): check name and network, or give a folder"
    ) as e:
        load_teacher("some-lab/hubert-mini")
    assert "\n" not in str(e.value)


def test_wav2vec2_is_the_same_encoder(tmp_path):
    torch.manual_seed(0)
    config = transformers.Wav2Vec2Config(
        hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=48, conv_dim=[16] * 7,
        num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4, codevector_dim=8, proj_codevector_dim=8,
        num_codevectors_per_group=4, num_codevector_groups=2,
    )  # fmt: skip
    model = transformers.Wav2Vec2ForPreTraining(config).eval()
    for name, parameter in model.named_parameters():
        if "norm" in name:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    for whole in (model, model.wav2vec2):  # with and without its pre-training head
        whole.save_pretrained(tmp_path)
        ours = load_teacher(tmp_path)
        assert_same(ours, model.wav2vec2)
        assert inspect(tmp_path).provenance["model_type"] == "wav2vec2"
    exported = huggingface.write(ours, tmp_path / "as hubert")
    assert_same(ours, transformers.HubertModel.from_pretrained(exported).eval())


def test_distilhubert_of_the_hub(tmp_path):
    """As ntu-spml/distilhubert: two layers, no projection norm, weight norm's old names; smaller."""
    torch.manual_seed(0)
    config = transformers.HubertConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, conv_dim=[16] * 7,
        num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4, feat_proj_layer_norm=False,
        layerdrop=0.0, activation_dropout=0.1, final_dropout=0.0, feat_proj_dropout=0.0,
    )  # fmt: skip
    model = transformers.HubertModel(config).eval()
    config.save_pretrained(tmp_path)
    names = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
    state = model.state_dict() | {"masked_spec_embed": torch.zeros(32)}
    for new, old in names.items():
        state = {key.replace(new, old): value for key, value in state.items()}
    torch.save(state, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    assert_same(load_teacher(tmp_path), model)
    info = inspect(tmp_path)
    assert (info.kind, info.layers, info.targets) == ("student", 2, None)
