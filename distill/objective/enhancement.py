"""Enhancement: a head cleans the spectrogram of what the student hears (RobustDistiller).

Shapes: B utterances, T samples at 16 kHz, F frames of the student, C features, S frequencies.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distill.objective.options import EnhancementConfig
from distill.waveforms import frame_mask, to_device

_QUIETEST = 1e-4
"""Mean magnitude that counts as one, of clean speech that is more silent than any recording."""


class Enhancement(nn.Module):
    """Recurrent layers that predict a mask of the magnitude spectrogram from the student's features.

    Guimaraes et al. 2023 (arXiv 2302.09437) put it on the student's last layer, and the code that they
    published on the output of its CNN.

    Args:
        options: settings.
        student: configuration of the student's encoder.

    Raises:
        ValueError: the student has no CNN to put it on.
    """

    window: Tensor

    def __init__(self, options: EnhancementConfig, student: Any):
        super().__init__()
        self.config = student
        if options.place == "cnn" and student.family != "hubert":
            raise ValueError("objective.enhancement.place: a SPIRAL has no cnn of its own, set it to last")
        dim = student.dim if options.place == "last" else student.conv_layers[-1][0]
        self.rnn = nn.LSTM(dim, options.dim, options.layers, batch_first=True, bidirectional=True)
        size = 2 * student.hop  # samples
        self.mask = nn.Linear(2 * options.dim, size // 2 + 1)
        self.register_buffer("window", torch.hann_window(size), persistent=False)

    def spectrogram(self, waveforms: Tensor, lengths: Tensor, frames: int) -> Tensor:
        """Magnitudes of windows of two hops around the student's frames. (B, T) -> (B, F, S).

        Args:
            waveforms: (B, T).
            lengths: (B,) valid samples; whatever follows counts as silence.
            frames: F.
        """
        hop, size = self.config.hop, len(self.window)
        valid = frame_mask(to_device(lengths, waveforms.device), waveforms.shape[1])
        before = hop - self.config.middle  # which is the middle of the first window
        after = (frames - 1) * hop + size - before - waveforms.shape[1]
        padded = F.pad(waveforms.float().masked_fill(~valid, 0.0), (before, after))
        return torch.fft.rfft(padded.unfold(1, size, hop) * self.window).abs()

    def forward(
        self,
        features: Tensor,
        heard: Tensor,
        clean: Tensor,
        lengths: Tensor,
        left_out: Tensor,
        n_frames: Tensor | float,
    ) -> Tensor:
        """L1 distance of the masked and the clean magnitudes, relative to the mean clean one.

            sum_f 1/S |m_f * Y_f - X_f|_1 / (mean of the utterance's X),  divided by n_frames

        with Y the magnitudes of what the student hears, X those of the clean speech, m in [0, 1] the mask.

        Args:
            features: (B, F, C) of the student.
            heard: (B, T), what the student hears.
            clean: (B, T), the speech before any distortion.
            lengths: (B,) valid samples, on the CPU.
            left_out: (B,) bool, utterances that count 0: their clean speech is not what is to be heard.
            n_frames: what the sum over frames is divided by (see `distillation_loss`).
        """
        n_valid = self.config.frames(lengths)  # (B,), on the CPU
        valid = frame_mask(to_device(n_valid, features.device), features.shape[1])
        with torch.autocast(features.device.type, enabled=False):
            noisy, target = (self.spectrogram(x, lengths, features.shape[1]) for x in (heard, clean))
            # Packed: the backward direction begins at the last valid frame, whatever is behind it.
            packed = nn.utils.rnn.pack_padded_sequence(
                features.float().masked_fill(~valid[:, :, None], 0.0),
                *(n_valid, True),
                enforce_sorted=False,
            )
            hidden, _ = nn.utils.rnn.pad_packed_sequence(
                self.rnn(packed)[0], batch_first=True, total_length=features.shape[1]
            )
            error = (self.mask(hidden).sigmoid() * noisy - target).abs().mean(2)  # (B, F)
            level = (target.mean(2) * valid).sum(1) / valid.sum(1)
            relative = error.masked_fill(~valid, 0.0).sum(1) / level.clamp(min=_QUIETEST)
            return relative.masked_fill(left_out, 0.0).sum() / n_frames
