"""One utterance under each distortion, as sound and spectrogram.

Shapes: T samples at 16 kHz, F frames, M mel bands.
"""

from __future__ import annotations

import io
import itertools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import soundfile
import torch
from lhotse import CutSet
from lhotse.cut import Cut

from distill.data.noise import NoiseReader
from distill.data.sources import open_cuts
from distill.data.unusable import why_unusable
from distill.downstream.distorted_sets import DistortedSet, find_condition
from distill.errors import DataError
from distill.training.listening import describe, log_mel
from distill.waveforms import SAMPLE_RATE

logger = logging.getLogger(__name__)

KINDS = {
    "clean": "Clean",
    "musan": "MUSAN noise",
    "wham": "WHAM! noise",
    "gaussian": "Gaussian noise",
    "reverb": "Reverberation",
    "pitch": "Pitch shift",
    "band_reject": "Band rejection",
    "2-dist": "2-dist: noise, then another effect",
    "fsd": "FSD50K noise, not heard in training",
    "dns": "Room and DNS noise, not heard in training",
}
LONGEST_S = 3.0
_DRAWS = 100  # tries for a plan that applies both effects, which 9 in 16 plans of 2-dist do
_N_CANDIDATES = 200  # utterances among which one is chosen


@dataclass(frozen=True)
class Sample:
    """One distortion of an utterance."""

    title: str
    """The kind of distortion."""
    caption: str
    """What was done."""
    flac: bytes
    """16 kHz, 16 bits."""
    spectrogram: bytes
    """PNG: log-mel, time to the right, low bands at the bottom."""


def choose_utterance(speech: str) -> Cut:
    """Of the first utterances, the one nearest to three seconds, cut to that if it is longer."""
    usable = (cut for cut in iter(open_cuts(speech)) if not why_unusable(cut))  # pyright: ignore
    cuts = list(itertools.islice(usable, _N_CANDIDATES))
    if not cuts:
        raise DataError(f"{speech}: none of its files can be used")
    best: Cut = min(cuts, key=lambda cut: abs(cut.duration - LONGEST_S))  # pyright: ignore
    # Distortions are drawn from the id, which must therefore stay the same.
    return best.truncate(duration=LONGEST_S, preserve_id=True) if best.duration > LONGEST_S else best  # pyright: ignore


def samples_of_distortions(speech: str, noises: Mapping[str, Sequence[str]]) -> tuple[str, list[Sample]]:
    """An utterance under each of `KINDS` that there is noise for.

    Args:
        speech: manifest, TSV or folder of audio.
        noises: by corpus, sources of noise.

    Returns:
        The utterance's id, and the samples.

    Raises:
        DataError: for a source that is missing or empty.
    """
    cut, reader = choose_utterance(speech), NoiseReader(noises)
    samples = []
    for kind, title in KINDS.items():
        needed = set(find_condition(kind).corpora)
        if needed <= reader.corpora.keys() and (sample := _sample(cut, kind, title, reader)):
            samples.append(sample)
    return str(cut.id), samples


def _sample(cut: Cut, kind: str, title: str, reader: NoiseReader) -> Sample | None:
    """None if the kind cannot be applied because the utterance, or all noise that is drawn, is silent."""
    config = find_condition(kind)
    for seed in range(_DRAWS):
        dataset = DistortedSet(CutSet.from_cuts([cut]), config, reader, seed=seed)
        _, waveforms, lengths, plan = next(dataset.batches(1))
        done = plan[0]
        effects = [(done.additive, config.additive), (done.non_additive, config.non_additive)]
        if all(name != "none" or set(choices) == {"none"} for name, choices in effects):
            break  # a kind that may leave an effect out ("2-dist") is shown with all of them
    else:
        logger.warning("no sound of %s with %s: the utterance or the noise is silent", kind, cut.id)
        return None
    samples = waveforms[0, : int(lengths[0])]
    return Sample(title, describe(done), encode_flac(samples.numpy()), draw_spectrogram(samples))


def encode_flac(samples: np.ndarray) -> bytes:
    """(T,) -> FLAC file; a sound that is too loud is scaled rather than clipped."""
    peak = float(np.abs(samples).max(initial=0.0))
    file = io.BytesIO()
    soundfile.write(file, samples * min(1.0, 0.99 / max(peak, 1e-9)), SAMPLE_RATE, "PCM_16", format="FLAC")
    return file.getvalue()


def draw_spectrogram(samples: torch.Tensor) -> bytes:
    """(T,) -> PNG of F x M pixels."""
    from matplotlib.image import imsave

    file = io.BytesIO()
    imsave(file, log_mel(samples).numpy(), origin="lower", cmap="magma", format="png")
    return file.getvalue()
