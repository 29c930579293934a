"""Testing a head on distorted speech.

Shapes: F frames, V outputs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from lhotse.cut import Cut
from torch import Tensor
from tqdm import tqdm

from distill.batch import Batch
from distill.data.dataset import SpeechDataset
from distill.data.loading import dev_loader
from distill.data.manifest import ListedCuts
from distill.data.noise import NoiseReader, refuse_lost
from distill.distortions import Distorter
from distill.downstream.distorted_sets import silent_parts
from distill.downstream.head_training import HeadTraining
from distill.downstream.labels import Outcome
from distill.errors import DataError

_WORTH_A_PROCESS = 200
"""Test utterances for each data worker; fewer are read faster than a process starts."""


@dataclass
class Measured:
    """Outcomes of a test."""

    outcomes: list[dict[str, Outcome]]
    """For each decoder, by utterance id."""
    silent: Counter[str] = field(default_factory=Counter)
    """Utterances that did not get their noise or room, by what was silent: speech, noise, rir."""


@torch.inference_mode()
def measure(
    module: HeadTraining,
    cuts: Sequence[Cut],
    targets: Mapping[str, list[int]],
    distorter: Distorter,
    noises: NoiseReader,
    *,
    seed: int,
    batch_size: int,
    workers: int,
    name: str,
    decoders: Sequence[Callable[[Tensor], list[str]] | None] = (None,),
) -> Measured:
    """Errors on distorted speech: the same audio for every model, batch size and number of workers.

    Args:
        module: trained, on any device.
        cuts: test utterances, sorted by length.
        targets: by utterance id.
        distorter: of the condition, for the split "test".
        noises: reader of the noise that it needs.
        seed: of the distortions.
        batch_size: utterances.
        workers: data loading processes.
        name: for the progress bar.
        decoders: each is used; None: greedy decoding.

    Raises:
        DataError: for an utterance, noise or room that cannot be read: scores are of the complete test set.
    """
    speech = SpeechDataset(
        ListedCuts(cuts),
        distorter=distorter,
        noises=noises,
        streams=["test"],
        max_samples=1 << 62,
        model=module.encoder.config,
        seed=seed,
        fixed_epoch=True,
    )
    module.eval()
    measured = Measured([{} for _ in decoders])
    workers = min(workers, len(cuts) // _WORTH_A_PROCESS)
    loader = dev_loader(speech, batch_size=batch_size, workers=workers)
    batch: Batch
    for batch in tqdm(loader, total=-(-len(cuts) // batch_size), desc=name, unit="batch", disable=None):
        if batch.skipped:
            raise DataError(f"test utterance {batch.skipped[0][0]}: {batch.skipped[0][1]}; fix it first")
        view = batch.views["test"].to(module.device)
        refuse_lost(batch.noise_lost)
        waves, done = distorter.apply(
            batch.waveforms.to(module.device), batch.lengths, view.plan, view.noises, view.rirs
        )
        for wave, n_samples, plan, applied in zip(
            batch.waveforms, batch.lengths, view.plan, done, strict=True
        ):
            measured.silent.update(silent_parts(wave[:n_samples], plan, applied))
        selected, frames = module.encode(waves, batch.lengths)
        outputs = module.head(module.selection(selected), frames)
        truth = [targets[name] for name in batch.ids]
        for number, decode in enumerate(decoders):
            outcomes = module.labels.outcomes(module.head, outputs, frames, truth, decode)
            measured.outcomes[number] |= zip(batch.ids, outcomes, strict=True)
    return measured
