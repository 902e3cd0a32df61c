"""A file that grows piece by piece, and survives a kill at any moment.

The complete part of `molecules.csv` lies beside it as `.molecules.csv.<fingerprint>.partial`, where
the fingerprint stands for everything that determines the content. A journal of the same name holds
the number of complete bytes, and an entry of the writer; it is replaced after each piece, once the
piece is on the disk. Bytes that the journal does not vouch for are cut off when the file is opened
again.
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

from graphcnf.compute.files import file_lock, inside, open_kept, open_new, read_json
from graphcnf.errors import UserError

READ = 1 << 20
DIGITS = 16


def fingerprint(content: dict[str, Any]) -> str:
    """Return a short name for JSON values."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:DIGITS]


class PartialFile:
    """The complete part of a file that is being written; `partial_file` makes one.

    Args:
        target: The file.
        name: Fingerprint of its content.

    Attributes:
        path: File with the complete part.
        entry: Entry of the last `commit`; None at the beginning.
        damaged: True where there was a part that could not be used.
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
            # Nothing but a journal is the trace of a file that was finished.
            return there > 0
        self._file.truncate(size)
        self._file.seek(size)
        self._size, self._sum, self.entry = size, checksum, entry
        return False

    def _checksum(self, size: int) -> int:
        self._file.seek(0)
        found = 0
        while size > 0 and (data := self._file.read(min(size, READ))):
            found = zlib.crc32(data, found)
            size -= len(data)
        return found

    def restart(self) -> None:
        """Drop all that was committed."""
        self._journal.unlink(missing_ok=True)
        self._file.seek(0)
        self._file.truncate()
        self._size, self._sum, self.entry = 0, 0, None

    def commit(self, text: str, entry: dict[str, Any]) -> None:
        """Append a piece; once this returns, a kill does not take it away.

        Args:
            text: The piece.
            entry: JSON values for whoever opens the file again.
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
        """Return the files that unfinished commands with other fingerprints have left."""
        name = re.compile(
            rf"\.{re.escape(self.target.name)}\.[0-9a-f]{{{DIGITS}}}\.(partial|json|tmp)"
        )
        found: list[Path] = []
        with suppress(OSError):  # who may write to a folder may not always list it
            found = [p for p in self.target.parent.iterdir() if name.fullmatch(p.name)]
        return [path for path in found if path not in self._own]

    def finish(
        self,
        convert: Callable[[Path, Path], None] | None = None,
        beside: Callable[[Path], None] | None = None,
    ) -> None:
        """Give the file its name, and delete what is left beside it.

        Args:
            convert: Makes the file of the text.
            beside: Called with the whole file before it has its name.
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
        """Close the complete part; without a commit, delete it."""
        with suppress(OSError):  # what the disk did not take is not committed
            self._file.close()
        for path in self._own if self.entry is None else (self._temporary,):
            path.unlink(missing_ok=True)


@contextmanager
def partial_file(target: Path, name: str) -> Iterator[PartialFile]:
    """Open the part of a file that earlier commands with this fingerprint have completed.

    An error leaves what was committed for the next one.

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
    """Return the checksum of a journal and, given its own, of the part that it vouches for."""
    return zlib.crc32(json.dumps([size, entry]).encode(), checksum)


def _write_through(file, data: bytes) -> None:
    file.write(data)
    file.flush()
    os.fsync(file.fileno())
