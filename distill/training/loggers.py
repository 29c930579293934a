"""Loggers of a run: CSV, TensorBoard, Weights & Biases. Their failures do not stop training."""

from __future__ import annotations

import logging
import os
import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger
from pytorch_lightning.loggers.logger import DummyLogger
from typing_extensions import override

from distill.atomic import write_text
from distill.errors import first_line
from distill.options import Recipe
from distill.processes import is_first_process
from distill.training.run_folder import RunFolder

log = logging.getLogger(__name__)

_TOKEN = re.compile("SLURM.*(JWT|TOKEN|KEY|SECRET|PASS).*")
"""Variables of SLURM that open doors."""
_PATIENCE_S = 30.0
"""How long Weights & Biases may take to answer at the start; by its own default, 90 s in every run."""


class SafeLogger(Logger):
    """A logger whose failures do not stop training: its first is warned about, later ones are ignored.

    Args:
        logger: does the work.
        spare: makes the logger to use if that one cannot be opened, as without a network.
    """

    def __init__(self, logger: Logger, spare: Callable[[], Logger] | None = None):
        super().__init__()
        self.logger = logger
        self.spare = spare
        self.kind = type(logger).__name__
        self.warned = False

    def attempt(self, action: Callable[[Any], Any], *, opened: bool = False) -> Any:
        """What `action` returns for the logger inside, which is `opened` first, or None if it fails."""
        try:
            if opened:
                _ = self.experiment  # may put the spare into the logger's place
            return action(self.logger)
        except Exception as error:
            self._warn(f"failed: {_in_short(error)}; training continues, that log may have gaps")
            return None

    @property
    def experiment(self) -> Any:
        """What the logger writes with; opened by the first access."""
        try:
            return self.logger.experiment  # pyright: ignore[reportAttributeAccessIssue]
        except Exception as error:
            if self.spare is not None:
                self._warn(f"cannot be reached: {_in_short(error)}; logging offline instead")
                self.logger, self.spare, self.warned = self.spare(), None, False
                return self.experiment
            self._warn(f"cannot be opened: {_in_short(error)}; training continues without it")
            self.logger = DummyLogger()
            return self.logger.experiment

    def _warn(self, what: str) -> None:
        if not self.warned:
            log.warning("%s %s", self.kind, what)
        self.warned = True

    @property
    @override
    def name(self) -> str | None:
        return self.attempt(lambda logger: logger.name)

    @property
    @override
    def version(self) -> int | str | None:
        return self.attempt(lambda logger: logger.version)

    @property
    @override
    def save_dir(self) -> str | None:
        return self.attempt(lambda logger: logger.save_dir)

    @override
    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        self.attempt(lambda logger: logger.log_metrics(metrics, step), opened=True)

    @override
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        self.attempt(lambda logger: logger.log_hyperparams(params, *args, **kwargs), opened=True)

    @override
    def save(self) -> None:
        self.attempt(lambda logger: logger.save())

    @override
    def finalize(self, status: str) -> None:
        self.attempt(lambda logger: logger.finalize(status))


def _in_short(error: Exception) -> str:
    """Type and first line."""
    return f"{type(error).__name__}: {first_line(error)}"


class OfflineWandbLogger(WandbLogger):
    """Writes to the run folder only, and closes its file when training ends."""

    def __init__(self, **options: Any):
        super().__init__(**options, mode="offline")

    @override
    def finalize(self, status: str) -> None:
        super().finalize(status)
        if self._experiment is not None:  # online, this would wait for the network: left to the process's end
            self._experiment.finish(exit_code=int(status != "success"))


def make_loggers(recipe: Recipe, folder: RunFolder) -> list[Logger]:
    """CSV and TensorBoard always; Weights & Biases as `wandb_mode` says.

    Args:
        recipe: its name, and its section `logging`.
        folder: of the run.
    """
    keep_old_log(folder.metrics)
    makers: list[Callable[[], Logger]] = [
        lambda: SafeLogger(CSVLogger(folder.path, name="", version=folder.metrics.parent.name)),
        lambda: SafeLogger(TensorBoardLogger(folder.path, name="", version="tensorboard")),
    ]
    mode = wandb_mode(recipe.logging.wandb)
    if mode != "off":
        os.environ.setdefault("WANDB_SILENT", "true")
        _start_wandb()
        run_id = _wandb_id(folder.wandb_id)
        if mode == "online":
            # With an id of its own: wandb's service keeps that of the attempt.
            spare = partial(_wandb, OfflineWandbLogger, recipe, folder, secrets.token_hex(4))
            makers.append(lambda: SafeLogger(_wandb(WandbLogger, recipe, folder, run_id), spare=spare))
        else:
            makers.append(lambda: SafeLogger(_wandb(OfflineWandbLogger, recipe, folder, run_id)))
    loggers: list[Logger] = []
    for make in makers:
        try:
            loggers.append(make())
        except ImportError as error:
            log.warning("%s; training continues without that log", first_line(error))
    return loggers


def wandb_mode(wish: str) -> str:
    """Whether Weights & Biases logs "online", "offline", or is "off".

    Its own switches count. `WANDB_MODE=disabled` and `WANDB_DISABLED=true` turn it off whatever a recipe
    says, for those who must not write or send anything. `WANDB_MODE=offline` (or
    `dryrun`) and `online` decide where the recipe does not, that is, has "auto"; without them an API key
    means online.

    Args:
        wish: `logging.wandb` of a recipe.
    """
    switch = os.environ.get("WANDB_MODE", "").strip().lower()
    disabled = os.environ.get("WANDB_DISABLED", "").strip().lower()
    if switch == "disabled" or disabled in ("true", "1", "yes", "on"):
        return "off"
    if wish != "auto":
        return wish
    if switch in ("offline", "dryrun"):
        return "offline"
    return "online" if switch == "online" or os.environ.get("WANDB_API_KEY") else "offline"


@contextmanager
def _without_tokens() -> Iterator[None]:
    """Hide SLURM's tokens from processes that are started within the block."""
    hidden = {name: os.environ.pop(name) for name in [*os.environ] if _TOKEN.fullmatch(name)}
    try:
        yield
    finally:
        os.environ.update(hidden)


def _start_wandb() -> None:
    """Start the process that writes Weights & Biases' files; it notes down every variable of SLURM it sees.

    What fails here fails again in the logger, which says so.
    """
    if is_first_process():
        with suppress(Exception), _without_tokens():
            import wandb

            wandb.setup()


def _wandb(kind: type[WandbLogger], recipe: Recipe, folder: RunFolder, run_id: str) -> WandbLogger:
    logger = kind(
        name=recipe.name,
        project=recipe.logging.project,
        save_dir=folder.path,
        config=asdict(recipe),
        id=run_id,
        resume="allow",
        settings={"init_timeout": _PATIENCE_S},
        reinit="create_new",  # not into the run of an earlier training in the same process
    )
    logger._wandb_init.pop("anonymous", None)  # Lightning always passes it, wandb warns about it
    return logger


def _wandb_id(path: Path) -> str:
    """The same when a run is resumed, so that Weights & Biases continues its curves."""
    with suppress(OSError):
        if re.fullmatch(r"[\w-]{1,64}\n?", found := path.read_text(encoding="utf-8", errors="replace")):
            return found.strip()
    made = secrets.token_hex(4)
    if is_first_process():  # the others do not log
        with suppress(OSError):  # of a full disk; the run is then another one after a resume
            write_text(path, made + "\n")
    return made


def keep_old_log(metrics: Path) -> None:
    """Rename the log so far, which Lightning's logger would delete when the run is resumed."""
    if metrics.exists() and is_first_process():
        number = 1 + len(list(metrics.parent.glob("metrics-*.csv")))
        try:
            metrics.rename(metrics.with_name(f"metrics-{number}.csv"))
        except OSError as error:
            log.warning("%s cannot be kept: %s", metrics, error.strerror)
