"""MFCC, the features of HuBERT's first iteration, and their labels at the frame rate of an encoder.

Shapes: T samples at 16 kHz, F frames of an encoder, F' frames of MFCC at 100 Hz.
"""

from __future__ import annotations

import torch
from torch import Tensor

from distill.hubert import HubertConfig
from distill.waveforms import SAMPLE_RATE

WINDOW = SAMPLE_RATE // 40  # samples that a frame of MFCC sees, 25 ms: Kaldi's default
STEP = SAMPLE_RATE // 100  # samples from one to the next
WIDTH = 39


def mfcc_features(waveform: Tensor) -> Tensor:
    """13 Kaldi MFCC with their first and second differences: the features of HuBERT's first iteration.

    Args:
        waveform: (T,) at 16 kHz, at least one window of 25 ms.

    Returns:
        (F', 39) float32, F' = (T - WINDOW) // STEP + 1: of HuBERT's own frames, at 50 Hz, each sees exactly
        the samples of every second one of these.

    Raises:
        ValueError: if the waveform is not 1-D or too short.
    """
    from torchaudio.compliance.kaldi import mfcc
    from torchaudio.functional import compute_deltas

    if waveform.dim() != 1 or len(waveform) < WINDOW:
        raise ValueError(f"waveform must be (T,) with T >= {WINDOW}, not {tuple(waveform.shape)}")
    static = mfcc(waveform[None].float(), sample_frequency=SAMPLE_RATE, use_energy=False).T  # (13, F')
    first = compute_deltas(static)
    return torch.cat([static, first, compute_deltas(first)]).T.contiguous()


def check_rate(model: HubertConfig) -> None:
    """Refuse models whose frames are not a whole number of MFCC frames apart.

    Raises:
        ValueError: naming the rates.
    """
    if model.hop % STEP:
        raise ValueError(
            f"MFCC are {STEP} samples apart, the model's frames {model.hop}: they cannot be its targets, as "
            f"that is no multiple of {STEP}; take those of a layer of a model (features=layer)"
        )


def align_labels(labels_100hz: Tensor, n_frames: int, model: HubertConfig | None = None) -> Tensor:
    """Labels at 100 Hz -> one per encoder frame, of the MFCC frame whose middle is nearest to its own.

    At HuBERT's 50 Hz that is every second one: frame i of the encoder sees what frame 2 i of the MFCC does.
    With `mfcc_features` of the same waveform nothing is ever missing at the end; labels made elsewhere may be
    a frame or two off, and are cut, or the last one is repeated.

    Args:
        labels_100hz: (F',), F' > 0.
        n_frames: F, frames that the encoder gives.
        model: the encoder's configuration; default: as HuBERT base.

    Raises:
        ValueError: if there is no label at all, or not 1-D, or for a frame rate that does not fit.
    """
    model = model or HubertConfig()
    check_rate(model)
    if labels_100hz.dim() != 1 or not len(labels_100hz):
        raise ValueError(f"labels_100hz must be (F',) with F' > 0, not {tuple(labels_100hz.shape)}")
    first = round((model.receptive_field - WINDOW) / 2 / STEP)  # its middle is that of the model's first
    index = first + model.hop // STEP * torch.arange(n_frames)
    return labels_100hz[index.clamp(0, len(labels_100hz) - 1)]
