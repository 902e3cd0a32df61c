"""A file that is written piece by piece, and can be continued after a kill at any moment.

The pieces of `molecules.csv` so far lie beside it in `.molecules.csv.<fingerprint>.partial`; the
fingerprint is that of everything that determines the content. A journal beside this partial file
holds the number of committed bytes, their checksum and an entry of the writer; it is replaced after
each piece, once the piece is on the disk. When the partial file is opened again, bytes after the
committed ones are cut off.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from graphcnf.errors import UserError
from graphcnf.files import file_lock, inside, open_kept, open_new, read_json

READ = 1 << 20
"""Bytes that are read at a time for a checksum."""

DIGITS = 16
"""Hexadecimal digits of a fingerprint."""


def fingerprint(content: dict[str, Any]) -> str:
    """Return a short hash of JSON values."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:DIGITS]


class PartialFile:
    """The committed pieces of a file that is being written; opened by `partial_file`.

    Args:
        target: The file.
        name: Fingerprint of its content.

    Attributes:
        path: File with the committed pieces.
        entry: Entry of the last `commit`; None before the first one.
        damaged: True if an earlier partial file was unusable and has been dropped.
    """

    def __init__(self, target: Path, name: str):
        self.target = target
        self._own = [
            target.with_name(f".{target.name}.{name}.{suffix}")
            for suffix in ("partial", "json", "tmp")
        ]
        self.path, self._journal, self._temporary = self._own
        self._file = open_kept(self.path)
        self.damaged = self._recover()

    def _recover(self) -> bool:
        """Restore the committed pieces; return True if they were damaged and had to be dropped."""
        there = os.fstat(self._file.fileno()).st_size
        try:
            found = read_json(inside(self._journal.parent, self._journal.name))
            size, entry = found["bytes"], found["entry"]
            good = 0 <= size <= there
            checksum = self._checksum(size) if good else 0
            good = good and found["check"] == _check(size, entry, checksum)
        except FileNotFoundError:
            good, there = False, 0
        except (ValueError, KeyError, TypeError):
            good = False
        if not good:
            self.restart()
            # A journal without a partial file is left over from a file that was finished.
            return there > 0
        self._file.truncate(size)
        self._file.seek(size)
        self._size, self._sum, self.entry = size, checksum, entry
        return False

    def _checksum(self, size: int) -> int:
        """Return the CRC-32 of the first `size` bytes."""
        self._file.seek(0)
        found = 0
        while size > 0 and (data := self._file.read(min(size, READ))):
            found = zlib.crc32(data, found)
            size -= len(data)
        return found

    def restart(self) -> None:
        """Drop all committed pieces."""
        self._journal.unlink(missing_ok=True)
        self._file.seek(0)
        self._file.truncate()
        self._size, self._sum, self.entry = 0, 0, None

    def commit(self, text: str, entry: dict[str, Any]) -> None:
        """Append a piece, which survives a kill once this returns.

        Args:
            text: The piece.
            entry: JSON values that a later process finds in the attribute `entry`.
        """
        data = text.encode()
        _write_through(self._file, data)
        size, checksum = self._size + len(data), zlib.crc32(data, self._sum)
        journal = {"entry": entry, "bytes": size, "check": _check(size, entry, checksum)}
        with open_new(self._temporary) as file:
            _write_through(file, json.dumps(journal).encode())
        os.replace(self._temporary, self._journal)
        self._size, self._sum, self.entry = size, checksum, entry

    def others(self) -> list[Path]:
        """Return the partial files and journals of the same target with other fingerprints."""
        name = re.compile(
            rf"\.{re.escape(self.target.name)}\.[0-9a-f]{{{DIGITS}}}\.(partial|json|tmp)"
        )
        found: list[Path] = []
        with suppress(OSError):  # a folder may be writable without being readable
            found = [p for p in self.target.parent.iterdir() if name.fullmatch(p.name)]
        return [path for path in found if path not in self._own]

    def finish(
        self,
        convert: Callable[[Path, Path], None] | None = None,
        beside: Callable[[Path], None] | None = None,
    ) -> None:
        """Rename the file to its target, and delete the partial files and journals beside it.

        Args:
            convert: Function that converts the text (first path) into the target's format (second
                path), such as gzip.
            beside: Function that is called with the path of the whole file before the renaming.
        """
        self._file.close()
        whole = self.path
        if convert is not None:
            whole = self._temporary
            whole.unlink(missing_ok=True)
            convert(self.path, whole)
            with open(whole, "r+b") as file:
                os.fsync(file.fileno())
        if beside is not None:
            beside(whole)
        os.replace(whole, self.target)
        for path in (*self._own, *self.others()):
            path.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the partial file; delete it if nothing was committed."""
        with suppress(OSError):  # a failed flush concerns uncommitted bytes only
            self._file.close()
        for path in self._own if self.entry is None else (self._temporary,):
            path.unlink(missing_ok=True)


@contextmanager
def partial_file(target: Path, name: str) -> Iterator[PartialFile]:
    """Context with the `PartialFile` of a target and fingerprint, continued where there is one.

    After an error the committed pieces stay for the next process.

    Raises:
        UserError: The file cannot be written, or another process is writing it.
    """
    hidden = f".{target.name}."
    try:
        with file_lock(target.with_name(f"{hidden}lock"), target):
            partial = PartialFile(target, name)
            try:
                yield partial
            finally:
                partial.close()
    except OSError as error:
        # A full disk names no file.
        if error.filename is not None and not Path(str(error.filename)).name.startswith(hidden):
            raise
        raise UserError(f"cannot write {target}: {error.strerror or error}") from None


def _check(size: int, entry: Any, checksum: int) -> int:
    """Return the checksum of a journal's content and, by `checksum`, of the committed bytes."""
    return zlib.crc32(json.dumps([size, entry]).encode(), checksum)


def _write_through(file, data: bytes) -> None:
    file.write(data)
    file.flush()
    os.fsync(file.fileno())
