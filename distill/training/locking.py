"""One training at a time in a run folder, also where several machines see it.

The lock is a small file that names its process and is touched every few seconds. Locks of the file system
are not used, since those of network file systems may hang or have no effect. A process that has died, on
this machine or another, delays others by at most `SILENT_S` seconds.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

from pytorch_lightning.callbacks import Callback

from distill.atomic import remove_leftovers
from distill.errors import UserError
from distill.processes import is_first_process

logger = logging.getLogger(__name__)

NAME = ".lock"
BEAT_S, SILENT_S = 15.0, 90.0
"""Seconds between two signs of life; seconds without one after which a process elsewhere counts as dead."""
BEGIN_S = 1800.0
"""Seconds after which a process that is waited for should have locked its folder, as torch waits for one."""
_POLL_S = 0.5


class RunLock(Callback):
    """Holds a run folder while a `with` block lasts; of several processes, the first does.

    As a callback it ends the training if another process has taken over the folder: this one was then silent
    for so long that it seemed dead.

    Args:
        folder: made if missing.

    Example:
        >>> with RunLock(Path("runs/s4")) as lock:
        ...     trainer.callbacks.append(lock)
    """

    def __init__(self, folder: Path):
        self.folder, self.path = folder, folder / NAME
        self.token = uuid.uuid4().hex
        self.lost = False
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> RunLock:
        """Take the folder.

        Raises:
            UserError: a training is going on in it.
        """
        if is_first_process():
            self.folder.mkdir(parents=True, exist_ok=True)
            while not self._create():
                self._clear()
            for folder in (self.folder, self.folder / "checkpoints", self.folder / "nonfinite"):
                remove_leftovers(folder)
            self._thread = threading.Thread(target=self._beat, name="run lock", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._thread is not None:
            self._ended.set()
            self._thread.join()
            if self._owner() == self.token:
                self.path.unlink(missing_ok=True)

    def on_train_batch_end(self, *_: Any, **__: Any) -> None:
        """Stop if another process has taken over the folder; nothing more is written to it."""
        self._refuse_if(self.lost)

    def check(self) -> None:
        """Check that this process still holds the folder, before its model is released.

        Raises:
            UserError: it does not.
        """
        self._refuse_if(self._thread is not None and self._owner() not in (self.token, "", None))

    def _refuse_if(self, lost: bool) -> None:
        if lost:
            raise UserError(
                f"{self.folder} was taken over by another process, {_describe(_read(self.path)[0])}, while "
                "this one seemed dead: it ends here"
            )

    def _create(self) -> bool:
        """Make the lock file, unless it exists."""
        about = {"token": self.token, **_this_process()}
        try:
            with self.path.open("x", encoding="utf-8") as file:
                try:
                    file.write(json.dumps(about) + "\n")
                    file.flush()
                except OSError as error:  # a full disk
                    self.path.unlink()
                    raise OSError(error.errno, error.strerror, str(self.path)) from error
        except FileExistsError:
            return False
        return True

    def _clear(self) -> None:
        """Remove the lock of a dead process, with a message.

        Raises:
            UserError: it is alive.
        """
        holder = self._living_refused()
        aside = self.path.with_name(f"{NAME}.{self.token}")
        try:
            self.path.rename(aside)  # of several waiting processes, one succeeds
        except FileNotFoundError:
            return  # it was released
        if _read(aside)[0] != holder:  # another process was faster: the lock is its
            with suppress(OSError):
                os.link(aside, self.path)
        else:
            logger.warning("%s: %s has ended, its lock is taken over", self.folder, _describe(holder))
        aside.unlink()

    def refuse_others(self) -> None:
        """Check that no other process trains in the folder, without locking it.

        Raises:
            UserError: one does.
        """
        here = _this_process()
        if self.path.exists() and not here.items() <= _read(self.path)[0].items():
            self._living_refused()

    def _living_refused(self) -> dict[str, Any]:
        """What the lock says, if its process is dead.

        Raises:
            UserError: it is alive.
        """
        holder, seen = _read(self.path)
        alive = _is_alive(holder)
        if alive is None:
            alive = self._shows_life(holder, seen)
        if alive:
            raise UserError(
                f"{self.folder} is being trained by {_describe(holder)}: wait until it has ended, or choose "
                "another --out"
            )
        return holder

    def _shows_life(self, holder: dict[str, Any], seen: int) -> bool:
        """Whether a process elsewhere touches its lock, observed for a while: clocks of machines differ."""
        logger.warning(
            "%s is locked by %s: waiting up to %.0f s for a sign of life",
            *(self.folder, _describe(holder), SILENT_S),
        )
        until = time.monotonic() + SILENT_S
        while time.monotonic() < until:
            time.sleep(_POLL_S)
            if not self.path.exists():
                return False
            if _read(self.path) != (holder, seen):
                return True
        return False

    def _beat(self) -> None:
        while not self._ended.wait(BEAT_S):
            owner = self._owner()
            if owner not in (self.token, "", None):
                self.lost = True
                return
            with suppress(OSError):
                if owner == "":  # somebody removed the file
                    self._create()
                else:
                    os.utime(self.path)  # needs no room on a full disk

    def _owner(self) -> str | None:
        """Token of the lock, "" if no lock exists, None if it cannot be read at the moment."""
        try:
            there = self.path.exists()
        except OSError:
            return None
        return _read(self.path)[0].get("token") if there else ""


class Watch:
    """Sees whether the first process still holds a run folder, for those that wait for what it makes.

    Args:
        folder: of the run.
    """

    def __init__(self, folder: Path):
        self.path = folder / NAME
        self.seen: tuple[dict[str, Any], int] = ({}, 0)
        self.changes, self.since = 0, time.monotonic()

    def check(self) -> None:
        """To be called again and again.

        Raises:
            UserError: it has shown no life for `SILENT_S` seconds, or not begun for `BEGIN_S`.
        """
        found, now = _read(self.path), time.monotonic()
        # What is seen first may be the lock of a dead process, which the first one watches for as long.
        patience = SILENT_S if self.changes > 1 else 3 * SILENT_S
        if found[1] and found != self.seen:
            self.seen, self.since, self.changes = found, now, self.changes + 1
        elif self.changes and now - self.since > patience:
            raise UserError(f"{self.path.parent}: the first process has ended or is silent: see its message")
        elif now - self.since > BEGIN_S:
            raise UserError(
                f"{self.path.parent}: the first process has not begun there: all machines must see the same "
                "run folder"
            )


def _this_process() -> dict[str, Any]:
    return {
        "host": socket.gethostname(),
        "space": _pid_space(),
        "pid": os.getpid(),
        "started": _stat(os.getpid())[1],
    }


def _read(path: Path) -> tuple[dict[str, Any], int]:
    """What a lock file says, {} if unreadable, and when it was touched (ns).

    It is opened each time, since network file systems look for changes only then.
    """
    try:
        with path.open(encoding="utf-8") as file:
            touched = os.fstat(file.fileno()).st_mtime_ns
            found = json.loads(file.read())
    except (OSError, ValueError):
        return {}, 0
    return (found, touched) if isinstance(found, dict) else ({}, touched)


def _is_alive(holder: dict[str, Any]) -> bool | None:
    """Whether the process of a lock is alive; None if it cannot be known from here."""
    here = _this_process()
    if any(holder.get(key) != here[key] for key in ("host", "space")) or type(holder.get("pid")) is not int:
        return None
    try:
        os.kill(holder["pid"], 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's, perhaps a newer one with the same number
        pass
    state, started = _stat(holder["pid"])
    if not started:  # not visible from here
        return None
    # Otherwise it is a newer process with the same number, or a zombie.
    return state not in "ZX" and started == holder.get("started")


def _describe(holder: dict[str, Any]) -> str:
    return f"process {holder['pid']} on {holder['host']}" if {"pid", "host"} <= holder.keys() else "a process"


def _pid_space() -> str:
    """Namespace of the process numbers: containers with one host name have their own."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _stat(pid: int) -> tuple[str, str]:
    """State of a process (a letter) and its start in clock ticks since boot; "" if unknown."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "", ""
    fields = stat.rpartition(")")[2].split()
    return fields[0], fields[19]
