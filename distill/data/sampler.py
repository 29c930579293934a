"""Which utterances make up which batch of which epoch, found at once for any of them.

Every epoch is a permutation of the whole corpus, computed place by place: no list is shuffled or kept. Groups
of `buckets` batches are taken from it, sorted by duration and cut into batches.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from distill.data.manifest import Cuts
from distill.errors import DataError
from distill.hashing import hash_number

_ROUNDS = 8


class EpochSampler:
    """The batches of a process; every iteration is the next epoch.

    Each utterance comes once an epoch, in one process. Batches are made of all utterances and then dealt out,
    so all processes make equally many steps, and the global batches do not depend on their number.

    Lightning's own count of epochs is not used: it makes the first iterator of a resumed run before it says
    which epoch that is, and counts an epoch twice that was stopped at its last batch. A run resumed there
    starts with an empty iteration, as Lightning expects.

    Args:
        cuts: the corpus.
        batch_size: utterances of a global batch; the last of an epoch may have fewer, or a few more where
            they would not be enough for all processes.
        batch_seconds: instead of `batch_size`: about that much audio, at most `max_seconds` of an utterance
            counted.
        buckets: batches that are made of one stretch of the shuffled corpus, by duration; 1: of any
            durations.
        shuffle: False: the order of the corpus.
        max_seconds: where longer utterances are cropped.
        seed: of the order.
        rank: of this process.
        world_size: number of processes.

    Raises:
        DataError: there are fewer utterances than processes.
    """

    def __init__(
        self,
        cuts: Cuts,
        *,
        batch_size: int = 24,
        batch_seconds: float | None = None,
        buckets: int = 30,
        shuffle: bool = True,
        max_seconds: float = float("inf"),
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ):
        if len(cuts) < world_size:
            raise DataError(f"{len(cuts)} utterances cannot be shared by {world_size} processes: use fewer")
        self.cuts, self.batch_size, self.batch_seconds = cuts, batch_size, batch_seconds
        self.buckets, self.shuffle, self.max_seconds, self.seed = buckets, shuffle, max_seconds, seed
        self.rank, self.world_size = rank, world_size
        self.group = buckets * batch_size  # utterances that are sorted together
        if batch_seconds is not None:
            self.group = max(round(buckets * batch_seconds * len(cuts) / self._total_seconds()), world_size)
        self.epoch = 0
        self.skip = 0

    def start_behind(self, epoch: int, batches: int) -> None:
        """Let the next iteration be that epoch, without its first batches: those that the run consumed."""
        self.epoch, self.skip = epoch, batches

    def n_batches(self) -> int:
        """Of an epoch. Not `__len__`: Lightning would end an accumulation early at the end of an epoch."""
        last = self._n_groups() - 1
        return last * self._n_batches(self.group) + self._n_batches(len(self.cuts) - last * self.group)

    def __iter__(self) -> Iterator[tuple[int, int, list[int]]]:
        epoch, skip = self.epoch, self.skip
        self.epoch, self.skip = epoch + 1, 0
        per_group = self._n_batches(self.group)
        for number in range(min(skip // per_group, self._n_groups() - 1), self._n_groups()):
            for index, batch in enumerate(self._batches(epoch, number), start=number * per_group):
                if index >= skip:
                    yield epoch, index, batch[self.rank :: self.world_size].tolist()

    def _n_groups(self) -> int:
        """Groups in an epoch; a last one that is too small for all processes joins the one before."""
        whole, rest = divmod(len(self.cuts), self.group)
        return max(whole + (rest >= self.world_size), 1)

    def _batches(self, epoch: int, number: int) -> list[np.ndarray]:
        """The global batches of one group of utterances."""
        first, end = number * self.group, (number + 1) * self.group
        if number == self._n_groups() - 1:
            end = len(self.cuts)
        places = np.arange(first, end, dtype=np.uint64)
        if not self.shuffle:
            return np.split(places, self._ends(np.ones(len(places))))
        key = hash_number(f"{self.seed} {epoch}")
        members = shuffled(places, len(self.cuts), key)
        seconds = np.minimum(self.cuts.durations(members), self.max_seconds)
        order = np.argsort(seconds, kind="stable") if self.buckets > 1 else np.arange(len(members))
        batches = np.split(members[order], self._ends(seconds[order]))
        turns = np.random.Generator(np.random.Philox(key=[key, number])).permutation(len(batches))
        return [batches[turn] for turn in turns]

    def _ends(self, seconds: np.ndarray) -> list[int]:
        """Where batches end, of utterances of these durations; the last end is left out."""
        n_batches = self._n_batches(len(seconds))
        if self.batch_seconds is None:
            return [self.batch_size * number for number in range(1, n_batches)]
        heard = np.cumsum(seconds) - seconds / 2
        ends = [0]
        for number in range(1, n_batches):
            end = int(np.searchsorted(heard, seconds.sum() * number / n_batches))
            # Every process needs an utterance of every batch.
            latest = len(seconds) - self.world_size * (n_batches - number)
            ends.append(min(max(end, ends[-1] + self.world_size), latest))
        return ends[1:]

    def _n_batches(self, n_utterances: int) -> int:
        """Batches made of a group, the same in every epoch."""
        if self.batch_seconds is not None:
            most = n_utterances // self.world_size
            return max(min(round(self.buckets * n_utterances / self.group), most), 1)
        whole, rest = divmod(n_utterances, self.batch_size)
        return max(whole + (rest >= self.world_size), 1)

    def _total_seconds(self) -> float:
        if self.max_seconds * len(self.cuts) < self.cuts.seconds:
            return self.max_seconds * len(self.cuts)
        return self.cuts.seconds


def shuffled(places: np.ndarray, n: int, key: int) -> np.ndarray:
    """Which of n things stands at these places of a permutation that the key chooses.

    A Feistel network over pairs of digits permutes the smallest power of four that holds n; places that fall
    outside are sent through again until they come back (cycle walking; Black & Rogaway, "Ciphers with
    arbitrary finite domains", CT-RSA 2002).

    Args:
        places: integers in [0, n).
        n: size of the permutation.
        key: 64 bits.

    Returns:
        As many integers in [0, n), int64.
    """
    bits = np.uint64(max((max(n - 1, 1).bit_length() + 1) // 2, 1))
    mask = (np.uint64(1) << bits) - np.uint64(1)
    keys = np.random.Generator(np.random.Philox(key=key)).integers(2**63, size=_ROUNDS, dtype=np.uint64)
    values = np.asarray(places, dtype=np.uint64).copy()
    outside = np.ones(len(values), dtype=bool)
    while outside.any():
        left, right = values[outside] >> bits, values[outside] & mask
        for key_of_round in keys:
            left, right = right, left ^ (_scramble(right + key_of_round) & mask)
        values[outside] = left << bits | right
        outside = values >= n
    return values.astype(np.int64)


def _scramble(x: np.ndarray) -> np.ndarray:
    """Spread each bit over all (the finaliser of SplitMix64; Steele et al., OOPSLA 2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
