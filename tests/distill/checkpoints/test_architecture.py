"""What a file says about its model and what its weights say, in every format."""

import json

import pytest
import torch

from distill.checkpoints import export, load_teacher
from distill.checkpoints.loading import load_any
from distill.errors import CheckpointError
from distill.hubert import HubertEncoder
from tests.distill.checkpoints.small_models import (
    CONVS,
    FORMATS,
    SMALL,
    change_description,
    change_weights,
    made,
    of_layer,
)

_FAIRSEQ = {
    "encoder_layers": (2, 4),
    "encoder_embed_dim": (32,),
    "encoder_ffn_embed_dim": (48,),
    "conv_pos": (8,),
    "conv_pos_groups": (4,),
    "extractor_mode": ("layer_norm",),
}

_OTHER_CONVS = "[(8,10,5)] + [(8,3,2)] * 3 + [(8,4,2)] + [(8,2,2)] * 2"

LIES = {
    "huggingface": {
        **{"num_hidden_layers": (2, 4), "hidden_size": (32,), "intermediate_size": (48,)},
        **{"conv_dim": ([8] * 6 + [16],), "conv_kernel": ([10, 3, 3, 3, 3, 3, 2],), "conv_bias": (True,)},
        **{"num_feat_extract_layers": (6, 8), "conv_stride": ([5, 2, 2, 2, 2, 2],)},
        **{"num_conv_pos_embeddings": (8,), "num_conv_pos_embedding_groups": (4,)},
        **{"feat_extract_norm": ("layer",), "feat_proj_layer_norm": (False,), "num_attention_heads": (3,)},
    },
    "fairseq": _FAIRSEQ | {"conv_feature_layers": (_OTHER_CONVS,), "conv_bias": (True,)},
    "torchaudio": {
        **{"encoder_num_layers": (2, 4), "encoder_embed_dim": (32,), "encoder_ff_interm_features": (48,)},
        **{"extractor_conv_layer_config": ([*CONVS[:-1], (8, 3, 2)], CONVS[:-1], "8")},
        **{"extractor_conv_bias": (True,)},
        **{"encoder_pos_conv_kernel": (8,), "encoder_pos_conv_groups": (4,)},
        **{"extractor_mode": ("layer_norm",)},
    },
    "s3prl": _FAIRSEQ
    | {"extractor_conv_feature_layers": (_OTHER_CONVS,), "n_tasks": (3,)}
    | {"final_dim": (32,), "pred_layer_id": ([1],)},
    "native": {
        **{"layers": (2, 4), "dim": (32,), "ffn_dim": (48,), "conv_layers": (CONVS[:-1],)},
        **{"position_kernel": (8,), "position_groups": (4,), "conv_norm": ("layer",)},
        **{"conv_bias": (True,), "projection_norm": (False,)},
    },
}  # fmt: skip
# fmt: skip
CASES = [
    (format, key, lie) for format, lies in LIES.items() for key, values in lies.items() for lie in values
]


@pytest.mark.parametrize(("format", "key", "lie"), CASES)
def test_what_the_description_and_the_weights_both_say(tmp_path, format, key, lie):
    path = made(format, tmp_path)
    assert load_any(path)
    change_description(format, path, {key: lie})
    with pytest.raises(CheckpointError) as error:
        load_any(path)
    assert "\n" not in str(error.value) and str(tmp_path) in str(error.value)
    named = (
        "does not fit its architecture",
        "but holds",
        "strides are known",
        "impossible model",
        f"{key} is",
    )
    assert any(words in str(error.value) for words in named)


@pytest.mark.parametrize("format", FORMATS)
def test_layers_that_are_missing_or_surplus(tmp_path, format):
    def without_the_last(state: dict) -> dict:
        lost = of_layer(2, state)
        return {key: value for key, value in state.items() if key not in lost}

    def with_one_more(state: dict) -> dict:
        return state | {key.replace("layers.2.", "layers.3."): state[key] for key in of_layer(2, state)}

    for change, found in ((without_the_last, 2), (with_one_more, 4)):
        path = made(format, tmp_path / str(found))
        change_weights(format, path, change)
        with pytest.raises(
            CheckpointError, match=rf"3 in .* but {found} by the weights|3 layers but holds {found}"
        ):
            load_any(path)


def test_strides_that_nobody_states(tmp_path):
    """The published ones go with the published kernels alone: others would be another frame rate."""
    torch.manual_seed(0)
    odd = HubertEncoder.from_preset("mini", conv_layers=((8, 10, 5), *[(8, 4, 2)] * 6), **SMALL)
    path = export(odd, "huggingface", tmp_path)
    assert load_teacher(path).config.conv_layers == odd.config.conv_layers
    described = json.loads((path / "config.json").read_text())
    del described["conv_stride"]
    (path / "config.json").write_text(json.dumps(described))
    with pytest.raises(CheckpointError, match="does not state the strides .* the frame rate is unknown"):
        load_teacher(path)
    path = export(odd, "torchaudio", tmp_path / "torchaudio.pt")
    assert load_teacher(path).config.conv_layers == odd.config.conv_layers
