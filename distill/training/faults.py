"""Bad data and gradients that are not finite, in a long run (full disks: `saving`)."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor
from typing_extensions import override

from distill.batch import Batch
from distill.checkpoints import safe_pickle
from distill.data.datamodule import NothingUsable
from distill.data.unusable import blame
from distill.distortions import Distorter
from distill.errors import DataError, UserError
from distill.optim import FusedAdamW
from distill.training.keeping import StepKeeper
from distill.training.progress import log_interval
from distill.training.run_folder import RunFolder
from distill.training.stopping import save_last, validation_follows

logger = logging.getLogger(__name__)

_ENOUGH_READS = 1_000  # after which a share is judged


class TooManyBad(DataError):
    """Too large a share of what is read cannot be used."""

    joint = True


class NotFinite(UserError):
    """Too many consecutive updates had to be left out."""

    joint = True


class BadData(Callback):
    """Lists what cannot be used, and stops a run that meets too much of it.

    Utterances and recordings of noise are judged separately; recordings that are silent throughout count as
    unreadable. The share is that of all processes together, including earlier jobs of the run. It is judged
    with every log line once 1000 have been read, and at the end of every epoch. `data/noise_left_out` is
    logged too: the utterances so far, in the first process, that stayed without their noise or room because
    it could not be read or was silent.

    Args:
        folder: of the run.
        max_fraction: largest share that may be unusable.
    """

    def __init__(self, folder: RunFolder, max_fraction: float) -> None:
        self.folder, self.path = folder, folder.skipped
        self.max_fraction = max_fraction
        self.judged = Counter()  # of all processes, up to the last judgement
        self.read = Counter()  # of this process, since then
        self.left_out_before = 0
        self.distorter: Distorter | None = None
        self.listed: set[str] = set()
        self.warned: set[str] = set()
        self.last = {"utterances": "", "noise": ""}

    def state_dict(self) -> dict[str, Any]:
        """What has been read so far: by all processes up to the last judgement, by this one since then."""
        return {"read": dict(self.judged + self.read), "left_out": self._left_out()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Judge the jobs of a run together."""
        self.judged = Counter(state_dict["read"])
        self.left_out_before = state_dict["left_out"]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Continue the list of earlier jobs."""
        self.distorter = getattr(pl_module, "distorter", None)
        if self.path.exists():
            self.listed |= set(self.path.read_text(encoding="utf-8").split("\n"))

    @override
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.read["utterances"] += len(batch) + len(batch.skipped)
        self.read["bad utterances"] += len(batch.skipped)
        if isinstance(batch, Batch):  # batches of heads have no noise
            self.read["noise"] += batch.noise_reads
            self.read["bad noise"] += len(batch.noise_lost) + len(batch.noise_silent)
            self.read["pauses"] += batch.noise_pauses
        self._list(batch)
        if (batch_idx + 1) % log_interval(trainer) == 0:
            self._judge(trainer, at_least=_ENOUGH_READS)
            if self.distorter is not None:
                pl_module.log("data/noise_left_out", float(self._left_out()))

    @override
    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._list(batch, "dev ")

    @override
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._judge(trainer, at_least=1)

    @override
    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        if isinstance(exception, NothingUsable):  # on all processes, between two batches
            self._add("utterances", exception.skipped, "" if trainer.training else "dev ")
            if trainer.training and validation_follows(trainer):  # the resumed run counts that step again
                trainer.fit_loop.epoch_loop._batches_that_stepped -= 1
            exception.args = (f"{exception}; {self._saved(trainer)}",)

    def _left_out(self) -> int:
        return self.left_out_before + (0 if self.distorter is None else self.distorter.skipped_silent)

    def _list(self, batch: Any, split: str = "") -> None:
        self._add("utterances", batch.skipped, split)
        if isinstance(batch, Batch):
            self._add("noise", [*batch.noise_lost, *batch.noise_silent], split)

    def _add(self, kind: str, unusable: Sequence[tuple[str, str]], split: str) -> None:
        """Append what is new to the list; several processes may write to it.

        Dev speech is listed as "dev NAME", since a name may be in both sets.
        """
        if unusable:
            self.last[kind] = blame(*unusable[-1], quoted=True)
        prefix = "noise " if kind == "noise" else split
        # With the reason, which names the file: other sources may have an utterance of the same name.
        lines = dict.fromkeys(f"{prefix}{name}\t{' '.join(reason.split())}" for name, reason in unusable)
        new = [line for line in lines if line not in self.listed]
        if not new:
            return
        if kind not in self.warned:
            what = "an utterance" if kind == "utterances" else "a recording of noise"
            said = blame(*new[0].split("\t", 1))
            logger.warning("%s cannot be used: %s; all are listed in %s", what, said, self.path)
        self.warned.add(kind)
        self.listed.update(new)
        try:
            with self.path.open("a", encoding="utf-8", errors="backslashreplace") as file:
                file.write("".join(f"{line}\n" for line in new))
        except OSError as error:
            logger.warning("%s cannot be written (%s)", self.path, error)

    def _judge(self, trainer: pl.Trainer, at_least: int) -> None:
        keys = ("utterances", "bad utterances", "noise", "bad noise", "pauses")
        counts = torch.tensor([self.read[key] for key in keys], device=trainer.strategy.root_device)
        if trainer.world_size > 1:
            torch.distributed.all_reduce(counts)
        self.judged.update(dict(zip(keys, counts.tolist(), strict=True)))
        self.read.clear()
        self._warn_of_pauses(trainer, at_least)
        for kind, what in (("utterances", "utterances"), ("noise", "reads of noise and rooms")):
            n_read, n_bad = self.judged[kind], self.judged[f"bad {kind}"]
            if n_read >= at_least and n_bad > self.max_fraction * n_read:
                raise TooManyBad(
                    f"{n_bad} of {n_read} {what} cannot be used, more than "
                    f"{self.folder.option('data.max_bad_fraction')}={self.max_fraction:g} allows; "
                    f"the last is {self.last[kind] or 'in the list'}; "
                    f"{self._saved(trainer)}"
                )

    def _warn_of_pauses(self, trainer: pl.Trainer, at_least: int) -> None:
        """Once: recordings may pause, but if they do so often, too much speech stays clean."""
        n_read, n_silent = self.judged["noise"], self.judged["pauses"]
        if n_read < at_least or n_silent <= self.max_fraction * n_read or "pauses" in self.warned:
            return
        self.warned.add("pauses")
        if trainer.is_global_zero:
            logger.warning(
                "%d of %d stretches of noise are silent, where their recordings pause: that speech stays as "
                "it is; cut the silence out of the noise if that is not meant",
                *(n_silent, n_read),
            )

    def _saved(self, trainer: pl.Trainer) -> str:
        """Save, and say how to continue; what is fixed or allowed then is judged afresh."""
        self.judged.clear()
        self.read.clear()
        save_last(trainer)
        limit, how = self.folder.option("data.max_bad_fraction"), self.folder.how_to_continue(changed=True)
        return f"{self.path} lists them: fix them, or raise {limit}, then {how}"


class Later:
    """A number of the device, to be read when it has gone on to other work: reading it at once would wait.

    Args:
        value: a scalar.
    """

    def __init__(self, value: Tensor) -> None:
        self.copy = value.to("cpu", non_blocking=True) if value.is_cuda else value
        self.copied = torch.cuda.Event() if value.is_cuda else None
        if self.copied is not None:
            self.copied.record()

    def read(self) -> float:
        """The number; waits at most for the device to have made it."""
        if self.copied is not None:
            self.copied.synchronize()
        return float(self.copy)


class SkipNonFinite(Callback):
    """Leaves out updates whose gradient is not finite, and stops after too many consecutive ones.

    `FusedAdamW` leaves them out by itself, on the device. Here they are counted and listed, one step later,
    when that is known without a wait; at once before a validation and after the last step.

    The weights have then broken down, though they are finite themselves: they are not saved, and the message
    says from where the run can be continued. With float16, whose loss scale is found by overflowing, the
    first updates are left out as well.

    Args:
        folder: of the run; `folder.nonfinite` lists step and utterances of each such update.
        most: consecutive updates that may be left out.
        keeper: writes the first such steps down, for `distill train --replay`.
    """

    def __init__(self, folder: RunFolder, most: int, keeper: StepKeeper | None = None) -> None:
        self.folder, self.path = folder, folder.nonfinite
        self.most, self.keeper = most, keeper
        self.any_finite = False  # the scale of float16 is found by overflowing first
        self.consecutive = 0
        self.first = 0  # step of the first of the consecutive ones
        self.last = 0
        self.last_ids: list[str] = []
        self.flag = torch.tensor(0.0)  # of optimisers of another kind
        self.finds_scale = False
        self.pending: tuple[int, tuple[int, int], list[str], Later] | None = None
        """The last step, position and utterances of its batch, its flag."""

    @override
    def state_dict(self) -> dict[str, int]:
        self.settle()
        return {"on_end": self.consecutive, "first": self.first}  # the key is that of earlier checkpoints

    @override
    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self.consecutive, self.first = state_dict["on_end"], state_dict["first"]

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.finds_scale = trainer.precision == "16-mixed"
        if self.keeper is not None and trainer.is_global_zero:
            self.keeper.start(pl_module)

    @override
    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self.keeper is not None:
            self.keeper.note()

    @override
    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        if not isinstance(optimizer, FusedAdamW):
            self.flag = leave_out_if_not_finite(optimizer)

    @override
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        self.settle()
        optimizer = trainer.optimizers[0]
        flag = optimizer.found_inf if isinstance(optimizer, FusedAdamW) else self.flag
        assert flag is not None
        self.pending = trainer.global_step - 1, batch.position, batch.ids, Later(flag)
        if validation_follows(trainer) or trainer.global_step >= trainer.max_steps:
            self.settle()
        if self.consecutive < self.most:
            return
        some = ", ".join(self.last_ids[:5]) + " ..." * (len(self.last_ids) > 5)
        raise NotFinite(
            f"the gradient was not finite in {self.consecutive} consecutive updates, up to step "
            f"{self.last + 1}; the last batch held {some}, {self.path} lists all. Nothing was saved. "
            f"{self._advice()}"
        )

    def settle(self) -> None:
        """Count and list the last update, if it was left out."""
        if self.pending is None:
            return
        (step, position, ids, flag), self.pending = self.pending, None
        if not flag.read():
            self.consecutive, self.any_finite = 0, True
            return
        if not self.consecutive:
            self.first = step
        self.consecutive += 1
        self.last, self.last_ids = step, ids
        self._list(step, ids)
        if self.keeper is not None and (self.any_finite or not self.finds_scale):
            self.keeper.write(step, position, ids)

    def _advice(self) -> str:
        """From where to continue: a checkpoint from before the first of the updates, if there is one."""
        folder, last = self.folder, self.folder.last
        remedy = f"a lower {folder.option('optim.lr')} or trainer.precision=32"
        if not folder.settings_may_change:
            return f"Remove {folder}, and start again with {remedy}"
        if not last.exists():
            return f"There is no checkpoint yet: start again with {remedy}"
        step = safe_pickle.load(last)["global_step"]
        if step >= self.first:
            return (
                f"The weights of {last}, of step {step}, are those that broke down: start again with another "
                f"--out, and {remedy}"
            )
        return f"{last}, of step {step}, is from before: {folder.how_to_continue(changed=True)} and {remedy}"

    def _list(self, step: int, ids: list[str]) -> None:
        if self.consecutive == 1:
            logger.warning("step %d: the gradient is not finite; left out, see %s", step, self.path)
        try:
            with self.path.open("a", encoding="utf-8", errors="backslashreplace") as file:
                file.write(f"{step}\t{' '.join(ids)}\n")
        except OSError as error:
            logger.warning("%s cannot be written (%s)", self.path, error)


def leave_out_if_not_finite(optimizer: torch.optim.Optimizer) -> Tensor:
    """For optimisers that cannot do it by themselves; waits for the device. Returns 1 if it was left out."""
    parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    # The same in every process: gradients have been averaged by now.
    norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    if torch.isfinite(norm):
        return torch.tensor(0.0)
    for parameter in parameters:
        parameter.grad = None  # optimisers do not change a parameter without gradient
    return torch.tensor(1.0)
