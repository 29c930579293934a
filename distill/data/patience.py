"""Giving up on files that do not answer, as on a network disk whose server is gone.

Such a read cannot be interrupted. It is left to a thread of its own, which is abandoned if it takes too long.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from distill.errors import DataError

Result = TypeVar("Result")

PATIENCE_S = 120.0
"""For a file; servers of clusters come back from a restart within a minute or two. Where n reads of a process
hang already, the next one gets the (n + 1)-th part of it: a lost disk must not cost that for each file."""

_mine = threading.local()
_hanging: list[_Reader] = []


def patiently(call: Callable[..., Result], *arguments: Any) -> Result:
    """Call a function that reads a file, and wait for it as long as is reasonable.

    Raises:
        DataError: it has not returned after `PATIENCE_S`; to follow the name of the file.
        Exception: as `call`.
    """
    reader: _Reader | None = getattr(_mine, "reader", None)
    if reader is None or reader.process != os.getpid():  # threads do not survive a fork
        reader = _mine.reader = _Reader()
    _hanging[:] = [each for each in _hanging if each.answers.empty() and each.process == os.getpid()]
    patience_s = PATIENCE_S / (1 + len(_hanging))
    reader.questions.put((call, arguments))
    try:
        result, error = reader.answers.get(timeout=patience_s)
    except queue.Empty:
        _hanging.append(reader)
        _mine.reader = None
        raise DataError(
            f"does not answer: given up after {patience_s:.3g} s (a network disk that hangs?)"
        ) from None
    if error is not None:
        raise error
    return result


class _Reader:
    """A thread that reads one file after the other, as long as this object exists."""

    def __init__(self) -> None:
        self.process = os.getpid()
        self.questions: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
        threading.Thread(target=_answer, args=(self.questions, self.answers), daemon=True).start()

    def __del__(self) -> None:
        self.questions.put(None)


def _answer(questions: queue.SimpleQueue[Any], answers: queue.SimpleQueue[Any]) -> None:
    while (question := questions.get()) is not None:
        call, arguments = question
        try:
            answers.put((call(*arguments), None))
        except BaseException as error:  # noqa: BLE001 it is raised where the answer is awaited
            answers.put((None, error))
        del question, call, arguments
