"""Distorted test sets: clean, 2-dist, fsd, dns.

What happens to an utterance is a hash of (seed, utterance id): the same audio for every model, batch size and
number of workers. fsd and dns are never heard in training.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import soundfile
import torch
from lhotse import CutSet
from lhotse.cut import Cut
from torch import Tensor
from tqdm import tqdm

from distill.batch import pad
from distill.checkpoints import inspect, load_student, load_teacher
from distill.data import MIN_SAMPLES, NoiseReader, open_cuts, read_audio, samples_at_16k
from distill.distortions import CONDITIONS, LABELS, Distorter, DistortionConfig, Plan, UtterancePlan
from distill.errors import DataError, UsageError, UserError
from distill.hubert import SAMPLE_RATE, HubertEncoder, frame_mask


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
        """Cuts, distorted waveforms (B, T), lengths (B,) and what was done to them."""
        for start in range(0, len(self.cuts), size):
            cuts = self.cuts[start : start + size]
            waveforms, lengths = pad([read_audio(cut) for cut in cuts])
            plan = self.distorter.plan([cut.id for cut in cuts], seed=self.seed, epoch=0, stream="test")
            view = self.noises.view(plan, lengths.tolist())
            distorted, _ = self.distorter(waveforms, lengths, plan, view.noises, view.rirs)
            yield cuts, distorted, lengths, plan


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

    Args:
        speech: manifest, TSV or folder of audio.
        out: folder to write; must not hold a set already.
        condition: "clean", "2-dist", "fsd" or "dns".
        noises: by corpus, sources of noise.
        seed: another seed, other distortions.

    Returns:
        Path of `distortions.tsv`.
    """
    listing = out / "distortions.tsv"
    if listing.exists():
        raise UserError(f"{listing} exists: choose another folder, or remove it first")
    find_condition(condition)
    cuts = open_cuts(speech)
    distorted = DistortedSet(cuts, condition, NoiseReader(noises), seed=seed)
    out.mkdir(parents=True, exist_ok=True)
    rows, used = [], Counter()
    progress = tqdm(
        distorted.batches(),
        total=-(-len(distorted.cuts) // 16),
        desc=f"distort: {condition}",
        unit="batch",
        disable=None,
    )
    for batch, waveforms, lengths, plan in progress:
        for cut, wave, length, done in zip(batch, waveforms, lengths, plan.utterances, strict=True):
            stem = re.sub(r"[^A-Za-z0-9._-]+", "_", cut.id)
            used[stem] += 1
            file = out / (f"{stem}.flac" if used[stem] == 1 else f"{stem}~{used[stem]}.flac")
            samples = wave[: int(length)]
            peak = float(samples.abs().max())
            gain = 1.0 if peak <= 0.99 else 0.99 / peak  # 16-bit files end at 1: scale instead of clipping
            soundfile.write(file, (samples * gain).numpy(), SAMPLE_RATE, subtype="PCM_16")
            rows.append([file.name, cut.id, *describe(done), f"{gain:.4f}"])
    header = ["path", "id", "additive", "snr_db", "non_additive", "parameters", "rir", "gain"]
    lines = ["\t".join(row) for row in [header, *sorted(rows)]]
    listing.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return listing


def describe(plan: UtterancePlan) -> list[str]:
    """One utterance's plan as the columns of `distortions.tsv`."""
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
