"""Run folders: which files a training run has, where, and what may be done with them."""

from __future__ import annotations

import json
import logging
import platform
import subprocess
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import ClassVar

from distill.atomic import complete, read_json, write_json, write_text
from distill.config import to_yaml, with_checksum
from distill.errors import UserError, first_line
from distill.options import Recipe
from distill.processes import is_first_process

logger = logging.getLogger(__name__)

BEST, LAST = "best.ckpt", "last.ckpt"


@dataclass(frozen=True)
class RunFolder:
    """The folder of a training run.

    Example:
        >>> RunFolder(Path("runs/s4")).best
        PosixPath('runs/s4/checkpoints/best.ckpt')
    """

    path: Path

    settings_may_change: ClassVar[bool] = True
    """Whether a run that was started can be continued with other settings."""

    def __str__(self) -> str:
        return str(self.path)

    @property
    def recipe(self) -> Path:
        """The resolved recipe, as YAML."""
        return self.path / "recipe.yaml"

    @property
    def versions(self) -> Path:
        """Versions of Python, this package and its dependencies, as JSON."""
        return self.path / "versions.json"

    @property
    def finished(self) -> Path:
        """Steps and seconds of a finished run, as JSON."""
        return self.path / "finished.json"

    @property
    def checkpoints(self) -> Path:
        """Folder of `last` and `best`."""
        return self.path / "checkpoints"

    @property
    def last(self) -> Path:
        """The checkpoint to resume from."""
        return self.checkpoints / LAST

    @property
    def best(self) -> Path:
        """The checkpoint with the lowest dev loss."""
        return self.checkpoints / BEST

    @property
    def metrics(self) -> Path:
        """The log since the last (re)start; earlier parts are `metrics-1.csv` and so on, next to it."""
        return self.path / "csv" / "metrics.csv"

    @property
    def skipped(self) -> Path:
        """Utterances and recordings of noise that could not be used."""
        return self.path / "skipped.tsv"

    @property
    def nonfinite(self) -> Path:
        """Steps, and their utterances, that were left out since their gradient was not finite."""
        return self.path / "nonfinite.tsv"

    @property
    def kept_steps(self) -> Path:
        """Folder of the first of them, for `distill train --replay`."""
        return self.path / "nonfinite"

    @property
    def wandb_id(self) -> Path:
        """The run's id in Weights & Biases."""
        return self.path / "wandb_id"

    @property
    def student(self) -> Path:
        """The released student; its description is next to it, with the suffix .json."""
        return self.path / "student.safetensors"

    @property
    def teacher(self) -> Path:
        """The same of a run that makes a teacher."""
        return self.path / "teacher.safetensors"

    def how_to_continue(self, *, changed: bool = False) -> str:
        """What a user does to continue the run; `changed`: with other settings or data."""
        return f"continue with --resume {self}{' --override' if changed else ''}"

    def option(self, key: str) -> str:
        """How a user writes a key of the recipe, such as "optim.lr"."""
        return key

    def check(self, *, resume: bool) -> None:
        """Refuse to overwrite another run, or to resume what is not a run; nothing is written yet.

        Raises:
            UserError: saying what the folder holds.
        """
        from distill.training import locking  # imports Lightning, which takes seconds

        if not resume and self.last.exists():
            if is_first_process():
                locking.RunLock(self.path).refuse_others()
            raise UserError(f"{self} holds a run already: {self.how_to_continue()}, or choose another --out")
        if resume and not self.last.exists():
            raise UserError(
                f"{self} has no {self.last.relative_to(self.path)} to resume from: to begin it again, "
                f"give its recipe and --out {self}"
            )
        if self.path.is_file():
            raise UserError(f"{self} is a file: choose a folder for the run with --out")
        ours = (self.wandb_id.name, locking.NAME)
        found = list(complete(self.path.iterdir())) if self.path.is_dir() else []
        others = [path for path in found if not path.name.startswith(ours)]
        # For other processes than the first, this may be the run that the first has begun.
        if others and is_first_process() and not self.recipe.exists():
            raise UserError(f"{self} holds other things: choose an empty or new folder with --out")

    def refuse_links(self) -> None:
        """Refuse links to files where a run and its loggers write or append: somebody may have planted them.

        Raises:
            UserError: naming one.
        """
        for folder in (self.path, self.checkpoints, self.metrics.parent, self.path / "tensorboard"):
            for path in folder.iterdir() if folder.is_dir() else ():
                if path.is_symlink() and not path.is_dir():
                    raise UserError(
                        f"{path} is a link, and a run writes to such files: put a copy in its place"
                    )

    def start(self, recipe: Recipe) -> None:
        """Make the folder, and keep the resolved recipe and the versions in it."""
        if is_first_process():
            _keep(self.recipe, with_checksum(to_yaml(recipe)))
            _keep(self.versions, json.dumps(versions(), indent=2) + "\n")

    def finish(self, *, steps: int, seconds: float) -> None:
        """Note that the run is finished: everything that it makes is complete."""
        write_json(self.finished, {"steps": steps, "seconds": round(seconds, 1)}, indent=None)

    @property
    def steps_done(self) -> int:
        """Updates of a finished run; 0 if it is not finished."""
        try:
            return int(read_json(self.finished)["steps"])
        except FileNotFoundError:
            return 0
        except (OSError, ValueError, TypeError, KeyError, OverflowError) as error:
            logger.warning(
                "%s is damaged (%s): the run counts as unfinished", self.finished, first_line(error)
            )
            return 0


def _keep(path: Path, text: str) -> None:
    """Write a file unless it has that text already: a full disk cannot hurt what is right."""
    if not path.exists() or path.read_bytes() != text.encode():
        write_text(path, text)


def versions() -> dict[str, str]:
    """What a run is made with: versions of Python and packages, and the commit."""
    found = {"python": platform.python_version()}
    for name in ("robust-distilhubert", "torch", "torchaudio", "pytorch-lightning", "lhotse"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    git = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=12"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    found["git"] = git.stdout.strip() or "none"
    return found
