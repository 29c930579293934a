"""What runs that train together share: batches, distorted speech, the teacher's pass.

Nothing of it is changed by a run, and everything is what the run would have read or computed itself.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor
from typing_extensions import override

from distill.batch import Batch
from distill.distillation import Distillation
from distill.encoder import Encoder
from distill.errors import UserError
from distill.training.progress import StepProgress, WaitClock, profiler_of
from distill.training.relay import Relay
from distill.training.stopping import GracefulStop, NotStarted

_END = object()  # of an epoch


@dataclass
class _Kept:
    """A batch that not all runs have had, the end of an epoch, or what went wrong instead."""

    item: Any
    had_by: set[int] = field(default_factory=set)


class SharedLoader:
    """Reads each batch once, and keeps it until all runs have had it.

    Args:
        loader: of the first run that asks for one; the others would make the same.
        relay: of the runs.
        start: the epoch, and the batches of it that are left out, that every run asks for first.
        training: whether its batches are trained on; then every run takes all of them, epoch after epoch. Of
            a dev set, runs take the batches from the first whenever they validate.
    """

    def __init__(self, loader: Any, relay: Relay, *, start: tuple[int, int], training: bool) -> None:
        self.relay, self.start, self.training = relay, start, training
        self.loader: Any = loader
        self._iterator: Any = None
        self._kept: dict[tuple[int, int], _Kept] = {}
        """By number of training batches before it, and number in the validation."""

    def take(self, run: int, number: int) -> Any:
        """The next batch for that run, or `_END`; `number` is that in its epoch.

        Raises:
            Exception: whatever the loader has raised, for every run.
        """
        place = (self.relay.batches[run], 0 if self.training else number)
        if place not in self._kept:
            self._kept[place] = _Kept(self._read(first=number == 0))
        kept = self._kept[place]
        kept.had_by.add(run)
        if self.training:
            self.relay.batches[run] += 1
        self._drop()
        if isinstance(kept.item, Exception):
            raise kept.item
        return kept.item

    def close(self) -> None:
        """End the processes that read."""
        self._iterator = None
        self._kept = {}
        workers: Any = getattr(self.loader, "_iterator", None)
        if hasattr(workers, "_shutdown_workers"):  # as Lightning does with loaders
            workers._shutdown_workers()
        self.loader = None

    def _read(self, *, first: bool) -> Any:
        if self._iterator is None or (first and not self.training):
            self._iterator = iter(self.loader)
        try:
            item = next(self._iterator, _END)
        except Exception as error:
            return error
        if item is _END:
            self._iterator = None
        return item

    def _drop(self) -> None:
        """Forget what all have had who are no further."""
        for place, kept in list(self._kept.items()):
            waiting = {run for run, batches in self.relay.batches.items() if batches <= place[0]}
            if waiting <= kept.had_by:
                del self._kept[place]


@dataclass
class Group:
    """What the runs of a group have in common.

    Args:
        n_runs: how many there are.
        streams: the distorted views that any of them needs.
    """

    n_runs: int
    streams: Sequence[str]
    relay: Relay = field(init=False)
    loaders: dict[str, SharedLoader] = field(init=False, default_factory=dict)
    """By split."""
    teachers: dict[str, Encoder] = field(init=False, default_factory=dict)
    """By the digest of their weights."""
    targets: set[int] = field(init=False, default_factory=set)
    """Layers of the teacher that any student learns from."""
    batch: tuple[Any, ...] = field(init=False, default=())
    """Which one is being worked on."""
    made: dict[tuple[Any, ...], Any] = field(init=False, default_factory=dict)
    """What has been computed of it."""
    stops: list[GracefulStop] = field(init=False, default_factory=list)
    """Of the runs that have begun."""
    received: int = field(init=False, default=0)
    """The signal by which all are to stop."""

    def __post_init__(self) -> None:
        self.relay = Relay(self.n_runs)

    def begin(self, *batch: Any) -> None:
        """Forget what was computed of another batch than this."""
        if batch != self.batch:
            self.batch, self.made = batch, {}

    def once(self, key: tuple[Any, ...], compute: Callable[[], Any]) -> tuple[Any, bool]:
        """What the first run has computed of this batch under a key, and whether this is the first."""
        if new := key not in self.made:
            self.made[key] = compute()
        return self.made[key], new

    def stop(self, signum: int) -> None:
        """Let every run save and stop after its step."""
        self.received = signum
        for stop in self.stops:
            stop.received = signum

    def close(self) -> None:
        """Let go of everything."""
        for loader in self.loaders.values():
            loader.close()
        self.loaders, self.teachers, self.batch, self.made = {}, {}, (), {}


class SharedPass(Callback):
    """Gives a run the distorted speech and the teacher's features that another has made of the same batch.

    Args:
        group: of the runs.
        module: of this run; its teacher becomes that of the first run whose teacher has the same weights.
    """

    def __init__(self, group: Group, module: Distillation) -> None:
        self.group, self.module = group, module
        self.parts: list[Batch] = []  # micro-batches of the batch, as they come up
        digest = digest_of(module.teacher)
        module.teacher = group.teachers.setdefault(digest, module.teacher)
        group.targets |= module.layers
        self.own_distort, self.own_features = module.distort, module.teacher_features
        for name, method in (("distort", self.distort), ("teacher_features", self.teacher_features)):
            setattr(module, name, method)

    @override
    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        self.parts = []
        self.group.begin("train", batch.position, batch.ids)

    @override
    def on_validation_batch_start(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self.parts = []
        self.group.begin("dev", batch.position, batch.ids)

    def distort(self, batch: Batch, view_name: str | None) -> tuple[Tensor, Tensor]:
        """`Distillation.distort`, once for all runs."""
        part = self._number(batch)
        distorter = self.module.distorter
        before = 0 if distorter is None else distorter.skipped

        def compute() -> tuple[tuple[Tensor, Tensor], Any]:
            made = self.own_distort(batch, view_name)
            return made, 0 if distorter is None else distorter.skipped - before

        (made, skipped), new = self.group.once((part, self.module.optim.accumulate, view_name), compute)
        if distorter is not None and not new:  # as if this run's own had left them out
            distorter.skipped = before + skipped
        return made

    def _number(self, batch: Batch) -> int:
        """Which micro-batch of the batch it is; both views are asked for with the same object."""
        for number, part in enumerate(self.parts):
            if part is batch:
                return number
        self.parts.append(batch)
        return len(self.parts) - 1

    def teacher_features(self, waveforms: Tensor, lengths: Tensor) -> dict[int, Tensor]:
        """`Distillation.teacher_features`, once for all runs: only those that are needed, by layer."""
        module, group = self.module, self.group

        def compute() -> tuple[Tensor, dict[int, Tensor]]:
            module.teacher.to(waveforms.device)  # a run that has ended leaves it on the CPU
            features = self.own_features(waveforms, lengths)
            wanted = [layer for layer in group.targets if layer < len(features)]
            return waveforms, {layer: features[layer] for layer in wanted}

        # The tensor is kept with the features, so that no other gets its id meanwhile.
        key = (id(waveforms), id(module.teacher))
        return group.once(key, compute)[0][1]


@dataclass
class Place:
    """One run's place in a group, by its number."""

    group: Group
    run: int
    views: Sequence[str]
    """Of the batches, what this run would read if it trained alone."""
    clock: Any = None
    """What measures how long the run waits for data."""

    def loader(self, split: str, loader: Any) -> Any:
        """What the run reads from in place of a loader of its own; `split` is "train" or "dev"."""
        loaders, start = self.group.loaders, (loader.sampler.epoch, loader.sampler.skip)
        if split not in loaders:
            loaders[split] = SharedLoader(loader, self.group.relay, start=start, training=split == "train")
        if loaders[split].start != start:
            raise UserError("it stands at another place in its data than the runs it would train with")
        return _Batches(self, loaders[split])

    def join(self, trainer: pl.Trainer, module: Distillation, name: str) -> None:
        """Share with the others from now on; `name` is for the terminal.

        Raises:
            NotStarted: all have been told to stop.
        """
        if self.group.received:
            raise NotStarted(self.group.received)
        self.clock = profiler_of(trainer)
        callbacks: Any = trainer.callbacks  # pyright: ignore[reportAttributeAccessIssue]
        for callback in callbacks:
            if isinstance(callback, GracefulStop):
                callback.alone = False
                self.group.stops.append(callback)
            elif isinstance(callback, StepProgress):
                for_all = f"{name} +{self.group.n_runs - 1}"
                callback.name, callback.bar_name = name, None if self.run else for_all
        callbacks.insert(0, SharedPass(self.group, module))


class _Batches:
    """A shared loader as one run sees it."""

    def __init__(self, place: Place, loader: SharedLoader) -> None:
        self.place, self.loader = place, loader

    def __iter__(self) -> Iterator[Batch]:
        place = self.place
        for number in itertools.count():
            waited_s = place.group.relay.pass_on(place.run)
            if self.loader.training and isinstance(place.clock, WaitClock):
                place.clock.waited_s -= waited_s  # that was not for data
            item = self.loader.take(place.run, number)
            if item is _END:
                return
            yield replace(
                item, views={name: view for name, view in item.views.items() if name in place.views}
            )


def digest_of(teacher: Encoder) -> str:
    """A digest of an encoder's configuration and weights: equal ones compute the same."""
    digest = hashlib.blake2b(json.dumps(teacher.config.to_dict(), sort_keys=True).encode(), digest_size=16)
    for name, value in teacher.state_dict().items():
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
