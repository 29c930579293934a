"""Lets s3prl 0.4.18 run on torchaudio >= 2.9 and huggingface_hub >= 1. Import it before s3prl.

    import distill.upstream.s3prl_compat
    import s3prl.hub

Importing it calls `apply`, which supplies what is missing or cannot work, and leaves alone what works. It
needs torch, torchaudio and soundfile, and of this project only `sox_effects` and `_catalyst`.

| gone | since | supplied |
|---|---|---|
| `torchaudio.set_audio_backend`, `get_audio_backend` | torchaudio 2.9 | nothing to choose between any more |
| `torchaudio.info` | torchaudio 2.9 | with soundfile |
| `torchaudio.load`, `torchaudio.save` without TorchCodec and FFmpeg | torchaudio 2.9 | with soundfile |
| `torchaudio.sox_effects`, or libsox.so for it | torchaudio 2.9 | `sox_effects`: what s3prl uses |
| `huggingface_hub.HfFolder` | huggingface_hub 1.0 | with the functions that replaced it |
| `huggingface_hub.Repository` | huggingface_hub 1.0 | imports, says what to do when it is used |
| `catalyst`'s `DistributedSamplerWrapper` | pip 24.1 refuses catalyst | `distill.upstream._catalyst` |
| `torch.load` of `argparse.Namespace` | torch 2.6 | allowed, for s3prl's checkpoints |

Shapes: C channels, T samples.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import sys
import tempfile
import warnings
import wave
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO

import soundfile
import torch
import torchaudio
from torch import Tensor

from distill.upstream import _catalyst, sox_effects

_File = str | os.PathLike[str] | BinaryIO


def apply() -> list[str]:
    """Supply what is missing or cannot work; a second call finds nothing to do.

    Returns:
        What was supplied, such as "torchaudio.set_audio_backend".
    """
    stand_ins: dict[str, Any] = {
        "set_audio_backend": _set_audio_backend,
        "get_audio_backend": _get_audio_backend,
        "info": info,
    }
    supplied = _supply(torchaudio, stand_ins)
    if not _works(_read):
        torchaudio.load = load
        supplied.append("torchaudio.load")
    if not _works(_write):
        torchaudio.save = save
        supplied.append("torchaudio.save")
    if not _works(_change_gain):
        sys.modules["torchaudio.sox_effects"] = sox_effects
        torchaudio.sox_effects = sox_effects  # pyright: ignore[reportAttributeAccessIssue]
        supplied.append("torchaudio.sox_effects")
    if importlib.util.find_spec("huggingface_hub") is not None:
        import huggingface_hub

        supplied += _supply(huggingface_hub, {"HfFolder": _HfFolder, "Repository": _Repository})
    if "catalyst" not in sys.modules and importlib.util.find_spec("catalyst") is None:
        supplied += _catalyst.supply()
    if argparse.Namespace not in torch.serialization.get_safe_globals():
        torch.serialization.add_safe_globals([argparse.Namespace])
        supplied.append("torch.load of argparse.Namespace")
    return supplied


@dataclass(frozen=True)
class AudioMetaData:
    """What `torchaudio.info` returned up to torchaudio 2.8."""

    sample_rate: int
    """In Hz."""
    num_frames: int
    """Samples of each channel."""
    num_channels: int
    """C."""
    bits_per_sample: int
    """0 where a compressed format has no such number."""
    encoding: str
    """"PCM_S", "PCM_U", "PCM_F", "ULAW", "ALAW", or libsndfile's name of another."""


# libsndfile's subtype: (torchaudio's encoding, bits per sample)
_ENCODINGS = {
    "PCM_U8": ("PCM_U", 8),
    "PCM_S8": ("PCM_S", 8),
    "PCM_16": ("PCM_S", 16),
    "PCM_24": ("PCM_S", 24),
    "PCM_32": ("PCM_S", 32),
    "FLOAT": ("PCM_F", 32),
    "DOUBLE": ("PCM_F", 64),
    "ULAW": ("ULAW", 8),
    "ALAW": ("ALAW", 8),
}


def info(uri: _File, format: str | None = None, buffer_size: int = 4096, backend: str | None = None) -> Any:
    """`torchaudio.info` with soundfile.

    Args:
        uri: path or file object.
        format: ignored like the two below, libsndfile looks at the content.
        buffer_size: ignored.
        backend: ignored.

    Returns:
        An `AudioMetaData`.

    Raises:
        soundfile.LibsndfileError: a RuntimeError, if the file cannot be read.
    """
    found = soundfile.info(uri)
    encoding, bits = _ENCODINGS.get(found.subtype, (found.subtype, 0))
    if found.format == "FLAC":
        encoding = "FLAC"
    return AudioMetaData(found.samplerate, found.frames, found.channels, bits, encoding)


def load(
    uri: _File,
    frame_offset: int = 0,
    num_frames: int = -1,
    normalize: bool = True,
    channels_first: bool = True,
    format: str | None = None,
    buffer_size: int = 4096,
    backend: str | None = None,
) -> tuple[Tensor, int]:
    """`torchaudio.load` with soundfile: WAV, FLAC, OGG, MP3 and what else libsndfile reads.

    Args:
        uri: path or file object.
        frame_offset: samples to skip.
        num_frames: samples to read at most; -1 for all.
        normalize: only True: float32 samples of full scale 1.
        channels_first: return (C, T), otherwise (T, C).
        format: ignored like the two below, libsndfile looks at the content.
        buffer_size: ignored.
        backend: ignored.

    Returns:
        The samples, and their sampling rate in Hz.

    Raises:
        ValueError: for `normalize=False`.
        soundfile.LibsndfileError: a RuntimeError, if the file cannot be read.
    """
    if not normalize:
        raise ValueError("normalize=False (integer samples) is not available: samples are float32")
    with soundfile.SoundFile(uri) as file:
        file.seek(min(frame_offset, file.frames))
        samples = file.read(num_frames, dtype="float32", always_2d=True)  # (T, C)
        sample_rate = file.samplerate
    return torch.from_numpy(samples.T.copy() if channels_first else samples), sample_rate


def save(
    uri: _File,
    src: Tensor,
    sample_rate: int,
    channels_first: bool = True,
    format: str | None = None,
    encoding: str | None = None,
    bits_per_sample: int | None = None,
    buffer_size: int = 4096,
    backend: str | None = None,
    compression: float | int | None = None,
) -> None:
    """`torchaudio.save` with soundfile. Float samples go into a WAV file as float32, as up to torchaudio 2.8.

    Args:
        uri: path or file object.
        src: (C, T), (T, C) without `channels_first`, or (T,).
        sample_rate: in Hz.
        channels_first: the layout of `src`.
        format: such as "wav"; taken from the name unless given.
        encoding: "PCM_S", "PCM_U", "PCM_F", "ULAW" or "ALAW"; by default the format's own.
        bits_per_sample: 8, 16, 24, 32 or 64; by default the usual one of the encoding.
        buffer_size: ignored.
        backend: ignored.
        compression: only None.

    Raises:
        ValueError: for an unknown encoding, or a compression.
    """
    if compression is not None:
        raise ValueError("compression is not available: install TorchCodec, or leave it out")
    subtype = None
    if encoding is not None or bits_per_sample is not None:
        subtype = _subtype(encoding, bits_per_sample)
    elif (
        src.dtype == torch.float32 and (format or os.path.splitext(str(uri))[1].lstrip(".")).lower() == "wav"
    ):
        subtype = "FLOAT"
    samples = src.detach().cpu().numpy()
    soundfile.write(
        uri, samples.T if channels_first else samples, sample_rate, subtype=subtype, format=format
    )


def _subtype(encoding: str | None, bits: int | None) -> str:
    """The name that libsndfile has for an encoding and its width, of which one may be left open."""
    for subtype, pair in _ENCODINGS.items():
        # The usual width and the usual encoding come first: 16 bits, signed integers.
        if pair == (encoding or ("PCM_U" if bits == 8 else "PCM_S"), bits or _usual_bits(encoding)):
            return subtype
    raise ValueError(f"no encoding {encoding!r} with {bits} bits: there are {sorted(_ENCODINGS.values())}")


def _usual_bits(encoding: str | None) -> int:
    return {"PCM_S": 16, "PCM_F": 32}.get(encoding or "PCM_S", 8)


class _HfFolder:
    """huggingface_hub.HfFolder, by the functions that took its place."""

    @staticmethod
    def get_token() -> str | None:
        import huggingface_hub

        return huggingface_hub.get_token()

    @staticmethod
    def save_token(token: str) -> None:
        import huggingface_hub

        huggingface_hub.login(token=token)

    @staticmethod
    def delete_token() -> None:
        import huggingface_hub

        huggingface_hub.logout()


class _Repository:
    """huggingface_hub.Repository had no successor: s3prl imports it, and uses it to push to the hub only."""

    def __init__(self, *args: Any, **kwargs: Any):
        raise RuntimeError(
            "huggingface_hub >= 1.0 has no Repository: run without --push_to_hf_hub and upload the folder of "
            "the experiment with `hf upload`"
        )


def _set_audio_backend(backend: str | None) -> None:
    """There is nothing to choose between any more."""


def _get_audio_backend() -> str | None:
    return None


def _supply(module: Any, names: dict[str, Any]) -> list[str]:
    """Set the names that a module lacks; returns those, with the module's name."""
    missing = {name: value for name, value in names.items() if not hasattr(module, name)}
    for name, value in missing.items():
        setattr(module, name, value)
    return [f"{module.__name__}.{name}" for name in missing]


def _read(path: str) -> None:
    """Needs TorchCodec, and FFmpeg for it, on torchaudio 2.9 and newer."""
    with wave.open(path, "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes(bytes(320))
    torchaudio.load(path)


def _write(path: str) -> None:
    torchaudio.save(path, torch.zeros(1, 160), 16_000)


def _change_gain(path: str) -> None:
    """Needs libsox.so, which comes with the system's package sox-devel or libsox-dev, on torchaudio 2.8."""
    effects = importlib.import_module("torchaudio.sox_effects")
    effects.apply_effects_tensor(torch.zeros(1, 160), 16_000, [["gain", "-3"]])


def _works(attempt: Callable[[str], None]) -> bool:
    """Whether something succeeds, given the name of a temporary WAV file."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchaudio 2.8 announces what 2.9 does
        try:
            attempt(os.path.join(folder, "silence.wav"))
        except (AttributeError, ImportError, OSError, RuntimeError):
            return False
    return True


apply()
