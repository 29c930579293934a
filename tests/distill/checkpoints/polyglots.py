"""Files that are two archives: one for Python's zipfile, another for torch.

Python looks for the table of contents right in front of the end record, whatever offset that states; torch
goes to the offset. Python finds a harmless file of torch.save there, and torch a TorchScript archive whose
`__setstate__` makes a file.
"""

import struct
import warnings
import zipfile
import zlib
from pathlib import Path

import torch
from torch import nn

_LOCAL = struct.Struct("<4s5H3L2H")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_END = struct.Struct("<4s4H2LH")


class _Marker(nn.Module):
    """TorchScript that makes the file `mark` when it is loaded."""

    def __init__(self, mark: str):
        super().__init__()
        self.mark = mark
        self.made = torch.zeros(1)

    def forward(self) -> int:
        return 0

    @torch.jit.export
    def __getstate__(self) -> tuple[str, bool]:
        return self.mark, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[str, bool]) -> None:
        self.mark = state[0]
        self.training = state[1]
        self.made = torch.from_file(state[0], shared=True, size=1)


def script(path: Path, mark: Path) -> Path:
    """A TorchScript archive that makes the file `mark` when it is loaded."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated
        torch.jit.save(torch.jit.script(_Marker(str(mark))), path)
    mark.unlink(missing_ok=True)
    return path


def polyglot(path: Path, mark: Path) -> Path:
    """Make a file of torch.save one that is the same to Python, and to torch code that makes `mark`."""
    harmless, code = _records(path), _records(script(path, mark))
    for records in (harmless, code):
        folder, missing = next(iter(records)).partition("/")[0], max(len(harmless), len(code)) - len(records)
        records.update({f"{folder}/filler{number}": b"" for number in range(missing)})
    width = max(sum(_CENTRAL.size + len(name) for name in records) for records in (harmless, code))
    body = bytearray()
    first = _write(code, body)
    body += bytes(width)  # so that no offset of the second gets negative
    second = _write(harmless, body)
    start = len(body)
    body += _table(code, first, width)
    # Python adds to every offset how far its table lies behind the stated one: by the width of that one.
    body += _table(harmless, [offset - width for offset in second], width)
    body += _END.pack(b"PK\5\6", 0, 0, len(code), len(code), width, start, 0)
    path.write_bytes(body)
    return path


def _records(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def _write(records: dict[str, bytes], body: bytearray) -> list[int]:
    """Append records to a file; returns where they start."""
    starts = []
    for name, content in records.items():
        starts.append(len(body))
        sizes = (zlib.crc32(content), len(content), len(content), len(name), 0)
        body += _LOCAL.pack(b"PK\3\4", 20, 0, 0, 0, 0, *sizes) + name.encode() + content
    return starts


def _table(records: dict[str, bytes], starts: list[int], width: int) -> bytes:
    """A table of contents, made `width` bytes long by a comment on its last entry."""
    table = b""
    for (name, content), start in zip(records.items(), starts, strict=True):
        sizes = (zlib.crc32(content), len(content), len(content), len(name), 0)
        last = len(table) + _CENTRAL.size + len(name) if name == list(records)[-1] else width
        comment = b" " * (width - last)
        head = _CENTRAL.pack(b"PK\1\2", 20, 20, 0, 0, 0, 0, *sizes, len(comment), 0, 0, 0, start)
        table += head + name.encode() + comment
    return table
