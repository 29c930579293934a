"""The samples of a cut."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from lhotse import MonoCut, Recording
from lhotse.audio import AudioSource
from lhotse.cut import Cut
from lhotse.cut.data import DataCut
from torch import Tensor

from distill.errors import DataError
from distill.hubert import SAMPLE_RATE
from distill.shar import in_memory


def read_audio(cut: Cut, start: int = 0, count: int | None = None) -> Tensor:
    """The samples of a cut, mono at 16 kHz.

    Args:
        cut: of any sampling rate and number of channels (averaged).
        start: first sample wanted, at 16 kHz.
        count: number of samples wanted, at 16 kHz; None: to the end.

    Raises:
        DataError: if the file or shard cannot be read, is shorter than promised, or holds values that are not
            finite.
    """
    if why := why_unusable(cut):
        raise DataError(f"{cut.id}: {why}")
    rate = cut.sampling_rate
    try:
        _check_rate(cut)
        cut = in_memory(cut)
        if start or count is not None:
            duration = None if count is None else min(count / SAMPLE_RATE, cut.duration - start / SAMPLE_RATE)
            cut = cut.truncate(offset=start / SAMPLE_RATE, duration=duration, preserve_id=True)
        audio = cut.load_audio()
    except DataError:
        raise
    except Exception as error:  # noqa: BLE001 every decoder has its own exceptions
        raise DataError(f"{cut.id}: cannot be read ({reason(error)})") from None
    assert audio is not None
    samples = torch.from_numpy(np.atleast_2d(audio).mean(0, dtype=np.float32))
    if rate != SAMPLE_RATE:
        import torchaudio.functional

        samples = torchaudio.functional.resample(samples, int(rate), SAMPLE_RATE)
    if not torch.isfinite(samples).all():
        raise DataError(f"{cut.id}: samples are not finite")
    return samples if count is None else samples[:count]


_UNUSABLE = "unusable!"  # custom field of a cut; no column of a table is called that


def unusable_cut(name: str, file: Path, why: str, custom: Mapping[str, Any]) -> MonoCut:
    """A cut in the place of a file that cannot be used, of nominally a second, which `read_audio` refuses."""
    source = AudioSource(type="file", channels=[0], source=str(file))
    recording = Recording(name, [source], SAMPLE_RATE, num_samples=SAMPLE_RATE, duration=1.0)
    custom = {**custom, _UNUSABLE: f"{file}: {why}"}
    return MonoCut(name, start=0, duration=1.0, channel=0, recording=recording, custom=custom)


def why_unusable(cut: Cut) -> str:
    """What was wrong with a cut's file when its source was opened, with the file's name; "" if nothing."""
    return (getattr(cut, "custom", None) or {}).get(_UNUSABLE, "")


def _check_rate(cut: Cut) -> None:
    """Lhotse trusts the manifest: part of a file of another rate would be another part of the speech."""
    for recording in recordings_of(cut):
        for source in recording.sources:
            if source.type != "file":
                continue
            try:
                found = soundfile.info(str(source.source)).samplerate
            except soundfile.SoundFileError:  # nothing, or nothing that it can read: the reading will tell
                continue
            if found != (promised := file_rate(recording)):
                raise DataError(f"{cut.id}: its file has {found} Hz, its manifest says {promised}")


def recordings_of(cut: Cut) -> list[Recording]:
    """What a cut, or each part of a mixture, is cut from."""
    return [part.recording for part in parts_of(cut) if part.recording is not None]


def parts_of(cut: Cut) -> list[DataCut]:
    """A cut of a recording, or those that a mixture is made of."""
    parts = [track.cut for track in getattr(cut, "tracks", ())] or [cut]
    return [part for part in parts if isinstance(part, DataCut) and part.recording is not None]


def audio_place(cut: Cut) -> str:
    """Where the audio of a cut is, for people: file or URL, and from when on unless it is all of it."""
    part = next(iter(parts_of(cut)), None)
    if part is None or part.recording is None:
        return "no recording"
    source = part.recording.sources[0].source
    name = str(source) if isinstance(source, str | Path) else "audio in memory"
    return f"{name} from {part.start:g} s on" if part.start else name


def file_rate(recording: Recording) -> int:
    """The sampling rate that a manifest says the file has, before it is resampled."""
    for transform in recording.transforms or []:
        options = transform["kwargs"] if isinstance(transform, dict) else vars(transform)
        if "source_sampling_rate" in options:
            return options["source_sampling_rate"]
    return recording.sampling_rate


def reason(error: Exception) -> str:
    """One line of lhotse's errors, which list what every decoder said."""
    first, *details = str(error).splitlines() or [type(error).__name__]
    if first.startswith("The number of declared samples"):
        return "its file is not as long as its manifest says"
    return details[0].rpartition("'>: ")[2] if details and first.endswith("Details:") else first


def samples_at_16k(cut: Cut) -> int:
    """Length of a cut, in samples at 16 kHz."""
    return round(cut.duration * SAMPLE_RATE)
