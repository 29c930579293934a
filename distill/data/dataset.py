"""From utterances to batches: speech, and the noise that the plan asks for, read by the data workers.

Every random choice (crop, distortion, noise clip) is a hash of (seed, epoch, utterance id) and comes from no
generator, so an utterance comes out the same whatever batch, process or worker it falls to, and a resumed run
needs no generator's state. Shapes: B utterances, T samples at 16 kHz.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from lhotse.cut import Cut
from torch import Tensor
from torch.utils.data import Dataset

from distill.batch import Batch
from distill.data.audio import read_audio, samples_at_16k
from distill.data.manifest import Cuts
from distill.data.noise import NoiseReader
from distill.distortions import Distorter
from distill.distortions.distorter import white_noise
from distill.encoder import EncoderConfig
from distill.errors import DataError
from distill.hashing import hash_number
from distill.hubert import HubertConfig
from distill.waveforms import pad

_MOST_REPLACEMENTS = 100  # more consecutive unusable utterances than bad luck explains


class SpeechDataset(Dataset):
    """(epoch, number of the batch, numbers of cuts) -> `Batch`, in the data workers.

    Args:
        cuts: the speech.
        distorter: draws the plans; None for clean speech only.
        noises: reads what the plans ask for.
        streams: the views to draw ("student", "teacher").
        max_samples: longer utterances are cropped at a random place.
        seed: of crops and plans.
        targets: by utterance id, cluster labels, one for each frame of the model (masked prediction).
        model: crops begin at its frames, and utterances shorter than one frame cannot be used; default:
            HuBERT base.
        fixed_epoch: draw the same crops and distortions in every epoch (dev sets).
        max_steps: updates of the training, through which a curriculum runs; None: SNRs are of the whole
            range.
    """

    def __init__(
        self,
        cuts: Cuts,
        *,
        distorter: Distorter | None = None,
        noises: NoiseReader | None = None,
        streams: Sequence[str] = (),
        max_samples: int = 250_000,
        seed: int = 0,
        targets: Mapping[str, np.ndarray] | None = None,
        model: EncoderConfig | None = None,
        fixed_epoch: bool = False,
        max_steps: int | None = None,
    ):
        self.cuts = cuts
        self.distorter = distorter
        self.noises = noises or NoiseReader({})
        self.streams = tuple(streams)
        self.max_samples = max_samples
        self.seed = seed
        self.targets, self.model = targets, model or HubertConfig()
        self.fixed_epoch = fixed_epoch
        self.max_steps = max_steps
        self.batches_per_epoch = 0
        """Of the loader; needed with `max_steps`."""

    def __getitem__(self, item: tuple[int, int, Sequence[int]]) -> Batch:
        """Read and crop the speech, draw the plans, read their noise.

        Utterances that cannot be used are left out and listed in `Batch.skipped`. Every process needs a batch
        at every step: where nothing is left, an utterance from anywhere in the corpus takes its place (the
        neighbours of a lost file are often lost, too). The batch is empty only if a hundred of those cannot
        be used either.
        """
        epoch, index, numbers = item
        position = (epoch, index)
        if self.fixed_epoch:
            epoch = 0
        utterances, skipped = self._read(numbers, epoch)
        for attempt in range(_MOST_REPLACEMENTS):
            if not utterances:
                drawn = hash_number(self.seed, epoch, "replacement", index, numbers[0], attempt)
                utterances, more = self._read([drawn % len(self.cuts)], epoch)
                skipped += more
        if not utterances:
            empty = torch.zeros(0, self.model.min_samples), torch.zeros(0, dtype=torch.int64)
            return Batch([], *empty, position=position, skipped=skipped)
        ids = [name for name, _, _ in utterances]
        waveforms, lengths = pad([samples for _, samples, _ in utterances])
        batch = Batch(ids, waveforms, lengths, position=position, skipped=skipped)
        if self.targets is not None:
            labels = [label for _, _, label in utterances if label is not None]
            batch.targets = torch.nn.utils.rnn.pad_sequence(labels, batch_first=True, padding_value=-1)
        for stream in self.streams:
            assert self.distorter is not None
            progress = self._progress(*position)
            plan = self.distorter.plan(ids, seed=self.seed, epoch=epoch, stream=stream, progress=progress)
            view = self.noises.view(plan, lengths.tolist())
            view.reads, view.lost = self.noises.take_reads(), self.noises.take_lost()
            view.silent, view.pauses = self.noises.take_silent()
            if self.distorter.config.where == "workers":
                view = view.distorted_by(self.distorter, waveforms, lengths)
            else:  # drawn here, it costs the training step nothing
                view.white = white_noise(plan, lengths.tolist())
            batch.views[stream] = view
        return batch

    def _progress(self, epoch: int, index: int) -> float:
        """Share of the training that lies before a batch: one batch is one update."""
        if self.max_steps is None:
            return 1.0
        return min((epoch * self.batches_per_epoch + index) / self.max_steps, 1.0)

    def _read(
        self, numbers: Sequence[int], epoch: int
    ) -> tuple[list[tuple[str, Tensor, Tensor | None]], list[tuple[str, str]]]:
        """(id, samples, labels) of the utterances that can be used, (id, reason) of the others."""
        usable: list[tuple[str, Tensor, Tensor | None]] = []
        skipped: list[tuple[str, str]] = []
        for number in numbers:
            cut = self.cuts[number]
            try:
                usable.append((cut.id, *self._utterance(cut, epoch)))
            except DataError as error:
                skipped.append((cut.id, str(error).removeprefix(f"{cut.id}: ")))
        return usable, skipped

    def _utterance(self, cut: Cut, epoch: int) -> tuple[Tensor, Tensor | None]:
        """Samples (T,) of an utterance or a crop of it, and the cluster labels of its frames, if any."""
        total = samples_at_16k(cut)
        start = 0
        if total > self.max_samples:  # on a frame boundary, so that labels fit
            room = (total - self.max_samples) // self.model.hop
            start = self.model.hop * (hash_number(self.seed, epoch, "crop", cut.id) % (room + 1))
        samples = read_audio(cut, start, min(total, self.max_samples))
        check_length(cut.id, len(samples), self.model)
        if self.targets is None:
            return samples, None
        if cut.id not in self.targets:
            raise DataError(f"{cut.id}: no cluster labels for it; make the targets again")
        frames = self.model.frames(len(samples))
        labels = torch.from_numpy(self.targets[cut.id].astype(np.int64))[start // self.model.hop :][:frames]
        missing = frames - len(labels)
        if missing > 1 or not len(labels):
            raise DataError(f"{cut.id}: {len(labels)} labels for {frames} frames; make the targets again")
        return samples, torch.cat([labels, labels[-1:].expand(missing)])


def check_length(name: str, n_samples: int, model: EncoderConfig) -> None:
    """Refuse an utterance that is shorter than one frame of the model.

    Raises:
        DataError: naming it.
    """
    if n_samples < model.min_samples:
        raise DataError(f"{name}: {n_samples} samples, a frame needs {model.min_samples}")
