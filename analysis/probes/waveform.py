"""Recognition of perturbed waveforms (E1 of the robustness analysis): errors and time of several models.

All models hear the same audio, utterance by utterance (batch size 1, as in the paper, so that the time of one
utterance does not depend on its neighbours and no padding is heard). What is measured is written down value
by value, and a later call continues.

Shapes: T samples at 16 kHz.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lhotse import CutSet
from lhotse.cut import Cut
from torch import Tensor
from tqdm import tqdm
from typing_extensions import override

from distill.analysis.probes.perturbations import Perturbation, generator_for, measured_snr
from distill.analysis.probes.waveform_rows import (
    KEY,
    Heard,
    add_differences,
    make_row,
    outcomes_of,
    predictions_of,
    row_key,
    write_predictions,
)
from distill.analysis.recognition import Recognised, Recogniser
from distill.analysis.record import Record, Row
from distill.data.audio import read_audio
from distill.data.contents import contents_of
from distill.data.sources import check_names
from distill.downstream.bootstrap import Outcomes
from distill.errors import UsageError, UserError
from distill.hashing import hash_lines, hash_number
from distill.preflight.survey import check_files
from distill.waveforms import is_silent

logger = logging.getLogger(__name__)

KIND = "probe waveform"
"""In the record of the analysis."""
UTTERANCES = 200
"""Of the paper."""
_AT_ONCE = 50  # utterances whose audio is in memory: models take turns, their weights stay in the cache


def choose_utterances(cuts: CutSet, count: int | None, *, seed: int = 0) -> list[Cut]:
    """Some utterances, chosen by a hash of their ids, in the order of their ids.

    Args:
        cuts: all.
        count: how many; None: all.
        seed: another seed, other utterances.
    """
    ordered: list[Cut] = sorted(cuts, key=lambda cut: hash_number("utterances", seed, cut.id))  # pyright: ignore
    return sorted(ordered[:count], key=lambda cut: cut.id)


def probe_waveform(
    recognisers: Sequence[Recogniser],
    cuts: Sequence[Cut],
    perturbations: Sequence[Perturbation],
    *,
    seed: int = 0,
    out: Path | None = None,
) -> list[Row]:
    """Errors of each model under each perturbation.

    Args:
        recognisers: with the same first metric.
        cuts: utterances with what the recognisers need to know of them.
        perturbations: each with its value.
        seed: of the perturbations.
        out: folder of the record and of a table of predictions for each row; what it has is not measured
            again.

    Returns:
        A row for each model, perturbation and value, also earlier ones of `out`: error rates in per cent
        with their intervals, times in seconds.

    Raises:
        UserError: for models that cannot be compared, speech that they cannot be tested on, or a folder with
            another analysis.
    """
    _check(recognisers, cuts)
    record = _record(out, cuts, seed)
    _refuse_others(record, recognisers, perturbations)
    outcomes: dict[tuple, Outcomes] = {}
    silent: set[str] = set()
    pending = [(each, [r for r in recognisers if not _measured(record, r, each)]) for each in perturbations]
    total = len(cuts) * sum(len(models) for _, models in pending)
    with tqdm(total=total, desc="perturbed speech", unit="utterance", disable=None) as progress:
        for perturbation, models in pending:
            progress.set_postfix_str(f"{perturbation.name} {perturbation.value:g}")
            heard, audio = _measure(perturbation, models, cuts, seed, progress)
            for recogniser in models:
                own = heard[recogniser.name]
                row = make_row(recogniser, perturbation, own, audio[recogniser.name], record.rows)
                outcomes[row_key(row)] = outcomes_of(own, row["metric"])
                if out is not None:
                    write_predictions(predictions_of(out, row), own)
                record.add(row)
            _say_short(perturbation, heard)
            silent |= {name for own in heard.values() for name, each in own.items() if each.silent}
    if silent:
        logger.warning("%s silent: no noise has a level relative to it", _some(sorted(silent), len(cuts)))
    if add_differences(record.rows, recognisers[0].name, outcomes, out):
        record.write()
    return record.rows


class _Unwritten(Record):
    """Rows that are kept in memory."""

    def __init__(self) -> None:
        self.folder, self.key, self.rows = Path(), KEY, []

    @override
    def write(self) -> None:
        """Nothing."""


def _record(out: Path | None, cuts: Sequence[Cut], seed: int) -> Record:
    if out is None:
        return _Unwritten()
    truths = [f"{c.id}\t{[s.text for s in c.supervisions]}\t{sorted(_texts(c).items())}" for c in cuts]
    settings = {
        "speech": contents_of(cuts, in_full=True),
        "truths": hash_lines(truths),
        "utterances": len(cuts),
        "seed": seed,
    }
    return Record(out, KIND, settings, KEY)


def _texts(cut: Any) -> dict[str, str]:
    """The columns of an utterance, classes among them."""
    return {name: value for name, value in (cut.custom or {}).items() if isinstance(value, str)}


def _check(recognisers: Sequence[Recogniser], cuts: Sequence[Cut]) -> None:
    first = recognisers[0]
    for other in recognisers[1:]:
        if other.metrics[0] != first.metrics[0]:
            raise UsageError(
                f"{first.name} is scored by {first.metrics[0]}, {other.name} by {other.metrics[0]}: probe "
                "them one after the other"
            )
    check_names(cuts, "the speech")
    check_files(cuts, "the speech")
    for recogniser in recognisers:
        recogniser.check(cuts)


def _refuse_others(
    record: Record, recognisers: Sequence[Recogniser], perturbations: Sequence[Perturbation]
) -> None:
    """Refuse to mix a model or perturbation with another of the same name: lines would be of both."""
    metric = recognisers[0].metrics[0]
    models = {each.name: each.identity for each in recognisers}
    audio = {each.name: each.what for each in perturbations}
    for row in record.rows:
        if row["metric"] != metric:
            raise UserError(
                f"{record.folder} has the {row['metric']} of {row['model']}, not {metric}: choose another "
                "--out"
            )
        if models.get(row["model"], row["identity"]) != row["identity"]:
            raise UserError(
                f"{record.folder} has another model by the name {row['model']}: choose another --out, or "
                "rename the model"
            )
        if audio.get(row["perturbation"], row["what"]) != row["what"]:
            raise UserError(
                f"{record.folder} has {row['perturbation']} with {row['what']}, not "
                f"{audio[row['perturbation']]}: choose another --out"
            )


def _measured(record: Record, recogniser: Recogniser, perturbation: Perturbation) -> bool:
    key = {"model": recogniser.name, "perturbation": perturbation.name, "value": perturbation.value}
    return key in record


def _measure(
    perturbation: Perturbation,
    recognisers: Sequence[Recogniser],
    cuts: Sequence[Cut],
    seed: int,
    progress: Any,
) -> tuple[dict[str, dict[str, Heard]], dict[str, str]]:
    """By model: what it made of each utterance, and a hash of the audio that it heard."""
    heard: dict[str, dict[str, Heard]] = {each.name: {} for each in recognisers}
    digests = defaultdict(lambda: hashlib.blake2b(digest_size=8))
    for start in range(0, len(cuts) if recognisers else 0, _AT_ONCE):
        block = cuts[start : start + _AT_ONCE]
        clean = [read_audio(cut) for cut in block]
        shared: list[Tensor] = []
        for recogniser in recognisers:
            if perturbation.per_model or not shared:
                shared = list(_perturb(perturbation, recogniser, block, clean, seed))
            if not start:
                _warm_up(recogniser, shared)
            for cut, before, after in zip(block, clean, shared, strict=True):
                digests[recogniser.name].update(after.numpy().tobytes())
                heard[recogniser.name][cut.id] = _hear(recogniser, cut, perturbation, before, after)
                progress.update()
    return heard, {name: digest.hexdigest() for name, digest in digests.items()}


def _perturb(
    perturbation: Perturbation,
    recogniser: Recogniser,
    cuts: Iterable[Cut],
    clean: Iterable[Tensor],
    seed: int,
) -> Iterator[Tensor]:
    for cut, waveform in zip(cuts, clean, strict=True):
        generator = generator_for(seed, cut.id, perturbation.drawn)
        yield perturbation.of(recogniser, cut)(waveform, generator)


@torch.inference_mode()
def _warm_up(recogniser: Recogniser, waveforms: Sequence[Tensor]) -> None:
    """The first passes allocate memory and choose kernels: they are not timed."""
    for waveform in waveforms[:2]:
        if len(waveform) >= recogniser.model.receptive_field:
            recogniser.outputs(waveform[None], torch.tensor([len(waveform)]))


@torch.inference_mode()
def _hear(
    recogniser: Recogniser, cut: Cut, perturbation: Perturbation, clean: Tensor, waveform: Tensor
) -> Heard:
    if len(waveform) < recogniser.model.receptive_field:
        recognised, seconds, cpu_s = _nothing(recogniser, cut), None, None
    else:
        _wait(recogniser)
        start, cpu_start = time.perf_counter(), time.process_time()
        outputs, frames = recogniser.outputs(waveform[None], torch.tensor([len(waveform)]))
        (recognised,) = recogniser.recognise(outputs, frames, [cut])
        _wait(recogniser)
        seconds, cpu_s = time.perf_counter() - start, time.process_time() - cpu_start
    same = len(clean) == len(waveform)
    return Heard(
        recognised,
        seconds,
        cpu_s,
        measured_snr(clean, waveform) if same and perturbation.keeps_samples else None,
        same and torch.equal(clean, waveform),
        is_silent(clean),
    )


def _nothing(recogniser: Recogniser, cut: Cut) -> Recognised:
    """An utterance of which no frame is left: everything that was said is missing."""
    n_samples = recogniser.model.receptive_field
    outputs, frames = recogniser.outputs(torch.zeros(1, n_samples), torch.tensor([n_samples]))
    (found,) = recogniser.recognise(outputs, frames, [cut])
    return Recognised(
        {metric: (units, units) for metric, (_, units) in found.errors.items()}, found.truth, ""
    )


def _wait(recogniser: Recogniser) -> None:
    if recogniser.model.device.type == "cuda":
        torch.cuda.synchronize(recogniser.model.device)


def _say_short(perturbation: Perturbation, heard: Mapping[str, Mapping[str, Heard]]) -> None:
    short = {name for own in heard.values() for name, each in own.items() if each.seconds is None}
    if short:
        total = len(next(iter(heard.values())))
        about = f"{perturbation.name} {perturbation.value:g}: {_some(sorted(short), total)}"
        logger.warning("%s without a frame: all that was said counts as missing", about)


def _some(names: Sequence[str], total: int) -> str:
    if len(names) == 1:
        return f"{names[0]} is"
    return f"{names[0]} and {len(names) - 1} others of {total} are"
