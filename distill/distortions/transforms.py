"""Distortions for other people's data pipelines: one waveform at a time, or the cuts of lhotse.

The training here distorts whole batches (`Distorter`), which is faster.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from torch import Tensor
from torch.utils.data import get_worker_info

from distill.distortions.additive import noise_segment
from distill.distortions.distorter import Distorter
from distill.distortions.padded import SAMPLE_RATE
from distill.distortions.plan import CORPUS_NOISES, DistortionConfig, UtterancePlan

if TYPE_CHECKING:
    from lhotse import CutSet, MonoCut
    from lhotse.cut import Cut


class DistortTransform:
    """Distorts single waveforms; picklable, for the `__getitem__` of any `torch.utils.data.Dataset`.

        transform = DistortTransform("2-dist", noises=clips, seed=1)
        distorted = transform(waveform, utterance_id="84-121123-0000", epoch=3)

    With an id, the distortion is a hash of (seed, epoch, id): the same in every process. Without one, each
    call is another draw: the count of the calls takes the id's place, together with the seed that PyTorch
    gives each data worker (`DataLoader(generator=...)` fixes it).

    Args:
        config: options, the name of one of `CONDITIONS`, or None to leave speech clean.
        noises: 1-D clips at 16 kHz for whatever corpus the config asks for, or by corpus ("musan", "wham",
            "fsd", "dns").
        rirs: 1-D room impulse responses at 16 kHz; needed where the config has `rir`.
        seed: of the draws.
        split: enters the draws.

    Raises:
        ValueError: if the name is unknown, or the config asks for clips that are not given.
    """

    def __init__(
        self,
        config: DistortionConfig | str | None,
        noises: Sequence[Tensor] | Mapping[str, Sequence[Tensor]] = (),
        *,
        rirs: Sequence[Tensor] = (),
        seed: int = 0,
        split: str = "train",
    ) -> None:
        self.distorter = Distorter.from_config(config, split)
        corpora = [name for name in CORPUS_NOISES if name in self.distorter.config.additive]
        if not isinstance(noises, Mapping):
            noises = dict.fromkeys(corpora, noises)
        missing = [name for name in corpora if not len(noises.get(name, ()))]
        if missing:
            raise ValueError(f"noises: the config asks for {missing[0]}, but there are no clips for it")
        if self.distorter.config.rir and not rirs:
            raise ValueError("rirs: the config asks for rooms, but there are no impulse responses")
        self.noises = {name: list(noises[name]) for name in corpora}
        self.rirs = list(rirs)
        self.seed = seed
        self.n_calls = 0

    def __call__(self, waveform: Tensor, utterance_id: str | None = None, epoch: int = 0) -> Tensor:
        """Distort a waveform.

        Args:
            waveform: (T,) or (1, T) floating point at 16 kHz; not modified.
            utterance_id: decides the distortion; None: another one at each call.
            epoch: gives the same id another distortion each time.

        Returns:
            float32 of the same shape, on the same device. Nothing is clipped at +-1.

        Raises:
            ValueError: for another shape, an empty waveform or integer samples.
        """
        if waveform.ndim not in (1, 2) or waveform.shape[:-1].numel() != 1 or not waveform.numel():
            raise ValueError(f"waveform must be (T,) or (1, T) and not empty, got {tuple(waveform.shape)}")
        if utterance_id is None:
            worker = get_worker_info()
            utterance_id = f"call {self.n_calls} of {'main' if worker is None else worker.seed}"
            self.n_calls += 1
        plan = self.distorter.plan([utterance_id], seed=self.seed, epoch=epoch)
        noise, rir = self._noise(plan[0], waveform.shape[-1]), self._rir(plan[0])
        distorted, _ = self.distorter(waveform.reshape(1, -1), None, plan, [noise], [rir])
        return distorted.reshape(waveform.shape)

    def _noise(self, plan: UtterancePlan, n_samples: int) -> Tensor | None:
        if plan.noise_corpus is None:
            return None
        clips = self.noises[plan.noise_corpus]
        clip = clips[int(plan.noise_choice * len(clips))]
        start, count = noise_segment(clip.shape[-1], n_samples, plan.noise_offset)
        return clip[..., start : start + count]

    def _rir(self, plan: UtterancePlan) -> Tensor | None:
        return self.rirs[int(plan.rir_choice * len(self.rirs))] if plan.rir else None


def distort_cuts(cuts: CutSet, transform: DistortTransform, epoch: int | None = None) -> CutSet:
    """Distort lhotse cuts: copies with the same ids and supervisions whose audio is held in memory.

    `functools.partial(distort_cuts, transform=transform)` is one of the `cut_transforms` of lhotse's
    datasets. The audio comes out mono at 16 kHz in 32-bit floats, so that nothing is clipped. Features and
    arrays, which do not fit it any more, are left out; plain custom fields stay.

    Args:
        cuts: any; of lazy ones, each is read when it is asked for.
        transform: what to do to them.
        epoch: the distortion is a hash of this and the cut's id; None: another one each time.

    Returns:
        The distorted cuts, lazy if `cuts` is.
    """
    return cuts.map(partial(_distort_cut, transform=transform, epoch=epoch))


def _distort_cut(cut: Cut, transform: DistortTransform, epoch: int | None) -> MonoCut:
    import soundfile
    from lhotse import MonoCut, Recording
    from lhotse.array import Array, TemporalArray
    from lhotse.utils import fastcopy

    from distill.data import read_audio

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
