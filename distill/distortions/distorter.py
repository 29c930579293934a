"""Distort a batch by its plan, effect by effect.

Legend: B utterances, T samples.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from distill.distortions import additive, band_reject, clipping, pitch, reverb, time_drop
from distill.distortions.options import DistortionConfig, as_config
from distill.distortions.padded import float_copy, on_cpu, valid_lengths
from distill.distortions.plan import Plan, UtterancePlan, draw_batch
from distill.waveforms import check_samples, to_device

# Samples that an effect takes at once on a CPU, 8 utterances of 12 s: with more, its temporaries are so large
# that the allocator returns them to the system each time, and half the time goes into page faults.
_CPU_SAMPLES = 8 * 12 * 16_000


def _dropped(p: UtterancePlan, n_samples: int) -> tuple[int, int]:
    """First sample and number of samples that are silenced in an utterance of `n_samples`."""
    return time_drop.stretch(n_samples, p.n_dropped, p.drop_place)


_EFFECTS: dict[str, tuple[Callable[..., Tensor], Callable[[UtterancePlan, int], tuple]]] = {
    "reverb": (reverb.apply, lambda p, n_samples: (p.room_scale,)),
    "pitch": (pitch.apply, lambda p, n_samples: (p.cents,)),
    "band_reject": (band_reject.apply, lambda p, n_samples: (p.low_hz, p.high_hz)),
    "clipping": (clipping.apply, lambda p, n_samples: (p.clip_factor,)),
    "time_drop": (time_drop.apply, _dropped),
}
"""By kind of effect: what applies it to a batch, and its arguments for one utterance."""


class Distorter:
    """Distorts padded batches on the CPU or a GPU, always in float32.

        distorter = Distorter.from_config("2-dist", split="train")
        plan = distorter.plan(["a", "b"], seed=1, epoch=0)
        distorted, labels = distorter(waveforms, lengths, plan, noises)

    Nothing is limited to +-1: waveforms stay floats.
    """

    def __init__(self, config: DistortionConfig, split: str = "train") -> None:
        self.config = config
        self.split = split
        self.skipped: int | Tensor = 0
        """Utterances so far whose noise or room was left out; a tensor where it was counted on a device."""

    @classmethod
    def from_config(
        cls, cfg: DistortionConfig | Mapping[str, Any] | str | None, split: str = "train"
    ) -> "Distorter":
        """Make a distorter.

        Args:
            cfg: options, also as a mapping, the name of one of `CONDITIONS`, or None to leave speech clean.
            split: the data split; enters the draws, so that an utterance of dev is not distorted as in train.

        Raises:
            ValueError: if the name or an option is unknown, or an option has a wrong value.
        """
        return cls(as_config(cfg), split)

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "skipped": self.skipped_silent}

    @property
    def skipped_silent(self) -> int:
        """Utterances so far whose noise or room was left out because it or the speech was silent.

        It is read from the device, which waits for it.
        """
        return int(self.skipped)

    def plan(
        self,
        utterance_ids: Sequence[str],
        seed: int = 0,
        epoch: int = 0,
        stream: str = "student",
        progress: float = 1.0,
    ) -> Plan:
        """Draw what happens to each utterance, independently of batch, rank and worker.

        Args:
            utterance_ids: B ids.
            seed: of the run.
            epoch: gives the same utterance another distortion each time.
            stream: "student" or "teacher": independent draws for the two models' inputs.
            progress: share of the training that is behind, in [0, 1]: how far a curriculum is; 1: SNRs are of
                the whole range.

        Returns:
            The plan; its `noise_corpus`, `noise_choice` and `noise_offset` say which clips to read.
        """
        key = {"seed": seed, "epoch": epoch, "stream": stream, "split": self.split}
        return draw_batch(self.config, utterance_ids, **key, progress=progress)

    @torch.no_grad()
    def __call__(
        self,
        waveforms: Tensor,
        lengths: Tensor | None,
        plan: Plan,
        noises: Sequence[Tensor | None] | None = None,
        rirs: Sequence[Tensor | None] | None = None,
        white: Sequence[Tensor | None] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Apply a plan: room impulse response, then noise, then the other effect.

        Args:
            waveforms: (B, T) at 16 kHz; not modified.
            lengths: (B,) valid samples, best on the CPU (a GPU has to be waited for); None means full rows.
            plan: for these B utterances, in this order.
            noises: B entries: the 1-D clip at 16 kHz where the plan names a corpus, anything elsewhere.
            rirs: B entries: the 1-D room impulse response where the plan wants one, best on the CPU, too.
            white: B entries: where the plan asks for white noise, that noise as `additive.gaussian` draws it
                for the plan's seed, or None. What is missing is drawn here, which takes time.

        Returns:
            (B, T) float32 with zero padding, and (B, 7) multi-hot labels (`LABELS`) on the same device. Where
            silence made noise impossible the label is that of what was applied.

        Raises:
            ValueError: if shapes disagree, or a clip is missing (the message names the utterance).
        """
        out, reverberated, noisy = self._distort(waveforms, lengths, plan, noises, rirs, white)
        return out, _labels(plan, reverberated, noisy)

    @torch.no_grad()
    def apply(
        self,
        waveforms: Tensor,
        lengths: Tensor | None,
        plan: Plan,
        noises: Sequence[Tensor | None] | None = None,
        rirs: Sequence[Tensor | None] | None = None,
        white: Sequence[Tensor | None] | None = None,
    ) -> tuple[Tensor, Plan]:
        """The same waveforms as by calling it, and in place of labels the plan of what was applied.

        Where silence made noise or a room impossible, `additive` is "none" or `rir` is False; of a short
        utterance, `n_dropped` may be less. Unlike a call, it waits for the device.
        """
        out, reverberated, noisy = self._distort(waveforms, lengths, plan, noises, rirs, white)
        counts = valid_lengths(waveforms, lengths)
        applied = [
            replace(_applied(p, row in reverberated, noisy=added), n_dropped=_dropped(p, counts[row])[1])
            for row, (p, added) in enumerate(zip(plan, noisy.tolist(), strict=True))
        ]
        return out, Plan(tuple(applied))

    def _distort(
        self,
        waveforms: Tensor,
        lengths: Tensor | None,
        plan: Plan,
        noises: Sequence[Tensor | None] | None,
        rirs: Sequence[Tensor | None] | None,
        white: Sequence[Tensor | None] | None,
    ) -> tuple[Tensor, set[int], Tensor]:
        """Distorted (B, T), the rows that are in a recorded room, and (B,) bool, where noise was added."""
        counts = valid_lengths(waveforms, lengths)
        if len(plan) != len(counts):
            raise ValueError(f"the plan is for {len(plan)} utterances, the batch has {len(counts)}")
        with torch.autocast(waveforms.device.type, enabled=False):
            out = float_copy(waveforms, counts)
            reverberated = self._reverberate(out, counts, plan, rirs)
            noisy = self._add_noise(out, counts, plan, noises, white)
            _apply_effects(out, counts, plan)
        return out, reverberated, noisy

    def _reverberate(
        self, out: Tensor, counts: list[int], plan: Plan, rirs: Sequence[Tensor | None] | None
    ) -> set[int]:
        """Convolve with the recorded rooms, in place; return the rows for which that was possible."""
        clips = _clips("room impulse response", "rirs", plan, [p.rir for p in plan], rirs)
        usable = {row for row, clip in clips.items() if reverb.usable_rir(clip)}
        self.skipped = self.skipped + len(clips) - len(usable)  # not in place: others keep the former count
        _on_rows(out, counts, reverb.convolve_rir, {row: (clips[row], plan[row].rir_db) for row in usable})
        return usable

    def _add_noise(
        self,
        out: Tensor,
        counts: list[int],
        plan: Plan,
        noises: Sequence[Tensor | None] | None,
        white: Sequence[Tensor | None] | None,
    ) -> Tensor:
        """Add all kinds of noise, in place; return (B,) bool, where noise was added."""
        clips = _clips("noise clip", "noises", plan, [p.noise_corpus is not None for p in plan], noises)
        _check_strung(clips, counts, plan)
        drawn = enumerate(white_noise(plan, counts, white))
        clips.update((row, clip) for row, clip in drawn if clip is not None)
        noisy = torch.zeros(len(plan), dtype=torch.bool, device=out.device)
        for rows, n_samples in _groups(out, counts, sorted(clips)):
            places = to_device(torch.tensor(rows), out.device)
            out[places, :n_samples], noisy[places] = additive.mix(
                out[places, :n_samples],
                [counts[row] for row in rows],
                [clips[row] for row in rows],
                [plan[row].snr_db for row in rows],
                stretch=[plan[row].stretch_noise for row in rows],
            )
        # Kept as a tensor: reading it here would make the host wait for the device.
        self.skipped = self.skipped + (len(clips) - noisy.sum())
        return noisy


def white_noise(
    plan: Plan, lengths: Sequence[int], given: Sequence[Tensor | None] | None = None
) -> list[Tensor | None]:
    """The white noise that a plan asks for, None elsewhere; what is not given is drawn.

    Raises:
        ValueError: naming the utterance, if what is given has another length.
    """
    noises: list[Tensor | None] = []
    for row, (p, n_samples) in enumerate(zip(plan, lengths, strict=True)):
        clip = None
        if p.additive == "gaussian":
            clip = None if given is None else given[row]
            if clip is None:
                (clip,) = additive.gaussian([n_samples], [p.gaussian_seed])
            elif len(clip) != n_samples:
                raise ValueError(
                    f"white: utterance {p.utterance_id!r} has {n_samples} samples, its noise {len(clip)}"
                )
        noises.append(clip)
    return noises


def _check_strung(clips: Mapping[int, Tensor], counts: list[int], plan: Plan) -> None:
    """Refuse to tile what should be clips that follow one another."""
    for row, clip in clips.items():
        if plan[row].strung and clip.numel() < counts[row]:
            raise ValueError(
                f"noises: utterance {plan[row].utterance_id!r} needs strung clips of {counts[row]} samples "
                f"(`string_clips`), got {clip.numel()}"
            )


def _labels(plan: Plan, reverberated: set[int], noisy: Tensor) -> Tensor:
    """The plan's labels, corrected for what silence made impossible, (B, 7)."""
    as_planned = [_applied(p, row in reverberated, noisy=True) for row, p in enumerate(plan)]
    without_noise = [_applied(p, row in reverberated, noisy=False) for row, p in enumerate(plan)]
    both = torch.stack([Plan(tuple(plans)).labels() for plans in (as_planned, without_noise)])
    with_noise, without = to_device(both, noisy.device)
    return torch.where(noisy[:, None], with_noise, without)


def _applied(p: UtterancePlan, reverberated: bool, *, noisy: bool) -> UtterancePlan:
    """The plan without what silence made impossible."""
    return replace(p, additive=p.additive if noisy else "none", rir=reverberated)


def _apply_effects(out: Tensor, counts: list[int], plan: Plan) -> None:
    """Apply what comes after the noise, in place: at most one effect for each utterance."""
    for name, (effect, arguments) in _EFFECTS.items():
        given = {row: arguments(p, counts[row]) for row, p in enumerate(plan) if p.non_additive == name}
        _on_rows(out, counts, effect, given)


def _on_rows(
    out: Tensor, counts: list[int], effect: Callable[..., Tensor], arguments: Mapping[int, tuple]
) -> None:
    """Apply an effect in place to the rows for which there are arguments."""
    for rows, n_samples in _groups(out, counts, sorted(arguments)):
        columns = zip(*(arguments[row] for row in rows), strict=True)
        given = [list(column) for column in columns]
        places = to_device(torch.tensor(rows), out.device)
        out[places, :n_samples] = effect(out[places, :n_samples], [counts[row] for row in rows], *given)


def _groups(out: Tensor, counts: list[int], rows: list[int]) -> Iterator[tuple[list[int], int]]:
    """The rows that are distorted at once, and the samples of the longest of them."""
    size = max(len(rows), 1)
    if rows and on_cpu(out):
        size = max(_CPU_SAMPLES // max(counts[row] for row in rows), 1)
    for first in range(0, len(rows), size):
        group = rows[first : first + size]
        yield group, max(counts[row] for row in group)


def _clips(
    what: str, argument: str, plan: Plan, wanted: Sequence[bool], given: Sequence[Tensor | None] | None
) -> dict[int, Tensor]:
    """The clips that the plan asks for, by row."""
    if given is not None and len(given) != len(plan):
        raise ValueError(f"{argument} must have one entry per utterance, got {len(given)} for {len(plan)}")
    clips = {}
    for row, (p, wants) in enumerate(zip(plan, wanted, strict=True)):
        if not wants:
            continue
        clip = None if given is None else given[row]
        if clip is None or clip.ndim != 1 or clip.numel() == 0:
            got = "none" if clip is None else f"one of shape {tuple(clip.shape)}"
            raise ValueError(
                f"{argument}: utterance {p.utterance_id!r} needs a {what} (1-D, 16 kHz), got {got}"
            )
        check_samples(f"{argument}: that of utterance {p.utterance_id!r}", clip)
        clips[row] = clip
    return clips
