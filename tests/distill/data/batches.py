"""Datasets over the shared speech, and what their batches hold."""

import torch

from distill.data.dataset import SpeechDataset
from distill.data.manifest import ListedCuts
from distill.data.noise import NoiseReader
from distill.distortions import Distorter, DistortionConfig


def ids(cuts) -> list[str]:
    return [cut.id for cut in cuts]


def dataset(cuts, noise_folder=None, **options) -> SpeechDataset:
    """With both views if there is noise for them."""
    if noise_folder is not None:
        source = str(noise_folder)
        options |= {
            "distorter": Distorter.from_config(DistortionConfig()),
            "noises": NoiseReader({"musan": source, "wham": source}),
            "streams": ["student", "teacher"],
        }
    return SpeechDataset(ListedCuts(list(cuts)), **options)


def by_utterance(batches) -> dict[str, tuple]:
    """Samples and both plans of each utterance, checking that none comes twice."""
    found = {}
    for batch in batches:
        for row, name in enumerate(batch.ids):
            assert name not in found
            views = {stream: (v.plan[row], v.noises[row]) for stream, v in batch.views.items()}
            found[name] = batch.waveforms[row, : batch.lengths[row]], views
    return found


def same(a: dict[str, tuple], b: dict[str, tuple]) -> bool:
    if a.keys() != b.keys():
        return False
    for name, (samples, views) in a.items():
        others = b[name][1]
        if not torch.equal(samples, b[name][0]) or views.keys() != others.keys():
            return False
        for stream, (plan, noise) in views.items():
            other_plan, other_noise = others[stream]
            if plan != other_plan or (noise is None) != (other_noise is None):
                return False
            if noise is not None and not torch.equal(noise, other_noise):
                return False
    return True
