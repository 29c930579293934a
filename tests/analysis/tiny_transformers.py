"""Small models of transformers with random weights, in folders as `save_pretrained` writes them."""

import json
from pathlib import Path

import torch
import transformers

SYMBOLS = ("<pad>", "<unk>", "|", "'", *"ABCDEFGHIJKLMNOPQRSTUVWXYZ")
SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "conv_dim": [16] * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "pad_token_id": 0,
}
LAYER_NORM = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}
KINDS = {
    "wav2vec2": ("Wav2Vec2", {}),
    "wav2vec2-large": ("Wav2Vec2", LAYER_NORM),
    "hubert": ("Hubert", {}),
    "hubert-large": ("Hubert", LAYER_NORM),
    "wavlm": ("WavLM", {}),
    "unispeech-sat": ("UniSpeechSat", {}),
    "data2vec": ("Data2VecAudio", {"num_conv_pos_embeddings": 5, "conv_pos_kernel_size": 9}),
    "conformer": ("Wav2Vec2Conformer", {}),
}
"""Name of the classes and settings, by a name of our own."""


def make(kind: str, folder: Path, *, ctc: bool = False, **settings) -> Path:
    """A model without its processor."""
    name, own = KINDS[kind]
    if ctc:
        settings = {"vocab_size": len(SYMBOLS), "ctc_loss_reduction": "mean"} | settings
    config = getattr(transformers, f"{name}Config")(**SMALL | own | settings)
    torch.manual_seed(0)
    model = getattr(transformers, f"{name}{'ForCTC' if ctc else 'Model'}")(config).eval()
    with torch.no_grad():  # speech-like spread: with fresh weights, all frames are alike
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(2.0)
    model.save_pretrained(folder)
    return folder


def add_processor(folder: Path, *, symbols=SYMBOLS, pad="<pad>", **settings) -> Path:
    """A feature extractor with these settings, and a tokenizer of these symbols."""
    extractor = transformers.Wav2Vec2FeatureExtractor(**settings)
    vocabulary = folder / "vocabulary.json"
    vocabulary.write_text(json.dumps({symbol: number for number, symbol in enumerate(symbols)}))
    tokenizer = transformers.Wav2Vec2CTCTokenizer(
        str(vocabulary), pad_token=pad, unk_token="<unk>", bos_token=None, eos_token=None
    )
    transformers.Wav2Vec2Processor(feature_extractor=extractor, tokenizer=tokenizer).save_pretrained(folder)
    return folder
