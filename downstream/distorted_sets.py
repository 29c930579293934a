"""Distorted test sets: clean, 2-dist, fsd, dns.

What happens to an utterance is a hash of (seed, utterance id): the same audio for every model, batch size and
number of workers. fsd and dns are never heard in training.
"""

from __future__ import annotations

import json
import logging
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import soundfile
import torch
from lhotse import CutSet, MonoCut
from lhotse.cut import Cut
from torch import Tensor
from tqdm import tqdm

from distill.checkpoints import inspect, load_student, load_teacher
from distill.data.audio import read_audio, samples_at_16k
from distill.data.loading import check_length
from distill.data.noise import NoiseReader
from distill.data.recordings import recordings_of
from distill.data.sources import open_cuts
from distill.data_prep.manifests import cut_from_file, write_cuts
from distill.devices import best_device, device_of
from distill.distortions import CONDITIONS, LABELS, VARIANTS, Distorter, DistortionConfig, Plan, UtterancePlan
from distill.downstream.results import describe_silent
from distill.errors import DataError, UsageError, UserError
from distill.hubert import HubertConfig, HubertEncoder
from distill.preflight.survey import check_files
from distill.waveforms import SAMPLE_RATE, is_silent, masked_mean, pad

logger = logging.getLogger(__name__)

_UNFINISHED = ".distorting"  # in a folder that `materialise` is still writing


class DistortedSet:
    """Speech under one condition, in batches of similar length: all of it, or an error says what is missing.

    What is silent cannot be applied: such utterances are counted in `silent`, and a warning at the end of the
    set says how many they are.

    Args:
        cuts: the clean utterances.
        condition: "clean", "2-dist", "fsd", "dns", or a `DistortionConfig` of one's own.
        noises: where the noise is; None if the condition needs none.
        seed: another seed, other distortions.
        skip: leave out utterances that cannot be used and list them in `skipped`; of noise and rooms nothing
            may be missing all the same.
        encoders: that will hear it: an utterance must have a frame for each of them.
        variant: of a condition by name: "paper" or "authors".

    Raises:
        DataError: naming files or kinds of noise that are missing, or an utterance that is too short.
    """

    def __init__(
        self,
        cuts: CutSet,
        condition: str | DistortionConfig,
        noises: NoiseReader | None = None,
        *,
        seed: int = 0,
        skip: bool = False,
        encoders: Iterable[torch.nn.Module] = (),
        variant: str = "paper",
    ):
        configs = [e.config for e in encoders if isinstance(e, HubertEncoder)]
        self.model = max(configs, key=lambda config: config.receptive_field, default=HubertConfig())
        self.cuts: list[Cut] = sorted(cuts, key=lambda cut: cut.duration)  # pyright: ignore
        self.skip = skip
        self.skipped: list[tuple[str, str]] = []  # id and reason
        self.silent = Counter()  # utterances, by what was silent: speech, noise, rir
        if not skip:
            check_files(self.cuts, "the speech")
            for cut in self.cuts[:1]:
                self._check_length(cut)
        self.distorter = Distorter.from_config(find_condition(condition, variant), split="test")
        self.noises = noises or NoiseReader({})
        for corpus in self.distorter.config.corpora:
            if corpus not in self.noises.corpora:
                raise DataError(
                    f"condition {condition} needs {corpus} recordings: name them with --noise {corpus}=SOURCE"
                )
            check_files(self.noises.corpora[corpus], corpus)
        self.name = condition if isinstance(condition, str) else "the distorted set"
        self.seed = seed

    def batches(self, size: int = 16) -> Iterator[tuple[list[Cut], Tensor, Tensor, Plan]]:
        """Cuts, distorted waveforms (B, T), lengths (B,) and what was done to them.

        Where silence made noise or a room impossible, the plan says "none" or no room.
        """
        for cuts, distorted, lengths, plan, _ in self.reasoned_batches(size):
            yield cuts, distorted, lengths, plan

    def reasoned_batches(self, size: int = 16) -> Iterator[tuple[list[Cut], Tensor, Tensor, Plan, list[str]]]:
        """`batches`, and for each utterance what the draw asked for that was left out, and why; else ""."""
        self.silent.clear()
        self.skipped.clear()
        for start in range(0, len(self.cuts), size):
            cuts, waves = self._read(self.cuts[start : start + size])
            if not cuts:
                continue
            waveforms, lengths = pad(waves)
            plan = self.distorter.plan([cut.id for cut in cuts], seed=self.seed, epoch=0, stream="test")
            view = self.noises.whole_view(plan, lengths.tolist())
            distorted, done = self.distorter.apply(waveforms, lengths, plan, view.noises, view.rirs)
            silent = [silent_parts(*each) for each in zip(waves, plan, done, strict=True)]
            self.silent.update(part for parts in silent for part in parts)
            left_out = [_left_out(*each) for each in zip(plan, silent, strict=True)]
            yield cuts, distorted, lengths, done, left_out
        if self.silent:
            logger.warning("%s: of %d utterances %s", self.name, len(self.cuts), describe_silent(self.silent))

    def _check_length(self, cut: Cut) -> None:
        check_length(cut.id, samples_at_16k(cut), self.model)

    def _read(self, cuts: Sequence[Cut]) -> tuple[list[Cut], list[Tensor]]:
        """The utterances that can be used, and their samples."""
        read: list[tuple[Cut, Tensor]] = []
        for cut in cuts:
            try:
                self._check_length(cut)
                read.append((cut, read_audio(cut)))
            except DataError as error:
                if not self.skip:
                    raise
                self.skipped.append((cut.id, str(error).removeprefix(f"{cut.id}: ")))
        return [cut for cut, _ in read], [wave for _, wave in read]


def silent_parts(waveform: Tensor, plan: UtterancePlan, done: UtterancePlan) -> list[str]:
    """What was silent, so that an utterance did not get what was drawn for it.

    Args:
        waveform: (T,), clean.
        plan: what was drawn.
        done: what was applied.

    Returns:
        "rir", and "speech" or "noise".
    """
    found = ["rir"] if plan.rir and not done.rir else []
    if plan.additive != done.additive:
        found.append("speech" if is_silent(waveform) else "noise")
    return found


def _left_out(plan: UtterancePlan, silent: Sequence[str]) -> str:
    """What one utterance's plan asked for and did not get, with the reason."""
    reasons = {
        "rir": "rir: the room impulse response is silent",
        "speech": f"{plan.additive}: the speech is silent",
        "noise": f"{plan.additive}: the clip is silent",
    }
    return "; ".join(reasons[part] for part in silent)


def find_condition(condition: str | DistortionConfig, variant: str = "paper") -> DistortionConfig:
    """A condition by name, or one distortion alone: musan, wham, gaussian, reverb, pitch, band_reject.

    Args:
        condition: a `DistortionConfig` of one's own is taken as it is.
        variant: "paper" or "authors".

    Raises:
        UsageError: if there is no such condition or variant.
    """
    if isinstance(condition, DistortionConfig):
        return condition
    if variant not in VARIANTS:
        raise UsageError(f"variant must be {' or '.join(VARIANTS)}, not {variant!r}")
    found = _named_condition(condition)
    return found if variant == found.variant else found.of_variant(variant)


def _named_condition(condition: str) -> DistortionConfig:
    if condition in CONDITIONS:
        return CONDITIONS[condition]
    if condition in ("musan", "wham", "gaussian"):
        return DistortionConfig(additive=(condition,), non_additive=("none",))
    if condition in ("reverb", "pitch", "band_reject"):
        return DistortionConfig(additive=("none",), non_additive=(condition,))
    single = [label for label in LABELS if label != "clean"]
    raise UsageError(f"unknown condition {condition!r}; there are {', '.join([*CONDITIONS, *single])}")


def load_encoders(checkpoints: Sequence[str]) -> dict[str, HubertEncoder]:
    """Teachers, and students without their heads, by the last part of their path, or all of it if shared.

    On a GPU, if there is one.
    """
    names = [Path(checkpoint).name for checkpoint in checkpoints]
    encoders: dict[str, HubertEncoder] = {}
    for checkpoint, name in zip(checkpoints, names, strict=True):
        info = inspect(checkpoint)
        with_heads = info.kind == "student" and info.targets is not None
        encoder = load_student(checkpoint).encoder if with_heads else load_teacher(checkpoint)
        encoders[checkpoint if names.count(name) > 1 else name] = encoder.to(best_device())
    return encoders


def materialise(
    speech: str,
    out: Path,
    condition: str,
    noises: Mapping[str, Sequence[str]],
    *,
    seed: int = 0,
    variant: str = "paper",
) -> Path:
    """Write a distorted copy of some speech: FLAC files, and `distortions.tsv` with what was done to each.

    A column `left_out` of the latter names what was drawn and could not be applied, with the reason. The
    manifest `cuts.jsonl.gz` has the files with the classes and texts of the speech, to be evaluated. Speech
    that cannot be used is left out and listed in `skipped.tsv`.

    Args:
        speech: manifest, TSV or folder of audio.
        out: folder to write: a new or empty one, or that of a call with the same arguments that was stopped,
            whose files are then written again.
        condition: "clean", "2-dist", "fsd" or "dns".
        noises: by corpus, sources of noise.
        seed: another seed, other distortions.
        variant: "paper" or "authors": whose values and ways.

    Returns:
        Path of `distortions.tsv`.

    Raises:
        UserError: `out` holds other things, or recordings that are to be distorted; nothing is written.
        DataError: noise or rooms that cannot be used, or no speech that can.
    """
    listing, unfinished = out / "distortions.tsv", out / _UNFINISHED
    sources = {name: list(noises[name]) for name in sorted(noises)}
    made_of = json.dumps([speech, condition, sources, seed, *([] if variant == "paper" else [variant])])
    _check_out(out, made_of)
    find_condition(condition, variant)
    cuts = open_cuts(speech)
    distorted = DistortedSet(cuts, condition, NoiseReader(noises), seed=seed, skip=True, variant=variant)
    _check_apart(distorted.cuts, out)
    out.mkdir(parents=True, exist_ok=True)
    unfinished.write_text(made_of, encoding="utf-8")
    rows, used, written = [], Counter(), []
    progress = tqdm(
        distorted.reasoned_batches(),
        total=-(-len(distorted.cuts) // 16),
        desc=f"distort: {condition}",
        unit="batch",
        disable=None,
    )
    for batch, waveforms, lengths, plan, lost in progress:
        for cut, wave, length, done, why in zip(batch, waveforms, lengths, plan, lost, strict=True):
            stem = re.sub(r"[^A-Za-z0-9._-]+", "_", cut.id)
            used[stem] += 1
            file = out / (f"{stem}.flac" if used[stem] == 1 else f"{stem}~{used[stem]}.flac")
            samples = wave[: int(length)]
            peak = float(samples.abs().max())
            gain = 1.0 if peak <= 0.99 else 0.99 / peak  # 16-bit files end at 1: scale instead of clipping
            soundfile.write(file, (samples * gain).numpy(), SAMPLE_RATE, subtype="PCM_16")
            clips = _clips(distorted.noises, done, int(length))
            rows.append([file.name, cut.id, *describe(done), f"{gain:.4f}", why, *clips])
            written.append(_as_spoken(cut, file))
    _list_skipped(distorted, out / "skipped.tsv")
    write_cuts(sorted(written, key=lambda cut: cut.id), out / "cuts.jsonl.gz")
    header = ["path", "id", "additive", "snr_db", "non_additive", "parameters", "rir", "gain", "left_out"]
    header += ["noise", "noise_start_s", "room"]
    lines = ["\t".join(row) for row in [header, *sorted(rows)]]
    listing.write_text("\n".join(lines) + "\n", encoding="utf-8")
    unfinished.unlink()
    return listing


def _list_skipped(distorted: DistortedSet, path: Path) -> None:
    """Write down which utterances could not be used and why, if there are any."""
    path.unlink(missing_ok=True)  # of a call that was stopped
    if not (skipped := distorted.skipped):
        return
    lines = "".join(f"{name}\t{' '.join(why.split())}\n" for name, why in skipped)
    path.write_text(lines, encoding="utf-8", errors="backslashreplace")
    said = (
        f"{len(skipped)} of {len(distorted.cuts)} utterances cannot be used, {path} lists them; the first is "
    )
    said += ": ".join(skipped[0])
    if len(skipped) == len(distorted.cuts):
        raise DataError(said)
    logger.warning("%s", said)


def _clips(noises: NoiseReader, done: UtterancePlan, n_samples: int) -> list[str]:
    """Names of the noise and of the room response, and where in the noise the utterance's begins."""
    noise, start_s = "", ""
    if done.noise_corpus is not None:
        cut, start, _ = noises.noise_clip(done, n_samples)
        noise, start_s = cut.id, f"{start / SAMPLE_RATE:.3f}"
    return [noise, start_s, noises.rir_clip(done).id if done.rir else ""]


def _as_spoken(cut: Cut, file: Path) -> MonoCut:
    """The file that was written of an utterance, with what is known of the utterance."""
    made = cut_from_file(file, cut.id)
    made.custom = dict(getattr(cut, "custom", None) or {}) or None
    made.supervisions = list(cut.supervisions)
    return made


def _check_out(out: Path, made_of: str) -> None:
    """Refuse a folder that holds anything but the beginning of the same set."""
    listing, unfinished = out / "distortions.tsv", out / _UNFINISHED
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file: choose a folder for the distorted copy")
    if listing.exists() and not unfinished.exists():
        raise UserError(f"{listing} exists: choose another folder, or remove it first")
    if unfinished.exists():
        if unfinished.read_text(encoding="utf-8") != made_of:
            raise UserError(f"{out} holds the beginning of another set: remove it, or choose another folder")
    elif out.is_dir() and any(out.iterdir()):
        raise UserError(f"{out} is not empty: choose a new or empty folder for the distorted copy")


def _check_apart(cuts: Sequence[Cut], out: Path) -> None:
    """Refuse to write among the recordings themselves."""
    folder = out.resolve()
    for cut in cuts:
        for source in [source for recording in recordings_of(cut) for source in recording.sources]:
            if source.type == "file" and Path(str(source.source)).resolve().is_relative_to(folder):
                raise UserError(f"{out} holds {source.source}, which is to be distorted: choose another")


def describe(plan: UtterancePlan) -> list[str]:
    """What was done to an utterance as the columns of `distortions.tsv`."""
    parameters = {
        "none": "",
        "reverb": f"room_scale={plan.room_scale}",
        "pitch": f"cents={plan.cents:.1f}",
        "band_reject": f"hz={plan.low_hz:.1f}-{plan.high_hz:.1f}",
    }[plan.non_additive]
    if plan.rir and plan.rir_db is not None:  # else of unit energy
        parameters = ", ".join(filter(None, [parameters, f"rir_db={plan.rir_db:g}"]))
    snr = "" if plan.additive == "none" else f"{plan.snr_db:.2f}"
    return [plan.additive, snr, plan.non_additive, parameters, "yes" if plan.rir else "no"]


@torch.no_grad()
def embed(encoder: torch.nn.Module, waveforms: Tensor, lengths: Tensor) -> Tensor:
    """The last hidden state, averaged over each utterance's valid frames. (B, T) -> (B, D)."""
    out = encoder(waveforms, lengths)
    return masked_mean(out.last_hidden_state, out.lengths)


def embed_set(encoders: Mapping[str, torch.nn.Module], dataset: DistortedSet) -> tuple[list[Cut], dict]:
    """A whole set through several encoders; distorted once.

    Returns:
        Its cuts (N), and by encoder the averages over time of the last layer, (N, D) arrays.
    """
    cuts: list[Cut] = []
    vectors: dict[str, list[np.ndarray]] = {name: [] for name in encoders}
    for batch, waveforms, lengths, _ in dataset.batches():
        cuts += batch
        for name, encoder in encoders.items():
            device = device_of(encoder)
            vectors[name].append(embed(encoder.eval(), waveforms.to(device), lengths).cpu().numpy())
    return cuts, {name: np.concatenate(parts) for name, parts in vectors.items()}
