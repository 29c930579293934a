"""Python's unpickler with limits: a small file cannot ask for hours or gigabytes, nor crash the interpreter.

The one in C makes room for thousands of millions of places in its memo when a file names the last. It hashes
whatever is a key: a tuple of tuples of tuples takes for ever, or more stack than there is. The one in Python
can be told what to refuse, and its operations can be counted.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Sequence
from typing import Any, BinaryIO

MAX_BYTES = 64 << 20
"""Of a pickle without its tensors: those of the largest published models have less than one megabyte."""
MAX_OPERATIONS = 2_000_000
"""About two seconds; a checkpoint with its optimiser has about 20 a tensor."""
MAX_EXPANDED = 4_000_000
"""Values in all containers if each is counted as often as it occurs: so many does a program visit."""
MAX_DEPTH = 100
"""Of containers in containers: programs that visit them use about as many calls of each function."""
_MAX_KEY = 64
"""Values in a tuple that is a key, and in those in it."""
_COST_OF_ODD_KEYS = 1000
"""Operations that a key costs whose hash a stranger can choose: tuples, and numbers beyond any count."""
_LARGEST_INT_KEY = 1 << 60
_Python: Any = pickle._Unpickler
_KEYS = (str, bytes, int, float, type(None), type)


class PickleError(pickle.UnpicklingError):
    """The pickle does what no checkpoint needs, or too much of it."""


class _Source:
    """The bytes of one pickle."""

    def __init__(self, stream: BinaryIO):
        self._stream = stream
        self._left = MAX_BYTES

    def read(self, n_bytes: int) -> bytes:
        self._take(n_bytes)
        return self._stream.read(n_bytes)

    def readline(self) -> bytes:
        line = self._stream.readline(self._left + 1)
        self._take(len(line))
        return line

    def _take(self, n_bytes: int) -> None:
        self._left -= n_bytes
        if self._left < 0:
            raise PickleError(f"has a pickle of more than {MAX_BYTES >> 20} MB")


class BoundedUnpickler(_Python):
    """Reads one pickle; what it may name and call is decided by a subclass.

    Args:
        stream: is read as far as the pickle goes.
    """

    def __init__(self, stream: BinaryIO):
        super().__init__(_Source(stream), encoding="utf-8")  # of texts that Python 2 wrote
        self._operations = MAX_OPERATIONS

    def call(self, function: Any, args: Sequence[Any]) -> Any:
        """What the pickle gets of a call. Everything that calls comes through here."""
        raise PickleError("calls something")

    def build(self, instance: Any, state: Any) -> None:
        """What the pickle says about an object beside its contents."""
        raise PickleError("sets attributes")

    def may_grow(self, instance: Any) -> bool:
        """Whether an object that is no list, dict or set takes items."""
        return False

    def is_key(self, value: Any) -> bool:
        """Whether an object of another type than Python's own may be a key."""
        return False

    def spend(self, operations: int) -> None:
        """Count what takes about as long as so many operations of the pickle.

        Raises:
            PickleError: when they are used up.
        """
        self._operations -= operations
        if self._operations < 0:
            raise PickleError(f"has more than {MAX_OPERATIONS:,} operations")

    def checked_keys(self, keys: Iterable[Any]) -> None:
        """Refuse keys that take long to hash, or crash the interpreter."""
        for key in keys:
            if isinstance(key, tuple) or (isinstance(key, int) and not -1 <= key < _LARGEST_INT_KEY):
                self.spend(_COST_OF_ODD_KEYS)
            left = [key]
            for _ in range(_MAX_KEY):
                if not left:
                    break
                part = left.pop()
                if isinstance(part, tuple) and len(part) <= _MAX_KEY:
                    left += part
                elif not isinstance(part, (*_KEYS, frozenset)) and not self.is_key(part):
                    raise PickleError(f"has a key that is a {type(part).__name__}")
            if left:
                raise PickleError(f"has a key of more than {_MAX_KEY} values")

    def _reduce(self) -> None:
        args = self.stack.pop()
        self.stack[-1] = self._called(self.stack[-1], args)

    def _new_object(self) -> None:
        args = self.stack.pop()
        made = self._called(self.stack.pop(), args)
        self.append(made)

    def _new_object_with_names(self) -> None:
        self.stack.pop()  # arguments by name, which stand-ins do not keep
        self._new_object()

    def _instantiate(self, klass: Any, args: Any) -> None:
        self.append(self._called(klass, args))

    def _called(self, function: Any, args: Any) -> Any:
        if not isinstance(args, tuple | list):
            raise PickleError("calls something with no list of arguments")
        return self.call(function, args)

    def _build(self) -> None:
        state = self.stack.pop()
        self.build(self.stack[-1], state)

    def _extend(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not list and not self.may_grow(target):
            raise PickleError(f"adds to a {type(target).__name__}")
        target.extend(items)

    def _append(self) -> None:
        item = self.stack.pop()
        self._extend([item])

    def _appends(self) -> None:
        self._extend(self.pop_mark())

    def _set_item(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._set([key, value])

    def _set_items(self) -> None:
        self._set(self.pop_mark())

    def _set(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, dict) and not self.may_grow(target):
            raise PickleError(f"sets items of a {type(target).__name__}")
        keys, values = items[::2], items[1::2]
        if len(keys) != len(values):
            raise PickleError("has a key without a value")
        self.checked_keys(keys)
        for key, value in zip(keys, values, strict=True):
            target[key] = value

    def _dict(self) -> None:
        items = self.pop_mark()
        self.append({})
        self._set(items)

    def _add(self) -> None:
        items, target = self.pop_mark(), self.stack[-1]
        if type(target) is not set:
            raise PickleError(f"adds to a {type(target).__name__}")
        self.checked_keys(items)
        target.update(items)

    def _frozenset(self) -> None:
        items = self.pop_mark()
        self.checked_keys(items)
        self.append(frozenset(items))

    def _refuse(self) -> None:
        raise PickleError("uses extensions or buffers of another program")


def _operations() -> dict[int, Callable[[Any], None]]:
    """What each operation does: Python's own way, or ours, and counted."""
    ours: dict[bytes, Callable[[Any], None]] = {
        pickle.REDUCE: BoundedUnpickler._reduce,
        pickle.NEWOBJ: BoundedUnpickler._new_object,
        pickle.NEWOBJ_EX: BoundedUnpickler._new_object_with_names,
        pickle.BUILD: BoundedUnpickler._build,
        pickle.APPEND: BoundedUnpickler._append,
        pickle.APPENDS: BoundedUnpickler._appends,
        pickle.SETITEM: BoundedUnpickler._set_item,
        pickle.SETITEMS: BoundedUnpickler._set_items,
        pickle.DICT: BoundedUnpickler._dict,
        pickle.ADDITEMS: BoundedUnpickler._add,
        pickle.FROZENSET: BoundedUnpickler._frozenset,
        **dict.fromkeys(
            (pickle.EXT1, pickle.EXT2, pickle.EXT4, pickle.NEXT_BUFFER, pickle.READONLY_BUFFER),
            BoundedUnpickler._refuse,
        ),
    }
    theirs: dict[int, Callable[[Any], None]] = _Python.dispatch
    return {
        code: _counted(function) for code, function in (theirs | {k[0]: f for k, f in ours.items()}).items()
    }


def _counted(function: Callable[[Any], None]) -> Callable[[Any], None]:
    def run(self: BoundedUnpickler) -> None:
        self.spend(1)
        function(self)

    return run


BoundedUnpickler.dispatch = _operations()


def check_expanded(value: Any, opened: Callable[[Any], Any]) -> None:
    """Refuse containers that are more than they look like: those that contain one another again and again.

    Args:
        value: what a pickle gave.
        opened: what is in an object that is no dict, list, tuple or set, but is not visited with it; None of
            one that has nothing.

    Raises:
        PickleError: if containers contain themselves, or as many values as no program visits.
    """
    seen: set[int] = set()
    measured: dict[int, tuple[int, int]] = {}
    roots = [value]
    for root in roots:  # which are kept meanwhile: another object would get the `id` of one that is gone
        _measure(root, opened, measured, roots, seen)


def _measure(
    root: Any,
    opened: Callable[[Any], Any],
    measured: dict[int, tuple[int, int]],
    roots: list[Any],
    seen: set[int],
) -> None:
    """(values, depth) of a container and all in it by `id`, without recursion."""
    left, open_ones = [(root, False)], set()
    while left:
        value, visited = left.pop()
        key = id(value)
        if visited:
            open_ones.discard(key)
            inner = [measured[id(part)] for part in _parts(value) if id(part) in measured]
            size = 1 + len(_parts(value)) + sum(n for n, _ in inner)
            depth = 1 + max((d for _, d in inner), default=0)
            if size > MAX_EXPANDED or depth > MAX_DEPTH:
                raise PickleError("has lists in lists in lists that amount to more than any checkpoint has")
            measured[key] = size, depth
        elif key in open_ones:
            raise PickleError("has a list or a dict that contains itself")
        elif isinstance(value, dict | list | tuple | set | frozenset):
            if key not in measured:
                open_ones.add(key)
                left.append((value, True))
                left += [(part, False) for part in _parts(value)]
        elif key not in seen and (more := opened(value)) is not None:
            seen.add(key)
            roots.append(more)


def _parts(value: Any) -> Sequence[Any]:
    """What is directly in a container; keys are small (`checked_keys`)."""
    return list(value.values()) if isinstance(value, dict) else list(value)
