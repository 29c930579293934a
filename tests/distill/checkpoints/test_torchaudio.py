"""State dicts and bundles of torchaudio, against its own models, both ways."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torchaudio
from torch import nn

from distill.checkpoints import export, inspect, load_teacher
from distill.errors import CheckpointError
from distill.hubert import PRESETS, HubertEncoder
from distill.waveforms import normalize_waveforms

TOLERANCE = 1e-5  # measured: 0
CONVS = [(16, kernel, stride) for _, kernel, stride in PRESETS["mini"].conv_layers]


def reference(variant: str, **changes) -> nn.Module:
    """A random model made by torchaudio alone."""
    torch.manual_seed(0)
    large = variant == "large"
    arguments = {
        "extractor_mode": "layer_norm" if large else "group_norm", "extractor_conv_layer_config": CONVS,
        "extractor_conv_bias": large, "encoder_embed_dim": 32, "encoder_projection_dropout": 0.05,
        "encoder_pos_conv_kernel": 16, "encoder_pos_conv_groups": 4, "encoder_num_layers": 3,
        "encoder_num_heads": 4, "encoder_attention_dropout": 0.2, "encoder_ff_interm_features": 48,
        "encoder_ff_interm_dropout": 0.3, "encoder_dropout": 0.15, "encoder_layer_norm_first": large,
        "encoder_layer_drop": 0.05, "aux_num_out": None,
    }  # fmt: skip
    model = torchaudio.models.wav2vec2_model(**(arguments | changes)).eval()
    for name, parameter in model.named_parameters():
        if "norm" in name:  # ones and zeros would hide a mix-up
            nn.init.uniform_(parameter, 0.5, 1.5)
    return model


@torch.no_grad()
def assert_same(ours: HubertEncoder, theirs) -> None:
    waves = torch.randn(2, 9000, generator=torch.Generator().manual_seed(2)) * 3 + 0.5
    out = ours(waves)
    waves = normalize_waveforms(waves, None) if ours.config.normalize_input else waves
    features, _ = theirs.extract_features(waves)
    assert len(features) == ours.config.layers
    for mine, other in zip(out.hidden_states[1:], features, strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=TOLERANCE)
    final, lengths = theirs(waves, torch.tensor([9000, 9000]))
    torch.testing.assert_close(out.last_hidden_state, final, rtol=0, atol=TOLERANCE)
    assert out.lengths.tolist() == lengths.tolist()


class Bundle:
    """Stands in for a bundle of torchaudio, whose weights would be downloaded."""

    def __init__(self, model: nn.Module):
        self.model = model

    def get_model(self, *, dl_kwargs: dict) -> nn.Module:
        assert dl_kwargs == {"weights_only": True}
        return self.model


@pytest.mark.parametrize("variant", ["base", "large"])
def test_bundles(monkeypatch, variant):
    from torchaudio.pipelines._wav2vec2 import utils

    theirs = reference(variant)
    wrapped = utils._extend_model(theirs, normalize_waveform=True) if variant == "large" else theirs
    monkeypatch.setattr(torchaudio.pipelines, "HUBERT_BASE", Bundle(wrapped))
    ours = load_teacher("HUBERT_BASE")
    config = ours.config
    assert config.normalize_input == config.pre_norm == (variant == "large")
    assert (config.heads, config.dropout, config.attention_dropout) == (4, 0.15, 0.2)
    assert (config.activation_dropout, config.projection_dropout, config.layerdrop) == (0.3, 0.05, 0.05)
    assert_same(ours, theirs)
    info = inspect("HUBERT_BASE")
    assert (info.format, info.provenance) == ("torchaudio", {"bundle": "HUBERT_BASE"})


def test_fine_tuned_bundles_without_their_aux(monkeypatch):
    theirs = reference("base", aux_num_out=29)
    monkeypatch.setattr(torchaudio.pipelines, "WAV2VEC2_ASR_BASE_960H", Bundle(theirs))
    ours = load_teacher("WAV2VEC2_ASR_BASE_960H")
    theirs.register_module("aux", None)  # what it has on top, out of the way
    assert_same(ours, theirs)


def test_bundles_that_cannot_be_had(monkeypatch):
    def offline(*_, **__):
        raise OSError("<urlopen error no route to host>")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", offline)
    monkeypatch.setattr("torchaudio.pipelines._wav2vec2.utils.load_state_dict_from_url", offline)
    monkeypatch.setattr("torchaudio.pipelines._wav2vec2.utils._get_model", lambda *_: None)
    messages = {
        "HUBERT_BASE": r"bundle HUBERT_BASE is not in the cache, and downloading it failed .*no route",
        "HUBERT_BAES": "torchaudio has no bundle HUBERT_BAES: did you mean HUBERT_BASE",
        "WAVLM_BASE": "WAVLM_BASE is a WavLM in torchaudio's layout, which is not read: take microsoft",
    }
    for name, message in messages.items():
        with pytest.raises(CheckpointError, match=message) as error:
            load_teacher(name)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("variant", ["base", "large"])
def test_round_trip_through_torchaudio(tmp_path, variant):
    torch.manual_seed(1)
    base = {"conv_layers": tuple(CONVS), "dim": 32, "ffn_dim": 48, "layers": 2, "position_groups": 4}
    large = {"conv_norm": "layer", "conv_bias": True, "normalize_input": True, "pre_norm": True}
    ours = HubertEncoder.from_preset("mini", **(base | (large if variant == "large" else {}))).eval()
    assert (
        export(ours, "torchaudio", tmp_path, provenance={"made": "by a test"}) == tmp_path / "torchaudio.pt"
    )
    described = json.loads((tmp_path / "torchaudio.json").read_text())
    theirs = torchaudio.models.wav2vec2_model(**described["wav2vec2_model"]).eval()
    theirs.load_state_dict(torch.load(tmp_path / "torchaudio.pt", weights_only=True))
    assert_same(ours, theirs)
    again = load_teacher(tmp_path / "torchaudio.pt")
    assert again.config == ours.config
    for name, weight in ours.state_dict().items():
        assert torch.equal(again.state_dict()[name], weight), name
    assert inspect(tmp_path).provenance == {"made": "by a test"}


def test_the_published_base_needs_no_description(tmp_path):
    """Both flavours of weight norm's names, and the prefix that a pre-training model has."""
    torch.manual_seed(0)
    theirs = torchaudio.models.wav2vec2_model(  # hubert_base, but one layer
        "group_norm", None, False, 768, 0.0, 128, 16, 1, 12, 0.1, 3072, 0.0, 0.1, False, 0.0, None
    ).eval()
    state = theirs.state_dict()
    torch.save(state, tmp_path / "new.pt")
    flavours = {
        "parametrizations.weight.original0": "weight_g",
        "parametrizations.weight.original1": "weight_v",
    }
    for new, old in flavours.items():
        state = {key.replace(new, old): value for key, value in state.items()}
    assert any(key.endswith("weight_g") for key in state)
    pretrained = {f"wav2vec2.{key}": value for key, value in state.items()}
    pretrained |= {
        "mask_generator.mask_embedding": torch.zeros(768),
        "logit_generator.label_embeddings": torch.ones(9),
    }
    torch.save(pretrained, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    ours = load_teacher(tmp_path / "old.pt")
    assert ours.config == replace(PRESETS["base"], layers=1)
    assert_same(ours, theirs)
    again = load_teacher(tmp_path / "new.pt").state_dict()
    assert all(torch.equal(weight, again[name]) for name, weight in ours.state_dict().items())


def test_an_unpublished_size_needs_its_arguments(tmp_path):
    theirs = reference("base")
    path: Path = tmp_path / "small.pt"
    torch.save(theirs.state_dict(), path)
    with pytest.raises(
        CheckpointError, match=r"size that is not published: put .*encoder_num_heads.*small\.json"
    ):
        load_teacher(path)
    described: dict[str, Any] = {"encoder_num_heads": 4}
    path.with_suffix(".json").write_text(json.dumps({"wav2vec2_model": described}))
    with pytest.raises(CheckpointError, match="small.json does not say encoder_layer_norm_first"):
        load_teacher(path)
    described["encoder_layer_norm_first"] = False
    path.with_suffix(".json").write_text(json.dumps({"wav2vec2_model": described}))
    assert_same(load_teacher(path), theirs)
    described["encoder_num_heads"] = "4"
    path.with_suffix(".json").write_text(json.dumps({"wav2vec2_model": described}))
    with pytest.raises(CheckpointError, match="heads is '4', expected a value such as"):
        load_teacher(path)


def test_wavlm_and_others_are_refused(tmp_path):
    path = tmp_path / "model.pt"
    torch.save(reference("base").state_dict() | {"encoder.transformer.extra": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match="torchaudio's HuBERT does not have: encoder.transformer.extra"):
        load_teacher(path)
    names = ("attention.rel_attn_embed.weight", "attention.gru_rel_pos_const")
    wavlm = {f"encoder.transformer.layers.0.{name}": torch.zeros(1) for name in names}
    torch.save(reference("base").state_dict() | wavlm, path)
    with pytest.raises(CheckpointError, match="is a WavLM in torchaudio's layout, which is not read"):
        load_teacher(path)
