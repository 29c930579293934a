"""One training at a time in a run folder, also where several machines see it.

The lock is a small file that names its process and is touched every few seconds. No lock of the file system
is used, since those of network file systems may hang or do nothing. A process that is gone, on this machine
or another, holds nobody up for more than `SILENT_S` seconds.
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

from distill.errors import UserError
from distill.processes import is_first_process

logger = logging.getLogger(__name__)

NAME = ".lock"
BEAT_S, SILENT_S = 15.0, 90.0
"""Seconds between two signs of life; seconds without one after which a process on another machine is gone."""
_POLL_S = 0.5


class RunLock(Callback):
    """Holds a run folder while a `with` block lasts; of several processes, the first does.

    As a callback of the training it ends it if somebody else has taken the folder over meanwhile: this
    process was then silent for so long that it seemed to be gone.

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
        """Stop if the folder is somebody else's by now; nothing more is written to it."""
        self._refuse_if(self.lost)

    def check(self) -> None:
        """Look whether the folder is still this process's, before what was trained in it is released.

        Raises:
            UserError: it is somebody else's.
        """
        self._refuse_if(self._thread is not None and self._owner() not in (self.token, "", None))

    def _refuse_if(self, lost: bool) -> None:
        if lost:
            raise UserError(
                f"{self.folder} was taken over by another process, {_describe(_read(self.path)[0])}, while "
                "this one seemed to be gone: it ends here"
            )

    def _create(self) -> bool:
        """Make the lock file, unless there is one."""
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
        """Remove the lock of a process that is gone, with a message.

        Raises:
            UserError: it is not gone.
        """
        holder = self._living_refused()
        aside = self.path.with_name(f"{NAME}.{self.token}")
        try:
            self.path.rename(aside)  # of several that wait, one succeeds
        except FileNotFoundError:
            return  # it was given back
        if _read(aside)[0] != holder:  # somebody was faster: it is theirs
            with suppress(OSError):
                os.link(aside, self.path)
        else:
            logger.warning("%s: %s is gone, its lock is taken over", self.folder, _describe(holder))
        aside.unlink()

    def refuse_others(self) -> None:
        """Look whether another process trains in the folder, without taking it.

        Raises:
            UserError: one does.
        """
        here = _this_process()
        if self.path.exists() and not here.items() <= _read(self.path)[0].items():
            self._living_refused()

    def _living_refused(self) -> dict[str, Any]:
        """What the lock says, if its process is gone.

        Raises:
            UserError: it is not gone.
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
        """Whether a process that cannot be asked touches its lock. Looked at, not compared with a clock."""
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
                if owner == "":  # somebody has cleaned up
                    self._create()
                else:
                    os.utime(self.path)  # needs no room on a full disk

    def _owner(self) -> str | None:
        """Whose the lock is, "" if there is none; None if it cannot be read, now: nothing is known then."""
        try:
            there = self.path.exists()
        except OSError:
            return None
        return _read(self.path)[0].get("token") if there else ""


def _this_process() -> dict[str, Any]:
    return {
        "host": socket.gethostname(),
        "space": _pid_space(),
        "pid": os.getpid(),
        "started": _stat(os.getpid())[1],
    }


def _read(path: Path) -> tuple[dict[str, Any], int]:
    """What a lock file says, {} if that cannot be read, and when it was touched.

    Opened each time: network file systems look for changes then.
    """
    try:
        with path.open(encoding="utf-8") as file:
            touched = os.fstat(file.fileno()).st_mtime_ns
            found = json.loads(file.read())
    except (OSError, ValueError):
        return {}, 0
    return (found, touched) if isinstance(found, dict) else ({}, touched)


def _is_alive(holder: dict[str, Any]) -> bool | None:
    """Whether the process of a lock is there; None if this one cannot know."""
    here = _this_process()
    if any(holder.get(key) != here[key] for key in ("host", "space")) or type(holder.get("pid")) is not int:
        return None
    try:
        os.kill(holder["pid"], 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's, perhaps of a number that was free meanwhile
        pass
    state, started = _stat(holder["pid"])
    if not started:  # not to be seen here
        return None
    # Else it is another one of that number, or has ended and its parent does not care.
    return state not in "ZX" and started == holder.get("started")


def _describe(holder: dict[str, Any]) -> str:
    return f"process {holder['pid']} on {holder['host']}" if {"pid", "host"} <= holder.keys() else "a process"


def _pid_space() -> str:
    """Within which process numbers mean the same: containers of one host name have their own."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _stat(pid: int) -> tuple[str, str]:
    """State of a process, a letter, and its start, in ticks since that of the machine; "" if unknown."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "", ""
    fields = stat.rpartition(")")[2].split()
    return fields[0], fields[19]
