"""A recogniser of words that was never trained, and speech for it."""

from __future__ import annotations

from typing import Any

import torch
from lhotse import MonoCut, Recording, SupervisionSegment
from rapidfuzz.distance import Levenshtein

from distill.analysis.models import OurModel
from distill.analysis.recognition import Recognised, Recogniser, character_errors, ctc_losses
from distill.downstream.decoding import greedy
from distill.errors import DataError
from distill.hubert import HubertEncoder

LETTERS = "_ ABCDEFG"  # the blank first


class StandIn(Recogniser):
    """CTC over a few letters on a random encoder."""

    metrics = ("wer", "cer")

    def __init__(self, seed: int = 0, name: str = "stand-in"):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.model = OurModel(HubertEncoder.from_preset("mini"), name)
            self.head = torch.nn.Linear(self.model.encoder.config.dim, len(LETTERS)).requires_grad_(False)
            self.head.weight *= 3
        self.name, self.identity = name, f"identity of {name} {seed}"

    def outputs(self, waveforms, lengths):
        found = self.model.activations(waveforms, lengths, [self.model.layers[-1]])
        (states,), (frames,) = found.states.values(), found.lengths.values()
        return self.head(states).log_softmax(-1), frames

    def loss(self, outputs, frames, cuts):
        targets = [[LETTERS.index(letter) for letter in text_of(cut)] for cut in cuts]
        return ctc_losses(outputs, frames, targets, blank=0)

    def recognise(self, outputs, frames, cuts):
        found = []
        for row, count, cut in zip(outputs, frames.tolist(), cuts, strict=True):
            said = "".join(LETTERS[number] for number in greedy(row[:count]))
            truth, words = text_of(cut), said.split()
            wrong = Levenshtein.distance(words, truth.split())
            errors = {"wer": (float(wrong), float(len(truth.split()))), "cer": character_errors(truth, said)}
            found.append(Recognised(errors, truth, " ".join(words)))
        return found

    def check(self, cuts):
        for cut in cuts:
            if not cut.supervisions:
                raise DataError(f"{cut.id} has no transcript")


def text_of(cut: Any) -> str:
    return cut.supervisions[0].text


def cut_of(name: str, samples: torch.Tensor, text: str | None, folder: Any) -> Any:
    """An utterance on disk."""
    import soundfile

    path = folder / f"{name}.wav"
    soundfile.write(path, samples.numpy(), 16_000, subtype="FLOAT")
    cut = Recording.from_file(path, recording_id=name).to_cut()
    assert isinstance(cut, MonoCut)
    cut.id = name
    if text is not None:
        cut.supervisions = [SupervisionSegment(name, name, 0.0, cut.duration, text=text)]
    return cut
