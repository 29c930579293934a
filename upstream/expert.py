"""Our models under s3prl's contract for upstreams.

Shapes: B utterances, T samples at 16 kHz, F frames, D features, L layers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from distill.checkpoints.loading import load_any
from distill.student import Student
from distill.waveforms import check_samples


class UpstreamExpert(nn.Module):
    """A student's encoder, or a teacher, as s3prl's upstream.

    An utterance gets the same frames alone and in any batch. s3prl counts one frame for each hop begun (or
    rounds), which is up to one frame too many. So each utterance's last frame is repeated to the end of
    the batch, as `S3PRLUpstream` itself does for the longest one.

    Unlike s3prl's expert for DistilHuBERT, this one has no prediction heads, whose outputs would otherwise
    take part in the weighted sum. The CNN's gradient is scaled by the model's `cnn_grad_scale` (0.1 in our
    students).

    Example:
        >>> expert = UpstreamExpert("random:mini").eval()
        >>> len(expert([torch.randn(16_000), torch.randn(12_000)])["hidden_states"])
        7
    """

    def __init__(self, ckpt: str | Path, **kwargs: Any):
        """Load a model, in eval mode.

        Args:
            ckpt: whatever `distill.load_student` or `distill.load_teacher` reads.
            **kwargs: what s3prl gives every expert (`model_config`, `refresh`); ignored.

        Raises:
            CheckpointError: saying what was found and what was expected.
        """
        super().__init__()
        model = load_any(ckpt)[0]
        self.model = model.encoder if isinstance(model, Student) else model
        self.eval()

    def get_downsample_rates(self, key: str) -> int:
        """Samples per frame, the same for every key: 320 for every published HuBERT, 1280 for SPIRAL."""
        return self.model.config.hop

    def forward(self, wavs: list[Tensor]) -> dict[str, Any]:
        """Encode utterances.

        Args:
            wavs: B waveforms (T,) at 16 kHz, of any lengths; those too short for a frame are padded with
                silence.

        Returns:
            "hidden_states": L + 1 tensors (B, F, D), [0] the transformer's input, then each layer's output,
            the last one after the final layer norm of pre-norm models, as in s3prl's own expert of HuBERT;
            "last_hidden_state" and "paper": z, that last one.

        Raises:
            ValueError: for a waveform of another shape, integer samples, or none at all.
        """
        for index, wav in enumerate(wavs):
            check_samples(f"wavs[{index}]", wav)
            if wav.dim() != 1:
                raise ValueError(
                    f"wavs[{index}] is {tuple(wav.shape)}, expected (T,): one channel of one utterance each"
                )
        if not len(wavs):
            raise ValueError("wavs is empty: give one waveform (T,) or more")
        lengths = torch.tensor([len(wav) for wav in wavs]).clamp_min(self.model.config.min_samples)
        waveforms = pad_sequence(wavs, batch_first=True)  # (B, T)
        waveforms = nn.functional.pad(waveforms, (0, max(0, int(lengths.max()) - waveforms.shape[1])))
        # Equal lengths are full rows: without masks the model is faster, and the same.
        padded = bool((lengths != lengths[0]).any())
        out = self.model(waveforms, lengths if padded else None)
        hidden_states = out.features
        if padded:
            hidden_states = [_repeat_last(h, out.lengths) for h in hidden_states]
        z = hidden_states[-1]
        return {"hidden_states": hidden_states, "last_hidden_state": z, "paper": z}


def _repeat_last(x: Tensor, lengths: Tensor) -> Tensor:
    """Every frame after an utterance's last valid one becomes a copy of it. x (B, F, D), lengths (B,)."""
    frames = torch.arange(x.shape[1], device=x.device)
    index = torch.minimum(frames, lengths.to(x.device)[:, None] - 1)  # (B, F)
    return x.gather(1, index[:, :, None].expand_as(x))
