"""Keep the parts of a sample that is being drawn, so that an interrupted run can be continued.

- *Record*: one molecule of a sample, a function of model, seed and its number.
- *Block*: a range of records that are drawn together, see `graphcnf.graphs.record_blocks`. Each is
  kept in a file of its own, written once, in a hidden folder beside the file of the sample.
- *Manifest*: the file `manifest.json` in that folder, with all that determines the records: model,
  options, versions and processor.

When a sample is drawn again with the same manifest, the blocks that are there are taken, and the
others are drawn.

The folder may come from a stranger: no link in it is followed, and a block holds nothing but data.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from shutil import rmtree
from typing import Any, NamedTuple

from graphcnf.data_files import gunzip
from graphcnf.errors import UserError
from graphcnf.file_reading import LARGEST_TEXT, inside, read_file, read_json
from graphcnf.file_writing import replace_file
from graphcnf.limits import is_number
from graphcnf.messages import say


class Record(NamedTuple):
    """A drawn record: one graph of a sample, and what is written of it.

    Attributes:
        number: Its number in the sample.
        strict: True for a connected valid molecule.
        refusal: Name of the filter that a valid molecule fails (`Filters.refusal`); "" if none.
        hash: 64-bit hash of a molecule that passes all filters, by which repeats are found
            (`protonation_hash`). None for other graphs, and if repeats are written, too.
        text: What is written of it, in the format of the file; "" for a graph that is not written.
        reached: `{property: (target, value)}` of the properties that were asked for. Values that
            are not finite are left out.
    """

    number: int
    strict: bool
    refusal: str
    hash: int | None
    text: str
    reached: dict[str, tuple[float, float]]

    def is_sound(self) -> bool:
        """Return True if the attributes have the types that they should have, after reading a file.

        It raises TypeError or AttributeError if `reached` does not even have pairs as values.
        """
        types = {"number": int, "strict": bool, "refusal": str, "text": str}
        return (
            all(isinstance(getattr(self, name), kind) for name, kind in types.items())
            and (self.hash is None or self.hash in range(1 << 64))
            and all(len(p) == 2 and all(map(is_number, p)) for p in self.reached.values())
        )


class DrawnBlock(NamedTuple):
    """A block, records that were drawn together.

    `seconds` is the wall time from the end of the block before to the end of this one.
    """

    records: list[Record]
    seconds: float

    @property
    def numbers(self) -> range:
        """Range of the numbers of the records."""
        return range(self.records[0].number, self.records[-1].number + 1)


class Blocks:
    """The finished blocks (records drawn together) of the sample that is drawn into the file `out`.

    `Sample.save` calls `get` for each block in turn, draws those that are missing, stores them by
    `put`, and calls `clear` once `out` is complete. The blocks are in a hidden folder beside `out`,
    which is there from the first `put` on. Only the process that holds the `output_lock` of `out`
    may use this object.

    `manifest` determines the records: blocks stored with another one belong to another sample,
    which `force` deletes. `graphs` counts the records in the blocks that were read or written so
    far.
    """

    def __init__(self, out: Path, manifest: dict[str, Any], force: bool):
        self.folder = inside(out.parent, f".{out.name}.blocks")
        self._manifest, self.graphs = manifest, 0
        try:
            there = read_json(inside(self.folder, "manifest.json"))
        except FileNotFoundError:
            self.clear()  # of a folder that was being deleted
        except ValueError:
            say(f"note: what an interrupted command left of {out} is damaged; starting afresh")
            self.clear()
        else:
            if there != manifest and not force:
                raise UserError(
                    "a command with other options, versions or on another kind of processor left "
                    f"an unfinished {out}: repeat that command, or delete its part with --force"
                )
            if there != manifest:
                self.clear()

    def get(self, numbers: range) -> DrawnBlock | None:
        """Read a block; None if it is missing, or damaged, which a note on stderr says."""
        path = self._path(numbers)
        try:
            content = json.loads(gunzip(read_file(path, LARGEST_TEXT)))
            records = [Record(*values) for values in content["records"]]
            if (
                [record.number for record in records] == [*numbers]
                and all(record.is_sound() for record in records)
                and is_number(content["seconds"])
            ):
                self.graphs += len(records)
                return DrawnBlock(records, content["seconds"])
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
            pass
        say(f"note: {path} is damaged; drawing it again")
        return None

    def put(self, block: DrawnBlock) -> None:
        """Write a block. Once this returns, the block survives if the process is killed."""
        manifest = self.folder / "manifest.json"
        if not manifest.exists():
            self.folder.mkdir(exist_ok=True)
            replace_file(manifest, json.dumps(self._manifest).encode())
        content = json.dumps({"records": block.records, "seconds": block.seconds})
        replace_file(self._path(block.numbers), gzip.compress(content.encode(), 1, mtime=0))
        self.graphs += len(block.records)

    def clear(self) -> None:
        """Delete all blocks and the folder."""
        if self.folder.exists():
            rmtree(self.folder)

    def _path(self, numbers: range) -> Path:
        return inside(self.folder, f"{numbers.start:012d}-{numbers.stop - 1:012d}.json.gz")
