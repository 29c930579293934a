"""What happens to a valid file before a reader gets it: hypothesis draws it, so that a crash shrinks.

Bytes: bits and bytes change; parts are cut off, removed, repeated, overwritten by numbers at the edge of
their types or by words of the format, taken from another seed. Trees, where a format has a parser: values,
keys and whole branches are replaced, removed, renamed and moved.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import strategies as st

INTERESTING = (b"\x00", b"\x01", b"\x7f", b"\x80", b"\xff", b"\n", b"\t", b" ", b"'", b'"', b"\\")
NUMBERS = tuple(
    value.to_bytes(width, "little")
    for width in (2, 4, 8)
    for value in (0, 1, 1 << (8 * width - 1), (1 << (8 * width)) - 1, (1 << (8 * width - 1)) - 1)
)
WORDS = (
    *(b"null", b"true", b"NaN", b"Infinity", b"-1", b"0", b"1e999", b"0x10", b"9" * 30, b"-0.0"),
    *(b"{}", b"[]", b'""', b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\\ud800", b"../", b"\x1b[2J", b"%s" * 3),
)
"""Words that mean something to many formats."""


def _nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


ODD: tuple[Callable[[], Any], ...] = tuple(
    (lambda value=value: copy.deepcopy(value))
    for value in (
        *(None, True, False, 0, 1, -1, 2**31, 2**63, -(2**63), 10**30),
        *(0.0, -0.5, 0.5, 1e300, float("nan"), float("inf"), float("-inf")),
        *(
            "",
            " ",
            "x",
            "0",
            "-1",
            "nan",
            "1e400",
            "a\nb",
            "\x1b[2J",
            "\ud800",
            "../../x",
            "/",
            "${a}",
            "é" * 300,
        ),
        *([], {}, [[]], [None], {"": 0}, {"x": []}, [1, "2", None], ["x"] * 50, _nested(60)),
    )
)
"""Values where a file should have others."""


def mutated(
    seeds: Sequence[bytes],
    *,
    words: Sequence[bytes] = (),
    parse: Callable[[bytes], Any] | None = None,
    dump: Callable[[Any], bytes] | None = None,
    odd: Sequence[Callable[[], Any]] = (),
) -> st.SearchStrategy[bytes]:
    """Mutations of valid files.

    Args:
        seeds: their contents.
        words: what the format is made of, beside `WORDS`.
        parse: from a seed to dicts, lists and values, for changes of structure.
        dump: the way back; whatever it raises means "not this one".
        odd: more values for the tree; each makes a new one.
    """

    @st.composite
    def draw_file(draw: Any) -> bytes:
        seed = draw(st.sampled_from(seeds))
        if parse is not None and dump is not None and draw(st.booleans()):
            return _changed_tree(draw, seed, parse, dump, (*ODD, *odd))
        return _changed_bytes(draw, seed, seeds, (*WORDS, *words))

    return draw_file()


def _changed_bytes(draw: Any, data: bytes, seeds: Sequence[bytes], words: Sequence[bytes]) -> bytes:
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, max(len(data) - 1, 0)))
        length = draw(st.one_of(st.integers(1, 8), st.integers(1, max(len(data), 1))))
        end = min(start + length, len(data))
        kind = draw(st.integers(0, 8))
        if kind == 0 and data:
            bit = draw(st.integers(0, 7))
            data = data[:start] + bytes([data[start] ^ (1 << bit)]) + data[start + 1 :]
        elif kind == 1:
            data = data[:start] + draw(st.sampled_from(INTERESTING)) + data[start + 1 :]
        elif kind == 2:
            data = data[:start]
        elif kind == 3:
            data = data[:start] + data[end:]
        elif kind == 4:
            data = data[:end] + data[start:end] * draw(st.integers(1, 3)) + data[end:]
        elif kind == 5:
            number = draw(st.sampled_from(NUMBERS))
            data = data[:start] + number + data[start + len(number) :]
        elif kind == 6:
            data = data[:start] + draw(st.sampled_from(words)) + data[start:]
        elif kind == 7:
            present = [word for word in words if word in data]
            if present:
                data = data.replace(draw(st.sampled_from(present)), draw(st.sampled_from(words)), 1)
        else:
            other = draw(st.sampled_from(seeds))
            data = data[:start] + other[min(start, len(other)) :][: end - start] + data[end:]
    return data


def _changed_tree(
    draw: Any,
    data: bytes,
    parse: Callable[[bytes], Any],
    dump: Callable[[Any], bytes],
    odd: Sequence[Callable[[], Any]],
) -> bytes:
    from hypothesis import reject

    tree = [parse(data)]  # in a list, so that the whole can be replaced as well
    for _ in range(draw(st.integers(1, 3))):
        places = list(_places(tree))
        holder, key = draw(st.sampled_from(places))
        kind = draw(st.integers(0, 4))
        if kind <= 1 or (kind == 2 and holder is tree):
            holder[key] = draw(st.sampled_from(odd))()
        elif kind == 2:
            del holder[key]
        elif kind == 3:
            other, name = draw(st.sampled_from(places))
            holder[key] = copy.deepcopy(other[name])
        elif isinstance(holder, dict):
            name = draw(st.sampled_from(odd))()
            plain = isinstance(name, str | int | float | tuple | None)
            holder[name if plain else str(name)[:100]] = holder.pop(key)
    try:
        return dump(tree[0])
    except Exception:
        reject()


def _places(value: Any) -> Any:
    """(container, key) of every value in dicts and lists."""
    if isinstance(value, dict | list):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from _places(value[key])
