"""Distortions for other people's data pipelines: one waveform at a time, or the cuts of lhotse.

Our own training distorts complete batches (`Distorter`), which is faster.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from distill.distortions.additive import noise_segment
from distill.distortions.distorter import Distorter
from distill.distortions.options import DistortionConfig
from distill.distortions.plan import UtterancePlan
from distill.distortions.strung import ClipDraws, string_clips
from distill.processes import process_name
from distill.waveforms import SAMPLE_RATE, check_samples

if TYPE_CHECKING:
    from lhotse import CutSet, MonoCut
    from lhotse.cut import Cut


Clips = Tensor | np.ndarray | Sequence[Tensor | np.ndarray]
"""Clips at 16 kHz: each (T,) or (1, T); also a single one, or (N, T)."""


class DistortTransform:
    """Distorts single waveforms; picklable, for the `__getitem__` of any `torch.utils.data.Dataset`.

        transform = DistortTransform("2-dist", noises=clips, seed=1)
        distorted = transform(waveform, utterance_id="84-121123-0000", epoch=3)

    With an id, the distortion is a hash of (seed, epoch, id): the same in every process. Without one, each
    call is another draw: a count of the calls takes the id's place, together with the seed that PyTorch
    gives each data worker (`DataLoader(generator=...)` fixes it) and the rank of the process, from
    `torch.distributed` or from what torchrun, srun or Lightning put into the environment.

    Args:
        config: options, also as a mapping, the name of one of `CONDITIONS`, or None to leave speech clean.
        noises: clips at 16 kHz for whatever corpus the config asks for, or by corpus ("musan", "wham", "fsd",
            "dns", "speech"): tensors or arrays, (T,) or (1, T) each. Of speech, give other utterances than
            those that are to be distorted: clips have no names by which to tell.
        rirs: room impulse responses at 16 kHz, of the same kinds; needed where the config has `rir`.
        seed: of the draws.
        split: part of the hash, so that "train" and "test" differ.

    Raises:
        ValueError: if the config is unknown, asks for clips that are not given or for a curriculum, or a clip
            is empty or of another shape.
    """

    def __init__(
        self,
        config: DistortionConfig | Mapping[str, Any] | str | None,
        noises: Clips | Mapping[str, Clips] = (),
        *,
        rirs: Clips = (),
        seed: int = 0,
        split: str = "train",
    ) -> None:
        self.distorter = Distorter.from_config(config, split)
        if self.distorter.config.curriculum is not None:
            raise ValueError("curriculum: a transform does not know how far a training is; leave it out")
        corpora = [name for name in self.distorter.config.corpora if name != "rir"]
        if isinstance(noises, Mapping):
            self.noises = {name: _clips(f"noises[{name!r}]", noises.get(name, ())) for name in corpora}
        else:
            self.noises = dict.fromkeys(corpora, _clips("noises", noises))
        missing = [name for name in corpora if not self.noises[name]]
        if missing:
            raise ValueError(f"noises: the config asks for {missing[0]}, but there are no clips for it")
        self.draws = _draws(self.noises) if self.distorter.config.strung else {}
        self.rirs = _clips("rirs", rirs)
        if self.distorter.config.rir and not self.rirs:
            raise ValueError("rirs: the config asks for rooms, but there are no impulse responses")
        self.seed = seed
        self.n_calls = 0
        self.process = ""

    def __getstate__(self) -> dict[str, Any]:
        """With the process's name: data workers that are not forked do not know `torch.distributed`."""
        return vars(self) | {"process": self._process()}

    def _process(self) -> str:
        return process_name() or self.process

    @overload
    def __call__(self, waveform: Tensor, utterance_id: str | None = None, epoch: int = 0) -> Tensor: ...
    @overload
    def __call__(
        self, waveform: np.ndarray, utterance_id: str | None = None, epoch: int = 0
    ) -> np.ndarray: ...
    def __call__(
        self, waveform: Tensor | np.ndarray, utterance_id: str | None = None, epoch: int = 0
    ) -> Tensor | np.ndarray:
        """Distort a waveform.

        Args:
            waveform: (T,) or (1, T) floating point at 16 kHz, a tensor or an array; not modified.
            utterance_id: decides the distortion; None: another distortion at each call.
            epoch: another epoch, another distortion of the same id.

        Returns:
            float32 of the same shape and kind, on the same device. Nothing is clipped at +-1.

        Raises:
            ValueError: for another shape, an empty waveform or integer samples.
        """
        samples = _flat("waveform", waveform)
        if utterance_id is None:
            worker = get_worker_info()
            utterance_id = f"call {self.n_calls} of {'main' if worker is None else worker.seed}"
            utterance_id += f" in {process}" if (process := self._process()) else ""
            self.n_calls += 1
        plan = self.distorter.plan([utterance_id], seed=self.seed, epoch=epoch)
        noise, rir = self._noise(plan[0], len(samples)), self._rir(plan[0])
        distorted, _ = self.distorter(samples[None], None, plan, [noise], [rir])
        distorted = distorted.reshape(tuple(waveform.shape))
        return distorted.numpy() if isinstance(waveform, np.ndarray) else distorted

    def _noise(self, plan: UtterancePlan, n_samples: int) -> Tensor | None:
        if plan.noise_corpus is None:
            return None
        clips = self.noises[plan.noise_corpus]
        if plan.strung:
            noise, _ = string_clips(
                self.draws[plan.noise_corpus],
                plan.string_seed,
                n_samples,
                length=lambda number: len(clips[number]),
                read=lambda number, start, count: clips[number][start : start + count].float(),
            )
            return torch.zeros(n_samples) if noise is None else noise
        clip = clips[int(plan.noise_choice * len(clips))]
        start, count = noise_segment(len(clip), n_samples, plan.noise_offset)
        return clip[start : start + count]

    def _rir(self, plan: UtterancePlan) -> Tensor | None:
        return self.rirs[int(plan.rir_choice * len(self.rirs))] if plan.rir else None


def _draws(noises: Mapping[str, Sequence[Tensor]]) -> dict[str, ClipDraws]:
    """By corpus, the draws of clips that are strung together.

    Raises:
        ValueError: if all clips of a corpus are too short.
    """
    draws = {}
    for name, clips in noises.items():
        try:
            draws[name] = ClipDraws(np.array([len(clip) / SAMPLE_RATE for clip in clips]))
        except ValueError as error:
            raise ValueError(f"noises: {error} of {name}, and strung leaves out shorter ones") from None
    return draws


def _clips(name: str, given: Clips) -> list[Tensor]:
    """Clips in any form that is accepted, as 1-D tensors."""
    if isinstance(given, Tensor | np.ndarray) and given.ndim == 1:
        given = [given]
    return [_flat(f"{name}[{number}]", clip) for number, clip in enumerate(given)]


def _flat(name: str, given: Tensor | np.ndarray) -> Tensor:
    """(T,) or (1, T) -> (T,)."""
    shape = tuple(given.shape) if isinstance(given, Tensor) else np.shape(given)
    if not shape or shape[:-1] not in ((), (1,)) or not shape[-1]:
        raise ValueError(f"{name} must be (T,) or (1, T) and not empty, got {shape}")
    # Copied: arrays may be read-only, or run backwards, which tensors cannot.
    samples = given if isinstance(given, Tensor) else torch.from_numpy(np.array(given))
    check_samples(name, samples)
    return samples.reshape(-1)


def distort_cuts(cuts: CutSet, transform: DistortTransform, epoch: int | None = None) -> CutSet:
    """Distort lhotse cuts: copies with the same ids and supervisions whose audio is held in memory.

    `functools.partial(distort_cuts, transform=transform)` is one of the `cut_transforms` of lhotse's
    datasets. The audio comes out mono at 16 kHz in 32-bit floats, so that nothing is clipped. Features and
    arrays, which do not fit it any more, are left out; plain custom fields stay.

    Args:
        cuts: any; of lazy ones, each is read when it is asked for.
        transform: what to do to them.
        epoch: the distortion is a hash of this and the cut's id; None: another distortion at each call.

    Returns:
        The distorted cuts, lazy if `cuts` is.
    """
    return cuts.map(partial(_distort_cut, transform=transform, epoch=epoch))


def _distort_cut(cut: Cut, transform: DistortTransform, epoch: int | None) -> MonoCut:
    import soundfile
    from lhotse import MonoCut, Recording
    from lhotse.array import Array, TemporalArray
    from lhotse.utils import fastcopy

    from distill.data.audio import read_audio

    samples = read_audio(cut)
    distorted = transform(samples) if epoch is None else transform(samples, cut.id, epoch)
    stream = io.BytesIO()
    soundfile.write(stream, distorted.numpy(), SAMPLE_RATE, format="WAV", subtype="FLOAT")
    recording = Recording.from_bytes(stream.getvalue(), recording_id=cut.id)
    custom = getattr(cut, "custom", None) or {}
    supervisions = [fastcopy(s, channel=0, recording_id=cut.id) for s in cut.supervisions]
    return MonoCut(
        id=cut.id,
        start=0,
        duration=recording.duration,
        channel=0,
        supervisions=supervisions,
        recording=recording,
        custom={k: v for k, v in custom.items() if not isinstance(v, Array | TemporalArray | Recording)},
    )
