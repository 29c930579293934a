"""From manifests to batches: speech, and the noise that the plan asks for, read by the data workers.

Every random choice (crop, distortion, noise clip) is a hash of (seed, epoch, utterance id), so an utterance
comes out the same whatever batch, process or worker it falls to. Shapes: B utterances, T samples at 16 kHz.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import logging
import operator
import signal
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lhotse import CutSet, MonoCut, Recording
from lhotse.cut import Cut
from lhotse.dataset.sampling import DynamicBucketingSampler, SimpleCutSampler
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from distill.batch import Batch, View, pad
from distill.distortions import Distorter, Plan, UtterancePlan
from distill.distortions.additive import noise_segment
from distill.errors import DataError
from distill.hubert import SAMPLE_RATE

logger = logging.getLogger(__name__)

AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".aiff", ".aif")
MIN_SAMPLES = 400  # one frame of HuBERT
HOP = 320  # samples between frames

# ---------------------------------------------------------------------------------------------------- sources


def open_cuts(sources: str | Path | Sequence[str]) -> CutSet:
    """Open speech or noise.

    Args:
        sources: one or several of: a lhotse cut manifest (.jsonl, .jsonl.gz; opened lazily), a TSV with a
            header and a column `path` (relative to the TSV), a folder of audio (searched recursively).
            `FILE.tsv?column=value&column=value` keeps the rows that match.

    Raises:
        DataError: for a source that is missing, empty or of another kind.
    """
    if isinstance(sources, str | Path):
        sources = [str(sources)]
    if not sources:
        raise DataError(
            "no source of audio given: name a manifest, TSV or folder in the recipe's data section"
        )
    opened = [_open_source(source) for source in sources]
    return functools.reduce(operator.add, opened)


def _open_source(source: str) -> CutSet:
    location, _, query = source.partition("?")
    path = Path(location)
    if not path.exists():
        raise DataError(f"{location} does not exist{_how_to_make(path)}")
    if query and path.suffix != ".tsv":
        raise DataError(f"{source}: only the rows of a .tsv can be chosen with ?column=value")
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.suffix.lower() in AUDIO_SUFFIXES)
        cuts = _cuts_from_files([(str(p.relative_to(path).with_suffix("")), p, {}) for p in files])
    elif path.name.endswith((".jsonl", ".jsonl.gz")):
        cuts = CutSet.from_jsonl_lazy(path)
    elif path.suffix == ".tsv":
        cuts = _cuts_from_tsv(path, query)
    else:
        raise DataError(f"{location}: expected a .jsonl.gz manifest, a .tsv or a folder of audio")
    try:
        empty = next(iter(cuts), None) is None
    except Exception as error:  # noqa: BLE001 lhotse raises whatever its parser does
        raise DataError(f"{location}: not a lhotse cut manifest ({error})") from None
    if empty:
        raise DataError(f"{source} has no audio: nothing in it (or no row) matches")
    return cuts


def _how_to_make(path: Path) -> str:
    """A hint, for manifests in the place where `distill data prepare` would put them."""
    from data_prep import CORPORA

    corpus = path.parent.name
    if not path.name.endswith(".jsonl.gz"):
        return ""
    if corpus in CORPORA:
        return f": make it with `distill data prepare {corpus} --out {path.parent}`"
    return ": set data.root to the folder of your manifests, or name other sources in data.train and so on"


def _cuts_from_tsv(path: Path, query: str) -> CutSet:
    pairs = [pair.partition("=") for pair in query.split("&") if pair]
    wanted = {column: value for column, _, value in pairs}
    lines = path.read_text(encoding="utf-8").splitlines()
    header = lines[0].split("\t") if lines else []
    unknown = [column for column in ("path", *wanted) if column not in header]
    if unknown:
        raise DataError(
            f"{path}: no column {unknown[0]!r} in its header ({', '.join(header) or 'empty file'})"
        )
    entries = []
    for line in lines[1:]:
        row = dict(zip(header, line.split("\t"), strict=False))
        if all(row.get(column) == value for column, value in wanted.items()):
            extra = {name: value for name, value in row.items() if name != "path"}
            entries.append((str(Path(row["path"]).with_suffix("")), path.parent / row["path"], extra))
    return _cuts_from_files(entries)


def _cuts_from_files(entries: list[tuple[str, Path, dict[str, str]]]) -> CutSet:
    """(id, file, columns) -> cuts; headers are read in parallel."""

    def cut(entry: tuple[str, Path, dict[str, str]]) -> MonoCut | None:
        name, file, extra = entry
        try:
            recording = Recording.from_file(file, recording_id=name)
        except Exception as error:  # noqa: BLE001 any broken file
            logger.warning("skipped %s: %s", file, _reason(error))
            return None
        if not recording.num_samples:
            logger.warning("skipped %s: it holds no samples", file)
            return None
        made = recording.to_cut()
        made.id = name
        made.custom = dict(extra)
        return made  # pyright: ignore[reportReturnType]

    with ThreadPoolExecutor(8) as pool:
        return CutSet.from_cuts(made for made in list(pool.map(cut, entries)) if made is not None)


# ------------------------------------------------------------------------------------------------------ audio


def read_audio(cut: Cut, start: int = 0, count: int | None = None) -> Tensor:
    """The samples of a cut, mono at 16 kHz.

    Args:
        cut: of any sampling rate and number of channels (averaged).
        start: first sample wanted, at 16 kHz.
        count: number of samples wanted, at 16 kHz; None: to the end.

    Raises:
        DataError: if the file cannot be read, is shorter than promised, or holds values that are not finite.
    """
    rate = cut.sampling_rate
    try:
        if start or count is not None:
            duration = None if count is None else min(count / SAMPLE_RATE, cut.duration - start / SAMPLE_RATE)
            cut = cut.truncate(offset=start / SAMPLE_RATE, duration=duration, preserve_id=True)
        audio = cut.load_audio()
    except Exception as error:  # noqa: BLE001 every decoder has its own exceptions
        raise DataError(f"{cut.id}: cannot be read ({_reason(error)})") from None
    assert audio is not None
    samples = torch.from_numpy(np.atleast_2d(audio).mean(0, dtype=np.float32))
    if rate != SAMPLE_RATE:
        import torchaudio.functional

        samples = torchaudio.functional.resample(samples, int(rate), SAMPLE_RATE)
    if not torch.isfinite(samples).all():
        raise DataError(f"{cut.id}: samples are not finite")
    return samples if count is None else samples[:count]


def _reason(error: Exception) -> str:
    """One line of lhotse's errors, which list what every decoder said."""
    first, *details = str(error).splitlines() or [type(error).__name__]
    if first.startswith("The number of declared samples"):
        return "its file is not as long as its manifest says"
    return details[0].rpartition("'>: ")[2] if details and first.endswith("Details:") else first


def samples_at_16k(cut: Cut) -> int:
    """Length of a cut, in samples at 16 kHz."""
    return round(cut.duration * SAMPLE_RATE)


class NoiseReader:
    """Finds and reads the noise segments and room responses that plans ask for.

    Args:
        corpora: by name ("musan", "wham", "fsd", "dns", "rir"): sources as for `open_cuts`.

    Raises:
        DataError: for a source that is missing or empty.
    """

    def __init__(self, corpora: Mapping[str, str | Sequence[str]]):
        self.corpora: dict[str, list[Cut]] = {name: list(open_cuts(s)) for name, s in corpora.items()}

    def noise(self, plan: UtterancePlan, n_samples: int) -> Tensor | None:
        """The noise for an utterance of `n_samples`: a segment of that length, or a shorter clip as it is."""
        if plan.additive in ("none", "gaussian"):
            return None
        cut = self._choose(plan.additive, plan.noise_choice)
        start, count = noise_segment(samples_at_16k(cut), n_samples, plan.noise_offset)
        try:
            return read_audio(cut, start, count)
        except DataError as error:  # one broken clip must not end a run of days
            logger.warning("used silence for the noise %s", error)
            return torch.zeros(1)  # the distorter leaves such an utterance as it is, and counts it

    def rir(self, plan: UtterancePlan) -> Tensor | None:
        """The room impulse response for an utterance."""
        return read_audio(self._choose("rir", plan.rir_choice)) if plan.rir else None

    def view(self, plan: Plan, lengths: Iterable[int]) -> View:
        """Everything that a plan for utterances of these lengths needs."""
        pairs = list(zip(plan.utterances, lengths, strict=True))
        return View(plan, [self.noise(u, n) for u, n in pairs], [self.rir(u) for u, _ in pairs])

    def _choose(self, corpus: str, choice: float) -> Cut:
        if corpus not in self.corpora:
            raise DataError(
                f"{corpus} recordings are asked for, but no source is given: recipes name it in "
                f"data.noises.{corpus}, commands with --noise {corpus}=SOURCE"
            )
        clips = self.corpora[corpus]
        return clips[int(choice * len(clips))]


# ---------------------------------------------------------------------------------------------------- batches


class SpeechDataset(Dataset):
    """(epoch, number of the batch, cuts) -> `Batch`, in the data workers.

    Args:
        distorter: draws the plans; None for clean speech only.
        noises: reads what the plans ask for.
        streams: the views to draw ("student", "teacher").
        max_samples: longer utterances are cropped at a random place.
        seed: of crops and plans.
        targets: by utterance id, cluster labels at 50 Hz (masked prediction).
        fixed_epoch: draw the same crops and distortions in every epoch (dev sets).
    """

    def __init__(
        self,
        *,
        distorter: Distorter | None = None,
        noises: NoiseReader | None = None,
        streams: Sequence[str] = (),
        max_samples: int = 250_000,
        seed: int = 0,
        targets: Mapping[str, np.ndarray] | None = None,
        fixed_epoch: bool = False,
    ):
        self.distorter = distorter
        self.noises = noises or NoiseReader({})
        self.streams = tuple(streams)
        self.max_samples = max_samples
        self.seed = seed
        self.targets = targets
        self.fixed_epoch = fixed_epoch

    def __getitem__(self, item: tuple[int, int, CutSet]) -> Batch:
        """Read and crop the speech, draw the plans, read their noise. Unreadable utterances are left out."""
        epoch, index, cuts = item
        position = (epoch, index)
        if self.fixed_epoch:
            epoch = 0
        utterances: list[tuple[str, Tensor, Tensor | None]] = []
        problem = ""
        for cut in iter(cuts):  # pyright: ignore[reportGeneralTypeIssues]
            try:
                utterances.append((cut.id, *self._utterance(cut, epoch)))
            except DataError as error:
                problem = str(error)
                logger.warning("skipped %s", problem)
        if not utterances:
            raise DataError(f"not one utterance of a batch could be used; the last: {problem}")
        ids = [name for name, _, _ in utterances]
        waveforms, lengths = pad([samples for _, samples, _ in utterances])
        batch = Batch(ids, waveforms, lengths, position=position)
        if self.targets is not None:
            labels = [label for _, _, label in utterances if label is not None]
            batch.targets = torch.nn.utils.rnn.pad_sequence(labels, batch_first=True, padding_value=-1)
        for stream in self.streams:
            assert self.distorter is not None
            plan = self.distorter.plan(ids, seed=self.seed, epoch=epoch, stream=stream)
            batch.views[stream] = self.noises.view(plan, lengths.tolist())
        return batch

    def _utterance(self, cut: Cut, epoch: int) -> tuple[Tensor, Tensor | None]:
        """Samples, and cluster labels if there are any, of the same stretch of the utterance."""
        total = samples_at_16k(cut)
        start = 0
        if total > self.max_samples:  # on a frame boundary, where the labels are
            room = (total - self.max_samples) // HOP
            start = HOP * (hash_number(self.seed, epoch, "crop", cut.id) % (room + 1))
        samples = read_audio(cut, start, min(total, self.max_samples))
        if len(samples) < MIN_SAMPLES:
            raise DataError(f"{cut.id}: {len(samples)} samples, a frame needs {MIN_SAMPLES}")
        if self.targets is None:
            return samples, None
        if cut.id not in self.targets:
            raise DataError(f"{cut.id}: no cluster labels for it; make the targets again")
        frames = (len(samples) - MIN_SAMPLES) // HOP + 1
        labels = torch.from_numpy(self.targets[cut.id].astype(np.int64))[start // HOP :][:frames]
        missing = frames - len(labels)
        if missing > 1 or not len(labels):
            raise DataError(f"{cut.id}: {len(labels)} labels for {frames} frames; make the targets again")
        return samples, torch.cat([labels, labels[-1:].expand(missing)])


def hash_number(*parts: Any) -> int:
    """A 64-bit number that depends on nothing but `parts`."""
    return int.from_bytes(hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=8).digest())


class EpochSampler:
    """Tags the batches of a lhotse sampler with their epoch and number; every iteration is the next epoch.

    Lightning's own count of epochs is not used: it makes the first iterator of a resumed run before it says
    which epoch that is, and counts an epoch twice that was stopped at its last batch. A run resumed there
    starts with an empty iteration, as Lightning expects.
    """

    def __init__(self, sampler: Any):
        self.sampler = sampler
        self.epoch = 0
        self.skip = 0

    def start_behind(self, epoch: int, batches: int) -> None:
        """Let the next iteration be that epoch, without its first batches: those that the run consumed."""
        self.epoch, self.skip = epoch, batches

    def __iter__(self) -> Iterator[tuple[int, int, CutSet]]:
        epoch, skip = self.epoch, self.skip
        self.epoch, self.skip = epoch + 1, 0
        self.sampler.set_epoch(epoch)  # shuffles differently
        for index, cuts in enumerate(self.sampler):
            if index >= skip:
                yield epoch, index, cuts


def train_loader(
    cuts: CutSet,
    dataset: SpeechDataset,
    *,
    batch_size: int,
    buckets: int,
    workers: int,
    seed: int = 0,
    rank: int = 0,
    world_size: int = 1,
) -> DataLoader:
    """Shuffled batches of utterances of similar length; every process gets its own, and equally many.

    Args:
        cuts: the training speech.
        dataset: makes a batch of them.
        batch_size: utterances of the global batch.
        buckets: duration buckets, at most; fewer where the corpus cannot fill them.
        workers: processes.
        seed: of the order.
        rank: of this process.
        world_size: number of processes.

    Raises:
        DataError: if the batch cannot be divided by the number of processes.
    """
    if batch_size % world_size:
        raise DataError(
            f"data.batch_size {batch_size} (global) is not a multiple of the {world_size} processes: "
            f"try data.batch_size={world_size * max(1, round(batch_size / world_size))}"
        )
    # A bucket that cannot fill a batch would only make small ones of a small corpus.
    filled = sum(1 for _ in itertools.islice(iter(cuts), buckets * batch_size)) // batch_size
    sampler = DynamicBucketingSampler(
        cuts,
        max_cuts=batch_size // world_size,
        num_buckets=filled,
        duration_bins=[] if filled < 2 else None,  # pyright: ignore[reportArgumentType]
        shuffle=True,
        drop_last=False,
        seed=seed,
        rank=rank,
        world_size=world_size,
    )
    return _loader(EpochSampler(sampler), dataset, workers)


def dev_loader(
    cuts: CutSet,
    dataset: SpeechDataset,
    *,
    batch_size: int,
    workers: int,
    rank: int = 0,
    world_size: int = 1,
) -> DataLoader:
    """The same batches every time, in the order of the manifest."""
    sampler = SimpleCutSampler(
        cuts, max_cuts=max(1, batch_size // world_size), shuffle=False, rank=rank, world_size=world_size
    )
    return _loader(EpochSampler(sampler), dataset, workers)


def _loader(sampler: EpochSampler, dataset: SpeechDataset, workers: int) -> DataLoader:
    return DataLoader(
        dataset,
        sampler=sampler,  # pyright: ignore[reportArgumentType]
        batch_size=None,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=_start_worker if workers else None,
    )


def _start_worker(_: int) -> None:
    """One thread each; Ctrl-C and SIGTERM reach the whole process group, but are for the main process."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
