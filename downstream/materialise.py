"""A distorted copy of some speech on disk, with what was done to each utterance."""

from __future__ import annotations

import json
import logging
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import soundfile
from lhotse import MonoCut
from lhotse.cut import Cut
from torch import Tensor
from tqdm import tqdm

from distill.atomic import write_text
from distill.data.noise import NoiseReader
from distill.data.recordings import recordings_of
from distill.data.sources import open_cuts
from distill.data_prep.manifests import cut_from_file, write_cuts
from distill.distortions import UtterancePlan
from distill.downstream.distorted_sets import DistortedSet, find_condition
from distill.errors import DataError, UserError
from distill.waveforms import SAMPLE_RATE

logger = logging.getLogger(__name__)

_COLUMNS = (
    *("path", "id", "additive", "snr_db", "non_additive", "parameters", "rir", "gain", "left_out"),
    *("noise", "noise_start_s", "room"),
)
_UNFINISHED = ".distorting"  # in a folder that `materialise` is still writing


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

    Its column `left_out` names what was drawn and could not be applied, with the reason. The manifest
    `cuts.jsonl.gz` has the files with the labels and transcripts of the speech, for evaluations. Speech that
    cannot be used is left out and listed in `skipped.tsv`.

    Args:
        speech: manifest, TSV or folder of audio.
        out: folder to write to: new or empty, or that of an interrupted call with the same arguments, whose
            files are then written again.
        condition: "clean", "2-dist", "fsd", "dns" or "ns".
        noises: by corpus, sources of noise.
        seed: another seed, other distortions.
        variant: of the distortions: "paper" or "authors".

    Returns:
        Path of `distortions.tsv`.

    Raises:
        UserError: if `out` holds other files, or recordings that are to be distorted; nothing is written.
        DataError: for noise or rooms that cannot be used, or if no speech can.
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
    write_text(unfinished, made_of)
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
            gain = _write_audio(file, wave[: int(length)])
            clips = _clips(distorted.noises, done, int(length))
            rows.append([file.name, cut.id, *describe(done), f"{gain:.4f}", why, *clips])
            written.append(_labelled(cut, file))
    _list_skipped(distorted, out / "skipped.tsv")
    write_cuts(sorted(written, key=lambda cut: cut.id), out / "cuts.jsonl.gz")
    lines = ["\t".join(row) for row in [_COLUMNS, *sorted(rows)]]
    write_text(listing, "\n".join(lines) + "\n")
    unfinished.unlink()
    return listing


def _write_audio(file: Path, samples: Tensor) -> float:
    """Write (T,) samples; returns the gain: 16-bit files end at 1, so that louder ones are scaled down."""
    peak = float(samples.abs().max())
    gain = 1.0 if peak <= 0.99 else 0.99 / peak
    soundfile.write(file, (samples * gain).numpy(), SAMPLE_RATE, subtype="PCM_16")
    return gain


def _list_skipped(distorted: DistortedSet, path: Path) -> None:
    """List the utterances that could not be used, with the reason, if there are any."""
    path.unlink(missing_ok=True)  # of an interrupted call
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
    """Ids of the noise and of the room response, and where in the noise the used part begins, seconds.

    Those of strung clips are joined by "|".
    """
    clips = noises.noise_clips(done, n_samples) if done.noise_corpus is not None else []
    starts = "|".join(f"{start / SAMPLE_RATE:.3f}" for _, start in clips)
    return ["|".join(cut.id for cut, _ in clips), starts, noises.rir_clip(done).id if done.rir else ""]


def _labelled(cut: Cut, file: Path) -> MonoCut:
    """The file that was written of an utterance, with the utterance's labels and transcript."""
    made = cut_from_file(file, cut.id)
    made.custom = dict(getattr(cut, "custom", None) or {}) or None
    made.supervisions = list(cut.supervisions)
    return made


def _check_out(out: Path, made_of: str) -> None:
    """Refuse a folder that holds anything but an interrupted write of the same set."""
    listing, unfinished = out / "distortions.tsv", out / _UNFINISHED
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file: choose a folder for the distorted copy")
    if listing.exists() and not unfinished.exists():
        raise UserError(f"{listing} exists: choose another folder, or remove it first")
    if unfinished.exists():
        if unfinished.read_text(encoding="utf-8") != made_of:
            raise UserError(
                f"{out} holds an unfinished copy of another set: remove it, or choose another folder"
            )
    elif out.is_dir() and any(out.iterdir()):
        raise UserError(f"{out} is not empty: choose a new or empty folder for the distorted copy")


def _check_apart(cuts: Sequence[Cut], out: Path) -> None:
    """Refuse to write into a folder that holds recordings of the speech."""
    folder = out.resolve()
    for cut in cuts:
        for source in [source for recording in recordings_of(cut) for source in recording.sources]:
            if source.type == "file" and Path(str(source.source)).resolve().is_relative_to(folder):
                raise UserError(f"{out} holds {source.source}, which is to be distorted: choose another")


def describe(plan: UtterancePlan) -> list[str]:
    """What was applied to an utterance, as columns of `distortions.tsv`."""
    parameters = {
        "none": "",
        "reverb": f"room_scale={plan.room_scale}",
        "pitch": f"cents={plan.cents:.1f}",
        "band_reject": f"hz={plan.low_hz:.1f}-{plan.high_hz:.1f}",
        "clipping": f"factor={plan.clip_factor:.3f}",
        "time_drop": f"ms={1000 * plan.n_dropped / SAMPLE_RATE:.1f}",
    }[plan.non_additive]
    if plan.rir and plan.rir_db is not None:  # None: unit energy
        parameters = ", ".join(filter(None, [parameters, f"rir_db={plan.rir_db:g}"]))
    snr = "" if plan.additive == "none" else f"{plan.snr_db:.2f}"
    return [plan.additive, snr, plan.non_additive, parameters, "yes" if plan.rir else "no"]
