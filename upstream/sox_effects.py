"""Sox effects without sox, for torchaudio >= 2.9, which no longer has `torchaudio.sox_effects`.

Exactly the effects that s3prl 0.4.18 asks for, with the arguments it gives them. As in sox, samples beyond
full scale are clipped after each effect. Measured against sox 14.4.2.

Shapes: C channels, T samples.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

import soundfile
import torch
import torchaudio.functional as F
from torch import Tensor


def apply_effects_tensor(
    tensor: Tensor, sample_rate: int, effects: Sequence[Sequence[str]], channels_first: bool = True
) -> tuple[Tensor, int]:
    """Apply a chain of effects, as `torchaudio.sox_effects.apply_effects_tensor` did up to torchaudio 2.8.

    Args:
        tensor: (C, T), or (T, C) without `channels_first`; floating point, full scale is 1.
        sample_rate: in Hz.
        effects: each a list of strings: the name and its arguments, such as `["rate", "16000"]`.
        channels_first: the layout of input and output.

    Returns:
        The result in the same layout, and its sampling rate in Hz.

    Raises:
        ValueError: for a wrong shape or type, an effect that is not here, or arguments it does not take.
    """
    if tensor.dim() != 2 or not tensor.is_floating_point():
        raise ValueError(
            f"expected a floating-point tensor with two dimensions, got {tensor.dtype} {tuple(tensor.shape)}"
        )
    x = (tensor if channels_first else tensor.T).clamp(-1.0, 1.0)
    for name, *arguments in effects:
        if name not in EFFECTS:
            raise ValueError(
                f"sox effect {name!r} is not available: there are {', '.join(EFFECTS)}; "
                "for others install torchaudio 2.8, the last one with sox"
            )
        try:
            x, sample_rate = EFFECTS[name](x, sample_rate, arguments)
        except (IndexError, ValueError) as error:
            raise ValueError(f"sox effect {' '.join((name, *arguments))!r}: {error}") from error
        x = x.clamp(-1.0, 1.0)
    return (x if channels_first else x.T), sample_rate


def apply_effects_file(
    path: str | os.PathLike[str],
    effects: Sequence[Sequence[str]],
    normalize: bool = True,
    channels_first: bool = True,
    format: str | None = None,
) -> tuple[Tensor, int]:
    """Read a file and apply a chain of effects, as `torchaudio.sox_effects.apply_effects_file` did.

    Args:
        path: anything that libsndfile reads: WAV, FLAC, OGG, MP3, ...
        effects: see `apply_effects_tensor`.
        normalize: only True, float samples of full scale 1.
        channels_first: return (C, T), otherwise (T, C).
        format: ignored, libsndfile looks at the content.

    Returns:
        float32 samples, and their sampling rate in Hz.

    Raises:
        ValueError: as `apply_effects_tensor`, and for `normalize=False`.
        soundfile.LibsndfileError: if the file cannot be read.
    """
    if not normalize:
        raise ValueError("normalize=False (integer samples) is not available: samples are float32")
    samples, sample_rate = soundfile.read(path, dtype="float32", always_2d=True)  # (T, C)
    x, sample_rate = apply_effects_tensor(torch.from_numpy(samples.T.copy()), sample_rate, effects)
    return (x if channels_first else x.T), sample_rate


def effect_names() -> list[str]:
    """The effects that are available."""
    return list(EFFECTS)


def _channels(x: Tensor, sample_rate: int, arguments: list[str]) -> tuple[Tensor, int]:
    """`channels N`: output i is the mean of inputs i, i + N, ...; with more outputs than inputs, copies."""
    n = int(_only(arguments))
    if n < 1:
        raise ValueError("expected at least one channel")
    if n >= x.shape[0]:
        return x[torch.arange(n) % x.shape[0]], sample_rate
    return torch.stack([x[i::n].mean(0) for i in range(n)]), sample_rate


def _rate(x: Tensor, sample_rate: int, arguments: list[str]) -> tuple[Tensor, int]:
    """`rate HZ`: resample with sox's default quality (-h: 95 % of the band is kept).

    Width and roll-off are those that came nearest to sox 14.4.2: 76 dB on speech, and 40 dB on white noise,
    where all of the difference lies in the transition band just below the lower Nyquist frequency.
    """
    target = float(_only(arguments))
    if target < 1 or target != int(target):
        raise ValueError("expected a sampling rate in whole Hz")
    y = F.resample(x, sample_rate, int(target), lowpass_filter_width=64, rolloff=0.955)
    return y, int(target)


def _gain(x: Tensor, sample_rate: int, arguments: list[str]) -> tuple[Tensor, int]:
    """`gain DB`, or `gain -n [DB]`, which is `norm [DB]`."""
    if arguments[:1] == ["-n"]:
        return _norm(x, sample_rate, arguments[1:])
    return x * 10.0 ** (float(_only(arguments)) / 20.0), sample_rate


def _norm(x: Tensor, sample_rate: int, arguments: list[str]) -> tuple[Tensor, int]:
    """`norm [DB]`: the loudest sample of all channels to DB below full scale, 0 unless given."""
    level_db = float(_only(arguments)) if arguments else 0.0
    peak = x.abs().amax() if x.numel() else x.new_zeros(())
    return (x * (10.0 ** (level_db / 20.0) / peak) if peak > 0 else x), sample_rate


def _reverse(x: Tensor, sample_rate: int, arguments: list[str]) -> tuple[Tensor, int]:
    """`reverse`: backwards."""
    if arguments:
        raise ValueError("it takes no arguments")
    return x.flip(1), sample_rate


def _pad(x: Tensor, sample_rate: int, arguments: list[str]) -> tuple[Tensor, int]:
    """`pad START [END]`: silence before and after, in seconds."""
    before, after = _seconds(arguments, sample_rate, default=0)
    return torch.nn.functional.pad(x, (before, after)), sample_rate


def _trim(x: Tensor, sample_rate: int, arguments: list[str]) -> tuple[Tensor, int]:
    """`trim START [LENGTH]`: keep LENGTH seconds from START on, or the rest."""
    start, length = _seconds(arguments, sample_rate, default=x.shape[1])
    return x[:, start : start + length], sample_rate


def _vad(x: Tensor, sample_rate: int, arguments: list[str]) -> tuple[Tensor, int]:
    """`vad [-t LEVEL] [-T SECONDS] [-p SECONDS]`: drop what comes before the first speech."""
    names = {"-t": "trigger_level", "-T": "trigger_time", "-p": "pre_trigger_time"}
    flags, values = arguments[::2], arguments[1::2]
    if len(flags) != len(values) or not names.keys() >= set(flags):
        raise ValueError("expected any of -t LEVEL, -T SECONDS, -p SECONDS")
    if x.shape[1] == 0:
        return x, sample_rate
    options = {names[flag]: float(value) for flag, value in zip(flags, values, strict=True)}
    return F.vad(x, sample_rate, **options), sample_rate


def _silence(x: Tensor, sample_rate: int, arguments: list[str]) -> tuple[Tensor, int]:
    """`silence 1 SECONDS LEVEL% -1 SECONDS LEVEL%`: cut silence from the start, the middle and the end.

    Loudness is the root mean square over the last 20 ms, each time since output last stopped. Output begins
    where it stays at or above the first level for the first time span, and stops where it stays below the
    second level for the second span, until it begins again.
    """
    if len(arguments) != 6 or (arguments[0], arguments[3]) != ("1", "-1"):
        raise ValueError("expected 1 SECONDS LEVEL% -1 SECONDS LEVEL%")
    on, _ = _seconds(arguments[1:2], sample_rate, default=0)
    off, _ = _seconds(arguments[4:5], sample_rate, default=0)
    on_level, off_level = (_percent(arguments[i]) for i in (2, 5))
    power = x.double().square()
    pieces, position = [x[:, :0]], 0
    while True:
        loudness = _recent_rms(power[:, position:], window=sample_rate // 50)
        start = _first_run(loudness >= on_level, on)
        if start is None:
            break
        silence = _first_run(loudness[start + on :] < off_level, off)
        stop = None if silence is None else position + start + on + silence
        pieces.append(x[:, position + start : stop])
        if stop is None:
            break
        position = stop + off
    return torch.cat(pieces, 1), sample_rate


def _recent_rms(power: Tensor, window: int) -> Tensor:
    """(C, T) squares -> (T,), the loudest channel's root mean square over the last `window` samples."""
    total = torch.nn.functional.pad(power.cumsum(1), (window, 0))  # silence before the start
    return ((total[:, window:] - total[:, :-window]).clamp_min(0.0) / window).sqrt().amax(0)


def _first_run(true: Tensor, n: int) -> int | None:
    """Where `n` or more true values in a row first begin; None if nowhere. true (T,) bool."""
    count = torch.nn.functional.pad(true.long().cumsum(0), (1, 0))
    starts = (count[n:] - count[:-n] == n).nonzero() if n else torch.zeros(1, 1)
    return int(starts[0]) if len(starts) else None


def _only(arguments: list[str]) -> str:
    if len(arguments) != 1:
        raise ValueError(f"expected one argument, got {len(arguments)}")
    return arguments[0]


def _seconds(arguments: list[str], sample_rate: int, *, default: int) -> tuple[int, int]:
    """One or two times in seconds, in samples; `default` samples in place of the second."""
    if len(arguments) not in (1, 2) or min(map(float, arguments)) < 0:
        raise ValueError("expected one or two times in seconds")
    samples = [int(float(argument) * sample_rate + 0.5) for argument in arguments]
    return samples[0], samples[1] if len(samples) > 1 else default


def _percent(argument: str) -> float:
    if not argument.endswith("%"):
        raise ValueError("expected the level in per cent of full scale, such as 0.1%")
    return float(argument[:-1]) / 100.0


_Effect = Callable[[Tensor, int, list[str]], tuple[Tensor, int]]

EFFECTS: dict[str, _Effect] = {
    "channels": _channels,
    "rate": _rate,
    "gain": _gain,
    "norm": _norm,
    "reverse": _reverse,
    "pad": _pad,
    "trim": _trim,
    "vad": _vad,
    "silence": _silence,
}
