"""Which utterances make up which batch of which epoch, known at once for any batch.

Every epoch is a permutation of the complete corpus. Groups of `buckets` batches are taken from it, sorted by
duration and cut into batches. The permutation is a function (a Feistel network, `shuffled`), not a shuffled
list: ten million utterances need no memory, and a run resumes in the middle of an epoch at once, where
lhotse's samplers would read the manifest up to that point.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from distill.data.manifest import Cuts
from distill.errors import DataError
from distill.hashing import hash_number

_ROUNDS = 8  # of the Feistel network


class EpochSampler:
    """The batches of a process; every iteration is the next epoch.

    Each utterance comes once per epoch, in one process. Global batches are made of all utterances and then
    divided among the processes: all of them make equally many steps, and the global batches do not depend on
    the number of processes.

    Lightning's own count of epochs is not used: it makes the first iterator of a resumed run before it says
    which epoch that is, and counts an epoch twice that was stopped at its last batch. A run resumed there
    starts with an empty iteration, as Lightning expects.

    Args:
        cuts: the corpus.
        batch_size: utterances of a global batch. The last of an epoch may have fewer, or a few more where
            the rest would not be enough for all processes.
        batch_seconds: instead of `batch_size`, about this much audio, of which each utterance counts at most
            `max_seconds`.
        buckets: batches in a group whose utterances are sorted by duration; 1: they are not sorted.
        shuffle: False: in the order of the corpus.
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
        self.made_for = world_size

    def start_after(self, epoch: int, batches: int, processes: int | None = None) -> None:
        """Let the next iteration be that epoch without its first batches, which the run has consumed.

        Args:
            epoch: its number.
            batches: how many of them.
            processes: for which they were made, where that is another number than now. The rest of the epoch
                is then made of the same batches: with others, utterances could come twice, or be left out.
        """
        self.epoch, self.skip = epoch, batches
        self.made_for = processes or self.world_size

    def n_batches(self) -> int:
        """Batches in an epoch. Not `__len__`: Lightning would end an accumulation early at an epoch's end."""
        last = self._n_groups() - 1
        return last * self._n_batches(self.group) + self._n_batches(len(self.cuts) - last * self.group)

    def n_batches_alone(self) -> int:
        """The same of one process: a count by which all processes, however many, know how far they are."""
        return self._made_for(1).n_batches()

    def __iter__(self) -> Iterator[tuple[int, int, list[int]]]:
        epoch, skip, made_for = self.epoch, self.skip, self.made_for
        self.epoch, self.skip, self.made_for = epoch + 1, 0, self.world_size
        batches = self._rest(epoch, skip)
        if made_for != self.world_size:
            batches = self._shareable(self._made_for(made_for)._rest(epoch, skip))
        for index, batch in batches:
            yield epoch, index, batch[self.rank :: self.world_size].tolist()

    def _rest(self, epoch: int, skip: int) -> Iterator[tuple[int, np.ndarray]]:
        """Number and utterances of the global batches of an epoch, without the first."""
        per_group = self._n_batches(self.group)
        for number in range(min(skip // per_group, self._n_groups() - 1), self._n_groups()):
            for index, batch in enumerate(self._batches(epoch, number), start=number * per_group):
                if index >= skip:
                    yield index, batch

    def _made_for(self, processes: int) -> EpochSampler:
        """The same for another number of processes."""
        return EpochSampler(
            self.cuts,
            batch_size=self.batch_size,
            batch_seconds=self.batch_seconds,
            buckets=self.buckets,
            shuffle=self.shuffle,
            max_seconds=self.max_seconds,
            seed=self.seed,
            world_size=processes,
        )

    def _shareable(self, batches: Iterator[tuple[int, np.ndarray]]) -> Iterator[tuple[int, np.ndarray]]:
        """Join batches that are too small for all processes to the one before, and count both as consumed.

        An epoch of which fewer utterances than processes are left is over.
        """
        held = (0, np.zeros(0, dtype=np.int64))
        for index, batch in batches:
            if min(len(batch), len(held[1])) >= self.world_size:
                yield held
                held = (index, batch)
            else:
                held = (index, np.concatenate([held[1], batch]))
        if len(held[1]) >= self.world_size:
            yield held

    def _n_groups(self) -> int:
        """Groups in an epoch; a last one that is too small for all processes joins the one before."""
        whole, rest = divmod(len(self.cuts), self.group)
        return max(whole + (rest >= self.world_size), 1)

    def _batches(self, epoch: int, number: int) -> list[np.ndarray]:
        """The global batches of one group of utterances."""
        first, end = number * self.group, (number + 1) * self.group
        if number == self._n_groups() - 1:
            end = len(self.cuts)
        positions = np.arange(first, end, dtype=np.uint64)
        if not self.shuffle:
            return np.split(positions, self._ends(np.ones(len(positions))))
        key = hash_number(f"{self.seed} {epoch}")
        members = shuffled(positions, len(self.cuts), key)
        seconds = np.minimum(self.cuts.durations(members), self.max_seconds)
        order = np.argsort(seconds, kind="stable") if self.buckets > 1 else np.arange(len(members))
        batches = np.split(members[order], self._ends(seconds[order]))
        turns = np.random.Generator(np.random.Philox(key=[key, number])).permutation(len(batches))
        return [batches[turn] for turn in turns]

    def _ends(self, seconds: np.ndarray) -> list[int]:
        """Where batches of utterances of these durations end, without the end of the last."""
        n_batches = self._n_batches(len(seconds))
        if self.batch_seconds is None:
            return [self.batch_size * number for number in range(1, n_batches)]
        centres = np.cumsum(seconds) - seconds / 2
        ends = [0]
        for number in range(1, n_batches):
            end = int(np.searchsorted(centres, seconds.sum() * number / n_batches))
            # Every batch needs an utterance for every process.
            latest = len(seconds) - self.world_size * (n_batches - number)
            ends.append(min(max(end, ends[-1] + self.world_size), latest))
        return ends[1:]

    def _n_batches(self, n_utterances: int) -> int:
        """Batches made of a group of that size, the same in every epoch."""
        if self.batch_seconds is not None:
            most = n_utterances // self.world_size
            return max(min(round(self.buckets * n_utterances / self.group), most), 1)
        whole, rest = divmod(n_utterances, self.batch_size)
        return max(whole + (rest >= self.world_size), 1)

    def _total_seconds(self) -> float:
        if self.max_seconds * len(self.cuts) < self.cuts.seconds:
            return self.max_seconds * len(self.cuts)
        return self.cuts.seconds


def shuffled(positions: np.ndarray, n: int, key: int) -> np.ndarray:
    """The elements at these positions of a permutation of [0, n) that the key chooses.

    A Feistel network permutes [0, 4^k), the smallest such range that holds n; what falls outside [0, n) goes
    through the network again until it is inside (cycle walking; Black & Rogaway, "Ciphers with arbitrary
    finite domains", CT-RSA 2002).

    Args:
        positions: integers in [0, n).
        n: size of the permutation.
        key: 64 bits.

    Returns:
        As many integers in [0, n), int64.
    """
    bits = np.uint64(max((max(n - 1, 1).bit_length() + 1) // 2, 1))
    mask = (np.uint64(1) << bits) - np.uint64(1)
    keys = np.random.Generator(np.random.Philox(key=key)).integers(2**63, size=_ROUNDS, dtype=np.uint64)
    values = np.asarray(positions, dtype=np.uint64).copy()
    outside = np.ones(len(values), dtype=bool)
    while outside.any():
        left, right = values[outside] >> bits, values[outside] & mask
        for key_of_round in keys:
            left, right = right, left ^ (_scramble(right + key_of_round) & mask)
        values[outside] = left << bits | right
        outside = values >= n
    return values.astype(np.int64)


def _scramble(x: np.ndarray) -> np.ndarray:
    """Let each bit change all others (the finaliser of SplitMix64; Steele et al., OOPSLA 2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
