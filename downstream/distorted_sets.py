"""Distorted test sets: clean, 2-dist, fsd, dns.

What happens to an utterance is a hash of (seed, utterance id): the same audio for every model, batch size and
number of workers. fsd and dns are never heard in training.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import soundfile
import torch
from lhotse import CutSet, MonoCut
from lhotse.cut import Cut
from torch import Tensor
from tqdm import tqdm

from data_prep.manifests import cut_from_file, write_cuts
from distill.audio import recordings_of
from distill.batch import View, pad
from distill.checkpoints import inspect, load_student, load_teacher
from distill.data import MIN_SAMPLES, NoiseReader, open_cuts, read_audio, samples_at_16k
from distill.distortions import CONDITIONS, LABELS, Distorter, DistortionConfig, Plan, UtterancePlan
from distill.distortions.additive import SILENT_POWER
from distill.errors import DataError, UsageError, UserError
from distill.hubert import SAMPLE_RATE, HubertEncoder, frame_mask

_UNFINISHED = ".distorting"  # in a folder that `materialise` is still writing


class DistortedSet:
    """Speech under one condition, in batches of similar length.

    Args:
        cuts: the clean utterances.
        condition: "clean", "2-dist", "fsd", "dns", or a `DistortionConfig` of one's own.
        noises: where the noise is; None if the condition needs none.
        seed: another seed, other distortions.
    """

    def __init__(
        self,
        cuts: CutSet,
        condition: str | DistortionConfig,
        noises: NoiseReader | None = None,
        *,
        seed: int = 0,
    ):
        self.cuts: list[Cut] = sorted(cuts, key=lambda cut: cut.duration)  # pyright: ignore
        if self.cuts and (shortest := samples_at_16k(self.cuts[0])) < MIN_SAMPLES:
            name = self.cuts[0].id
            raise DataError(f"{name} has {shortest} samples, a frame needs {MIN_SAMPLES}: remove it")
        self.distorter = Distorter.from_config(find_condition(condition), split="test")
        self.noises = noises or NoiseReader({})
        config = self.distorter.config
        needed = [name for name in config.additive if name not in ("gaussian", "none")]
        for corpus in [*needed, *(["rir"] if config.rir else [])]:
            if corpus not in self.noises.corpora:
                raise DataError(
                    f"condition {condition} needs {corpus} recordings: name them with --noise {corpus}=SOURCE"
                )
        self.seed = seed

    def batches(self, size: int = 16) -> Iterator[tuple[list[Cut], Tensor, Tensor, Plan]]:
        """Cuts, distorted waveforms (B, T), lengths (B,) and what was done to them.

        Where silence made noise or a room impossible, the plan says "none" or no room.
        """
        for cuts, distorted, lengths, plan, _ in self.reasoned_batches(size):
            yield cuts, distorted, lengths, plan

    def reasoned_batches(self, size: int = 16) -> Iterator[tuple[list[Cut], Tensor, Tensor, Plan, list[str]]]:
        """`batches`, and for each utterance what the draw asked for that was left out, and why; else ""."""
        for start in range(0, len(self.cuts), size):
            cuts = self.cuts[start : start + size]
            waveforms, lengths = pad([read_audio(cut) for cut in cuts])
            plan = self.distorter.plan([cut.id for cut in cuts], seed=self.seed, epoch=0, stream="test")
            view = self.noises.view(plan, lengths.tolist())
            distorted, done = self.distorter.apply(waveforms, lengths, plan, view.noises, view.rirs)
            left_out = [_left_out(waveforms[row, :n], view, done[row], row) for row, n in enumerate(lengths)]
            yield cuts, distorted, lengths, done, left_out


def _left_out(waveform: Tensor, view: View, done: UtterancePlan, row: int) -> str:
    """What one utterance's plan asked for and did not get, with the reason."""
    plan, lost = view.plan[row], []
    if plan.rir and not done.rir:
        lost.append("rir: the room impulse response is silent, not finite or cannot be read")
    if plan.additive != done.additive:
        silent = not float(waveform.square().mean()) > SILENT_POWER
        what = "the speech is silent" if silent else "the clip is silent, not finite or cannot be read"
        lost.append(f"{plan.additive}: {what}")
    return "; ".join(lost)


def find_condition(condition: str | DistortionConfig) -> DistortionConfig:
    """A condition by name, or one distortion alone: musan, wham, gaussian, reverb, pitch, band_reject."""
    if isinstance(condition, DistortionConfig):
        return condition
    if condition in CONDITIONS:
        return CONDITIONS[condition]
    if condition in ("musan", "wham", "gaussian"):
        return DistortionConfig(additive=(condition,), non_additive=("none",))
    if condition in ("reverb", "pitch", "band_reject"):
        return DistortionConfig(additive=("none",), non_additive=(condition,))
    single = [label for label in LABELS if label != "clean"]
    raise UsageError(f"unknown condition {condition!r}; there are {', '.join([*CONDITIONS, *single])}")


def load_encoders(checkpoints: Sequence[str]) -> dict[str, HubertEncoder]:
    """Teachers, and students without their heads, by the last part of their path, or all of it if shared."""
    names = [Path(checkpoint).name for checkpoint in checkpoints]
    encoders: dict[str, HubertEncoder] = {}
    for checkpoint, name in zip(checkpoints, names, strict=True):
        info = inspect(checkpoint)
        with_heads = info.kind == "student" and info.targets is not None
        encoder = load_student(checkpoint).encoder if with_heads else load_teacher(checkpoint)
        encoders[checkpoint if names.count(name) > 1 else name] = encoder
    return encoders


def materialise(
    speech: str, out: Path, condition: str, noises: Mapping[str, Sequence[str]], *, seed: int = 0
) -> Path:
    """Write a distorted copy of some speech: FLAC files, and `distortions.tsv` with what was done to each.

    A column `left_out` of the latter names what was drawn and could not be applied, with the reason. The
    manifest `cuts.jsonl.gz` has the files with the classes and texts of the speech, to be evaluated.

    Args:
        speech: manifest, TSV or folder of audio.
        out: folder to write: a new or empty one, or that of a call with the same arguments that was stopped,
            whose files are then written again.
        condition: "clean", "2-dist", "fsd" or "dns".
        noises: by corpus, sources of noise.
        seed: another seed, other distortions.

    Returns:
        Path of `distortions.tsv`.

    Raises:
        UserError: `out` holds other things, or recordings that are to be distorted; nothing is written.
    """
    listing, unfinished = out / "distortions.tsv", out / _UNFINISHED
    sources = {name: list(noises[name]) for name in sorted(noises)}
    made_of = json.dumps([speech, condition, sources, seed])
    _check_out(out, made_of)
    find_condition(condition)
    cuts = open_cuts(speech)
    distorted = DistortedSet(cuts, condition, NoiseReader(noises), seed=seed)
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
    write_cuts(sorted(written, key=lambda cut: cut.id), out / "cuts.jsonl.gz")
    header = ["path", "id", "additive", "snr_db", "non_additive", "parameters", "rir", "gain", "left_out"]
    header += ["noise", "noise_start_s", "room"]
    lines = ["\t".join(row) for row in [header, *sorted(rows)]]
    listing.write_text("\n".join(lines) + "\n", encoding="utf-8")
    unfinished.unlink()
    return listing


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
    snr = "" if plan.additive == "none" else f"{plan.snr_db:.2f}"
    return [plan.additive, snr, plan.non_additive, parameters, "yes" if plan.rir else "no"]


@torch.no_grad()
def embed(encoder: torch.nn.Module, waveforms: Tensor, lengths: Tensor) -> Tensor:
    """The last layer, averaged over each utterance's valid frames. (B, T) -> (B, D)."""
    out = encoder(waveforms, lengths)
    hidden = out.hidden_states[-1]
    valid = frame_mask(out.lengths, hidden.shape[1])[:, :, None]
    return hidden.masked_fill(~valid, 0.0).sum(1) / out.lengths[:, None]


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
            vectors[name].append(embed(encoder.eval(), waveforms, lengths).numpy())
    return cuts, {name: np.concatenate(parts) for name, parts in vectors.items()}
