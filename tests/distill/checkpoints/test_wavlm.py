"""WavLM teachers: folders of transformers and Microsoft's .pt, against both programs' own models."""

from pathlib import Path

import pytest
import torch

from distill.adaptation.masked_prediction import MaskedPrediction
from distill.batch import Batch
from distill.checkpoints import export, inspect, load_student, load_teacher
from distill.errors import CheckpointError
from distill.hubert import HubertEncoder
from distill.optim import OptimConfig
from distill.student import Student
from distill.waveforms import normalize_waveforms

transformers = pytest.importorskip("transformers")

KINDS = ("base", "large", "wide")
TOLERANCE = 1e-4


def reference(kind: str):
    """A random model of transformers; everything that is 0 or 1 in a new one is moved, to show a mix-up."""
    torch.manual_seed(0)
    large = kind == "large"
    shape = {"hidden_size": 48, "num_attention_heads": 6} if kind == "wide" else {}
    config = transformers.WavLMConfig(
        **{"hidden_size": 32, "num_attention_heads": 4, **shape}, num_hidden_layers=3, intermediate_size=40,
        conv_dim=[16] * 7, num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4,
        do_stable_layer_norm=large, feat_extract_norm="layer" if large else "group",
        num_buckets=320 if kind == "base" else 32, max_bucket_distance=800 if kind == "base" else 70,
    )  # fmt: skip
    model = transformers.WavLMModel(config)
    for name, parameter in model.named_parameters():
        if "norm" in name or "const" in name:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
        if "rel_attn_embed" in name or "gru_rel_pos_linear" in name:
            torch.nn.init.normal_(parameter)
    return model.eval()


TO_ORIGINAL = (
    ("feature_projection.projection", "post_extract_proj"),
    ("feature_projection.layer_norm", "layer_norm"),
    ("pos_conv_embed.conv.parametrizations.weight.original0", "pos_conv.0.weight_g"),
    ("pos_conv_embed.conv.parametrizations.weight.original1", "pos_conv.0.weight_v"),
    ("pos_conv_embed.conv.bias", "pos_conv.0.bias"),
    (".feed_forward.intermediate_dense.", ".fc1."),
    (".feed_forward.output_dense.", ".fc2."),
    ("attention.gru_rel_pos_linear", "self_attn.grep_linear"),
    ("attention.gru_rel_pos_const", "self_attn.grep_a"),
    ("attention.rel_attn_embed", "self_attn.relative_attention_bias"),
    (".attention.", ".self_attn."),
    ("masked_spec_embed", "mask_emb"),
)


def original(model, **changes) -> dict:
    """The same weights as Microsoft lays them out."""
    config, tensors = model.config, {}
    large = config.do_stable_layer_norm
    for name, tensor in model.state_dict().items():
        for theirs, microsofts in TO_ORIGINAL:
            name = name.replace(theirs, microsofts)
        if name.startswith("feature_extractor"):
            name = name.replace(".conv.", ".0.").replace(".layer_norm.", ".2.1." if large else ".2.")
        elif name.startswith("encoder.layers"):
            name = name.replace(".layer_norm.", ".self_attn_layer_norm.")
        tensors[name] = tensor.clone()
    cfg = {
        "extractor_mode": "layer_norm" if large else "default", "encoder_layers": 3,
        "encoder_embed_dim": config.hidden_size, "encoder_ffn_embed_dim": 40,
        "encoder_attention_heads": config.num_attention_heads, "activation_fn": "gelu",
        "layer_norm_first": large, "conv_bias": False, "normalize": large,
        "conv_feature_layers": "[(16,10,5)] + [(16,3,2)] * 4 + [(16,2,2)] * 2",
        "conv_pos": 16, "conv_pos_groups": 4, "relative_position_embedding": True,
        "num_buckets": config.num_buckets, "max_distance": config.max_bucket_distance, "gru_rel_pos": True,
        "encoder_layerdrop": 0.05, "feature_grad_mult": 0.1,
    }  # fmt: skip
    return {"cfg": cfg | changes, "model": tensors}


@torch.no_grad()
def assert_same(ours: HubertEncoder, theirs) -> None:
    """Every hidden state, of one utterance and of each row of a padded batch: 2 s, past the last bucket."""
    generator = torch.Generator().manual_seed(2)
    lengths = torch.tensor([32_000, 9_000, 400])
    waves = torch.randn(3, 32_000, generator=generator) * 3 + 0.5
    for row, length in enumerate(lengths):
        waves[row, length:] = 0.0
    heard = normalize_waveforms(waves, lengths) if ours.config.normalize_input else waves
    together = ours(waves, lengths)
    mask = (torch.arange(32_000) < lengths[:, None]).long()
    batch = theirs(heard, attention_mask=mask, output_hidden_states=True)
    for row, length in enumerate(lengths.tolist()):
        alone = ours(waves[row : row + 1, :length])
        expected = theirs(heard[row : row + 1, :length], output_hidden_states=True)
        frames = alone.last_hidden_state.shape[1]
        for index, wanted in enumerate(expected.hidden_states):
            last = index == len(expected.hidden_states) - 1
            found = alone.last_hidden_state if last else alone.hidden_states[index]
            padded = together.last_hidden_state if last else together.hidden_states[index]
            wanted = expected.last_hidden_state if last else wanted
            torch.testing.assert_close(found, wanted, rtol=0, atol=TOLERANCE)
            torch.testing.assert_close(padded[row, :frames], found[0], rtol=0, atol=1e-5)
            if ours.config.conv_norm == "layer":  # transformers does not mask group norms
                theirs_padded = batch.last_hidden_state if last else batch.hidden_states[index]
                torch.testing.assert_close(
                    padded[row, :frames], theirs_padded[row, :frames], rtol=0, atol=TOLERANCE
                )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layout", ["huggingface", "wavlm"])
def test_every_hidden_state_is_theirs(tmp_path, kind, layout):
    model = reference(kind)
    source = tmp_path
    if layout == "huggingface":
        model.save_pretrained(tmp_path)
    else:
        source = tmp_path / "WavLM.pt"
        torch.save(original(model), source)
    ours = load_teacher(source)
    assert isinstance(ours, HubertEncoder) and not ours.training
    assert ours.config.normalize_input == (kind == "large")
    assert_same(ours, model)
    info = inspect(source)
    assert (info.format, info.kind, info.layers) == (layout, "teacher", 3)
    assert any(line.split() == ["family", "WavLM"] for line in info.lines())


def test_microsofts_own_code_reads_the_file_of_this_test(tmp_path):
    """The copy that s3prl has: the layout that the renaming table makes is that of the published files."""
    module = pytest.importorskip("s3prl.upstream.wavlm.WavLM")
    for kind in KINDS:
        contents = original(reference(kind))
        theirs = module.WavLM(module.WavLMConfig(contents["cfg"]))
        theirs.load_state_dict(contents["model"])
        torch.save(contents, tmp_path / "WavLM.pt")
        waves = torch.randn(1, 9000, generator=torch.Generator().manual_seed(3))
        ours = load_teacher(tmp_path / "WavLM.pt")
        heard = normalize_waveforms(waves, None) if ours.config.normalize_input else waves
        seen: list[torch.Tensor] = []
        for layer in theirs.encoder.layers:
            layer.register_forward_hook(lambda *call, seen=seen: seen.append(call[2][0]))
        with torch.no_grad():
            last, _ = theirs.eval().extract_features(heard)
            found = ours(waves)
        torch.testing.assert_close(found.last_hidden_state, last, rtol=0, atol=TOLERANCE)
        for mine, other in zip(found.hidden_states[1:], seen, strict=True):
            torch.testing.assert_close(mine, other.transpose(0, 1), rtol=0, atol=TOLERANCE)


@pytest.fixture
def file(tmp_path) -> Path:
    return tmp_path / "WavLM.pt"


def without(contents: dict, part: str) -> dict:
    """A checkpoint without the weights that have this in their name."""
    kept = {name: value for name, value in contents["model"].items() if part not in name}
    return {**contents, "model": kept}


def moved(contents: dict, old: str, new: str) -> dict:
    return {**contents, "model": {name.replace(old, new): v for name, v in contents["model"].items()}}


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (lambda c: without(c, "grep_"), "has no gates on its relative position bias .gru_rel_pos."),
        (lambda c: without(c, "relative_att"), "has no relative position bias .relative_position_embedding."),
        (lambda c: without(without(c, "relative_att"), "grep_"), "laid out as a WavLM, but has no relative"),
        (lambda c: without(c, "layers.1.self_attn.grep_a"), r"layers\.1\.gate_scale is missing"),
        (lambda c: moved(c, "layers.0.self_attn.rel", "layers.1.self_attn.rel"), "weights that a WavLM does"),
        (
            lambda c: {**c, "model": c["model"] | {"tdnn.0.kernel": torch.ones(1)}},
            "a WavLM does not have: tdnn",
        ),
        (lambda c: {**c, "cfg": c["cfg"] | {"num_buckets": 64}}, "num_buckets is 64 in 'cfg' but 320 by the"),
        (lambda c: {**c, "cfg": c["cfg"] | {"max_distance": 0}}, "relative_distance is '0'"),
        (lambda c: {**c, "cfg": c["cfg"] | {"max_distance": 80}}, "relative_distance larger than a quarter"),
        (lambda c: {**c, "cfg": c["cfg"] | {"layer_norm_first": "no"}}, "pre_norm is 'no'"),
        (lambda c: {**c, "cfg": {"relative_position_embedding": True}}, "how many attention heads"),
        (lambda c: {**c, "cfg": [1]}, "its 'cfg' is a list, expected a dict"),
        (lambda c: {**c, "cfg": c["cfg"] | {"encoder_attention_heads": 5}}, "must be a multiple of heads"),
    ],
)
def test_a_file_of_another_kind_is_refused_in_one_line(file, broken, message):
    torch.save(broken(original(reference("base"))), file)
    with pytest.raises(CheckpointError, match=message) as error:
        load_teacher(file)
    assert "\n" not in str(error.value) and str(file) in str(error.value)


def test_fairseqs_sections_and_its_default_distance(file):
    contents = original(reference("base"))
    flat = contents["cfg"]
    contents["cfg"] = {
        "model": {name: value for name, value in flat.items() if name != "normalize"},
        "task": {"normalize": True},
    }
    del contents["cfg"]["model"]["max_distance"]
    torch.save(contents, file)
    config = load_teacher(file).config
    assert config.normalize_input and config.relative_distance == 1280


def test_folders_of_another_kind(tmp_path):
    model = reference("base")
    speaker = transformers.WavLMForXVector(model.config)
    speaker.save_pretrained(tmp_path / "speaker")
    with pytest.raises(CheckpointError, match="holds weights that a WavLM does not have: feature_extractor"):
        load_teacher(tmp_path / "speaker")
    recogniser = transformers.WavLMForCTC(model.config)
    recogniser.wavlm.load_state_dict(model.state_dict())
    recogniser.save_pretrained(tmp_path / "ctc")
    assert_same(load_teacher(tmp_path / "ctc"), model)
    export(HubertEncoder.from_preset("mini"), "huggingface", tmp_path / "hubert")
    path = tmp_path / "hubert" / "config.json"
    path.write_text(path.read_text().replace('"hubert"', '"wavlm"'))
    with pytest.raises(
        CheckpointError, match=r"a WavLM by its config\.json, but its weights have no relative"
    ):
        load_teacher(tmp_path / "hubert")


@pytest.mark.parametrize("kind", KINDS)
def test_a_teacher_goes_to_transformers_and_back(tmp_path, file, kind):
    torch.save(original(reference(kind)), file)
    ours = load_teacher(file)
    loaded, report = transformers.WavLMModel.from_pretrained(
        export(ours, "huggingface", tmp_path / "folder"), output_loading_info=True
    )
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"]
    assert_same(ours, loaded.eval())
    assert load_teacher(tmp_path / "folder").config == ours.config
    assert "WavLMModel.from_pretrained" in (tmp_path / "folder" / "README.md").read_text()
    for format in ("fairseq", "torchaudio"):
        with pytest.raises(CheckpointError, match="this model has the relative position bias of WavLM"):
            export(ours, format, tmp_path / format)
    again = load_teacher(export(ours, "native", tmp_path / "native"))
    assert again.config == ours.config


@pytest.mark.parametrize("reuse", [False, True])
def test_a_student_keeps_bias_and_gates(tmp_path, file, reuse):
    torch.save(original(reference("base")), file)
    teacher = load_teacher(file)
    student = Student.from_teacher(teacher, layers=2, targets=(3,), reuse_attention=reuse).eval()
    theirs, ours = teacher.state_dict(), student.encoder.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    gates = {f"layers.{index}.gate_scale" for index in range(1 if reuse else 2)}
    assert {name for name in ours if "gate_scale" in name} == gates
    again = load_student(export(student, "native", tmp_path))
    waves = torch.randn(1, 9000)
    assert torch.equal(again(waves).predictions, student(waves).predictions)
    for format in ("huggingface", "s3prl", "fairseq", "torchaudio"):
        with pytest.raises(CheckpointError, match=f"cannot be exported to {format}") as error:
            export(student, format, tmp_path / format)
        assert "\n" not in str(error.value)
    student.train()(torch.randn(2, 9000), torch.tensor([9000, 5000])).predictions.sum().backward()
    assert all(parameter.grad is not None for parameter in student.parameters())
    assert student.encoder.relative.embedding.weight.grad.any()


def test_a_thin_student_has_a_table_of_its_own():
    teacher = HubertEncoder.from_preset("wavlm_mini", layers=2)
    student = Student.from_teacher(teacher, layers=2, targets="all", dim=32, reuse_attention=True)
    assert {"relative", "layers"} <= set(student.random_parts)
    assert student(torch.randn(1, 9000)).predictions.shape == (1, 2, 27, 128)
    kept = Student.from_teacher(teacher, layers=2, targets=(2,))
    assert not student.encoder.config.projection_norm and kept.random_parts == ()


def test_masked_prediction_adapts_it():
    encoder = HubertEncoder.from_preset("mini", layers=2, relative_buckets=32, relative_distance=80)
    waves, lengths = torch.randn(2, 16_000), torch.tensor([16_000, 12_000])
    mask = torch.zeros(2, 49, dtype=torch.bool)
    mask[:, 5:15] = True
    module = MaskedPrediction(encoder, 20, optim=OptimConfig(max_steps=9), final_dim=64)
    batch = Batch(["a", "b"], waves, lengths, targets=mask.long())
    module.loss(batch, mask).total.backward()
    assert encoder.relative is not None and encoder.relative.embedding.weight.grad.any()
