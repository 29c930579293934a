"""Checkpoints of a run on disk: which is the best, whether they are intact, and what if the disk is full."""

from __future__ import annotations

import io
import json
import logging
import zipfile
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins import TorchCheckpointIO
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.trainer.states import TrainerFn
from torch.utils._pytree import tree_map_only
from typing_extensions import override

from distill.atomic import atomic
from distill.checkpoints import safe_pickle
from distill.checkpoints.files import save_torch
from distill.config import differing_values
from distill.errors import CheckpointError, UserError, first_line
from distill.training.faults import SkipNonFinite
from distill.training.run_folder import BEST

logger = logging.getLogger(__name__)

_MOST_FAILED = 3
"""Attempts to write the first `last.ckpt`, one at each validation: more would risk hours of work."""
_LIGHTNINGS = {"state_dict", "optimizer_states", "lr_schedulers", "loops", "callbacks", "global_step"}
"""Keys that every checkpoint of a training has."""


def damage(path: Path) -> str:
    """What is wrong with a checkpoint file, "" if every part of it matches its checksum.

    torch writes a checksum (CRC-32) of each tensor into its files, but does not verify it when it reads.
    """
    if not path.is_file():
        return "it is not a file" if path.exists() else "it does not exist"
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            packed = any(entry.compress_type != zipfile.ZIP_STORED for entry in entries)
            if packed or sum(entry.file_size for entry in entries) > path.stat().st_size:
                return "its parts are compressed or overlap"  # and may be of any size
            part = archive.testzip()
    except Exception as error:  # a damaged header can make zipfile raise anything
        return " ".join(str(error).split()) or type(error).__name__
    return f"{part} does not match its checksum" if part else ""


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint of a run, on the CPU, every byte of it checked; tensors are mapped from the file.

    Raises:
        CheckpointError: if it is missing or damaged, or holds more than tensors and plain values.
    """
    if not path.exists():
        raise CheckpointError(f"{path} does not exist")
    if problem := damage(path):
        raise CheckpointError(f"{path} is damaged ({problem}): restore it from a copy")
    return safe_pickle.load(path)


class SoundCheckpoint(ModelCheckpoint):
    """Keeps the checkpoint with the lowest monitored value as `best.ckpt`.

    Nothing is saved at a validation where the weights may have broken down: while updates are left out
    (`SkipNonFinite`), or if the monitored value is not finite. In a resumed run the score of the best is read
    from `best.ckpt` itself, wherever the folder is by now.

    Args:
        folder: for checkpoints.
        monitor: name of the value.
        score_of: what it depends on beside the model (`Recipe.dev_score_of`). Where a resumed run has other
            settings, the score of before is none to beat: `best.ckpt` is put aside as `best-STEP.ckpt`.
    """

    def __init__(self, folder: Path, monitor: str, score_of: dict[str, Any] | None = None):
        super().__init__(
            dirpath=folder,
            filename=BEST.removesuffix(self.FILE_EXTENSION),
            monitor=monitor,
            mode="min",
            save_last=True,
            enable_version_counter=False,
        )
        self.score_of = json.loads(json.dumps(score_of))
        self.before: float | None = None
        """Score of the best, according to the checkpoint that the run is resumed from."""

    @property
    def state_key(self) -> str:
        """That of Lightning's class, which earlier checkpoints have."""
        return super().state_key.replace(type(self).__qualname__, ModelCheckpoint.__qualname__, 1)

    def state_dict(self) -> dict[str, Any]:
        """The best score and what it is of, without paths of files."""
        of = {"monitor": self.monitor, "score_of": self.score_of}
        return of | {"best_model_score": self.best_model_score}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the score that the checkpoint states: `best.ckpt`, if it exists, decides."""
        before = state_dict.get("best_model_score")
        self.before = None if before is None else float(before)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Find the score to beat. A new run has none, whatever an earlier one left in its folder."""
        super().on_train_start(trainer, pl_module)
        assert self.dirpath is not None
        path = Path(self.dirpath) / BEST
        score, problem = None, ""
        if trainer.is_global_zero:
            if not trainer.ckpt_path:
                path.unlink(missing_ok=True)
            elif self.before is not None and not path.exists():
                logger.warning(
                    "%s, of %s %.4f, is missing: the best from now on is kept",
                    *(path, self.monitor, self.before),
                )
            try:
                score = self._score_to_beat(path) if path.exists() else None
            except CheckpointError as error:
                problem = f"{error}, or remove it: the best from now on is kept then"
        score, problem = trainer.strategy.broadcast((score, problem))
        if problem:
            raise _Unreadable(problem)
        if score is not None:
            value = torch.tensor(score)
            self.best_model_path = self.kth_best_model_path = str(path)
            self.best_model_score = self.kth_value = value
            self.best_k_models = {str(path): value}

    def _score_to_beat(self, path: Path) -> float | None:
        """That of the best checkpoint; None if it is of other settings, and put aside."""
        checkpoint = read_checkpoint(path)
        callbacks = checkpoint.get("callbacks", {})  # keys differ between versions of Lightning
        states = [state for key, state in callbacks.items() if key.startswith(ModelCheckpoint.__qualname__)]
        score = states[0].get("best_model_score") if states else None  # its own, set before it was written
        if score is None:
            raise CheckpointError(f"{path} does not say its {self.monitor}: restore it from a copy")
        before = states[0].get("score_of")  # checkpoints of earlier versions lack it
        now = self.score_of
        changed = differing_values(before, now) if isinstance(before, dict) and now is not None else []
        if not changed:
            return float(score)
        aside = path.with_name(f"{path.stem}-{int(checkpoint['global_step'])}{path.suffix}")
        path.replace(aside)
        logger.warning(
            "%s cannot be compared with that of before (%s): the best so far is kept as %s, the best from "
            "now on is released",
            *(self.monitor, "; ".join(changed), aside.name),
        )
        return None

    @override
    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        callbacks: Any = trainer.callbacks  # pyright: ignore[reportAttributeAccessIssue]
        left_out = any(callback.consecutive for callback in callbacks if isinstance(callback, SkipNonFinite))
        value = trainer.callback_metrics.get(self.monitor or "")
        if not left_out and (value is None or torch.isfinite(value)):
            super().on_validation_end(trainer, pl_module)
            if trainer.state.fn == TrainerFn.FITTING and self._last_global_step_saved != trainer.global_step:
                # Lightning writes the last one along with a new best only; days may lie between those.
                self._save_last_checkpoint(trainer, self._monitor_candidates(trainer))
        writer = trainer.strategy.checkpoint_io
        if hopeless := trainer.strategy.broadcast(getattr(writer, "hopeless", "")):
            raise NeverSaved(hopeless)


class _Unreadable(CheckpointError):
    joint = True


class NeverSaved(UserError):
    """No checkpoint of a run could be written, and another day of training would not change that."""

    joint = True


class CarefulCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint next to the old one before replacing it: one of the two is always intact.

    A checkpoint that cannot be written, for instance on a full disk, does not end the training: the previous
    one stays, and `problem` says what was wrong. The best one is then kept in memory and written with the
    next, and `last.ckpt` never gets ahead of it: a run resumed from there finds the best again.

    If there is no previous one, either, all of the training would be lost with its process: after a few
    attempts `hopeless` says so.
    """

    def __init__(self) -> None:
        super().__init__()
        self.problem, self.hopeless = "", ""
        self.failed = 0
        self.kept: tuple[Path, bytes] | None = None  # the best, if it is not on disk

    @override
    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None
    ) -> None:
        path = Path(path)
        try:
            if path.name == BEST:
                self.kept = None
            elif self.kept is not None:
                with atomic(self.kept[0], sole=True) as partial:
                    partial.write_bytes(self.kept[1])
                self.kept = None
            with atomic(path, sole=True) as partial:
                save_torch(checkpoint, partial)
            self.problem, self.failed = "", 0
        except OSError as error:
            if path.name == BEST:
                memory = io.BytesIO()
                torch.save(checkpoint, memory)
                self.kept = path, memory.getvalue()
            self.problem = f"{path} could not be written ({error.strerror or first_line(error)})"
            self.failed += path.name != BEST
            nothing = not path.exists() and not path.with_name(BEST).exists()
            if self.failed >= _MOST_FAILED and nothing:
                self.hopeless = (
                    f"{self.problem}, nor before: the run has nothing to be resumed from and ends here; make "
                    "room, or choose another --out"
                )
            then = "the previous one stays" if path.exists() else "none exists yet"
            logger.warning("%s; %s", self.problem, "it will be tried again" if path.name == BEST else then)

    def load_checkpoint(self, path: Any, *_: Any, **__: Any) -> dict[str, Any]:
        """The checkpoint to resume from, by our own reader: torch may see another file in it.

        Raises:
            CheckpointError: if it is damaged or of another kind; says what can be done.
        """
        try:
            found = read_checkpoint(Path(path))
        except CheckpointError as error:
            best = Path(path).with_name(BEST)
            intact = best != Path(path) and not damage(best)
            advice = f", or continue from the best one: cp {best} {path}" if intact else ""
            raise CheckpointError(f"{error}{advice}") from None
        if not isinstance(found, dict) or not found.keys() >= _LIGHTNINGS:
            raise CheckpointError(f"{path} is no checkpoint of a training: restore it from a copy")
        # Not mapped from the file, which may be replaced or truncated during the run.
        return tree_map_only(torch.Tensor, torch.clone, found)
