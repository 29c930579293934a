"""Features of HuBERT's second iteration: the output of a layer of the model trained before.

Shapes: B utterances, T samples at 16 kHz, F frames, D features.
"""

from __future__ import annotations

import torch
from torch import Tensor

from distill.encoder import EncoderOutput
from distill.hubert import HubertConfig, HubertEncoder

MAX_FRAMES = 5_000  # 100 s of HuBERT's: longer recordings go through the encoder in parts, as in fairseq


@torch.no_grad()
def layer_features(encoder: HubertEncoder, waveform: Tensor, layer: int) -> Tensor:
    """The output of one transformer layer, without dropout whatever mode the encoder is in.

    Recordings of more than MAX_FRAMES frames are encoded in equal parts, whose frames are those of the whole.

    Args:
        encoder: on any device.
        waveform: (T,) at 16 kHz.
        layer: 1 is the first; HuBERT base used 6 for its second iteration, 9 for large models. The last one
            is taken after the final layer norm of pre-norm models.

    Returns:
        (F, D) float32 on the CPU.

    Raises:
        ValueError: if there is no such layer, or the waveform is not 1-D or too short.
    """
    if not 1 <= layer <= encoder.config.layers:
        raise ValueError(f"layer must be in 1..{encoder.config.layers}, not {layer}")
    if waveform.dim() != 1:
        raise ValueError(f"waveform must be (T,), not {tuple(waveform.shape)}")
    was_training = encoder.training
    encoder.eval()
    try:
        device = next(encoder.parameters()).device
        features = [
            _layer(encoder(part[None].to(device)), layer, encoder.config.layers)[0].float().cpu()
            for part in _parts(waveform, encoder.config)
        ]
        return torch.cat(features)
    finally:
        encoder.train(was_training)


def _layer(out: EncoderOutput, layer: int, layers: int) -> Tensor:
    """(B, F, D). The encoder may have been cut after the layer: then that is not the last of the model."""
    return out.last_hidden_state if layer == layers else out.hidden_states[layer]


def _parts(waveform: Tensor, config: HubertConfig) -> list[Tensor]:
    """Stretches of at most MAX_FRAMES frames that share no frame and lose none."""
    frames = config.frames(len(waveform))
    n_parts = max(1, -(-frames // MAX_FRAMES))
    starts = [frames * part // n_parts for part in range(n_parts + 1)]
    hop = config.hop
    overlap = config.receptive_field - hop  # a frame sees more than the hop to the next
    stops = [hop * start + overlap for start in starts[1:-1]] + [len(waveform)]
    return [waveform[hop * start : stop] for start, stop in zip(starts, stops, strict=False)]
