"""Shards of a sample checked, and put together into one file."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from graphcnf.compute.files import inside, read_json
from graphcnf.errors import UserError
from graphcnf.molecules.hashing import HashSet
from graphcnf.molecules.standardize import protonation_hash
from graphcnf.sampling.formats import WRITERS, entries, header, open_lines
from graphcnf.sampling.partial_file import NO_NAME, partial_file
from graphcnf.sampling.records import Recipe
from graphcnf.sampling.shards import FORMAT, Shard, description, seal, shard_records
from graphcnf.sampling.stream import SampleCounts

PIECE = 1 << 16
"""Records that are written at a time."""


class BadShard(ValueError):
    """A file that cannot be merged; the message says why.

    Attributes:
        shard: What the file should be, where that is known.
    """

    def __init__(self, message: str, shard: Shard | None = None):
        super().__init__(message)
        self.shard = shard


@dataclass(frozen=True)
class ShardFile:
    """A shard with its file and its counts."""

    path: Path
    shard: Shard
    counts: SampleCounts

    @property
    def recipe(self) -> Recipe:
        """The recipe of the sample."""
        given = self.shard.recipe.items()
        return Recipe(**{k: tuple(v) if isinstance(v, list) else v for k, v in given})


def read_shard(path: Path) -> ShardFile:
    """Read the description of a shard, and check the file against it.

    Raises:
        BadShard: It is no shard, or not as it was written.
    """
    name = description(path).name
    try:
        found = read_json(inside(path.parent, name))
        if found["format"] != FORMAT:
            raise BadShard(f"{name} is of another version of graphcnf")
        fields = {field: found[field] for field in Shard.__dataclass_fields__}
        fields |= {field: _pair(found[field]) for field in ("part", "sample", "records")}
        file = ShardFile(path, Shard(**fields), SampleCounts(**found["progress"]))
        _check(file)
        expected = {field: found[field] for field in ("bytes", "sha256")}
        there = path.stat().st_size
        if there < expected["bytes"]:
            raise BadShard(f"truncated: {there:,} of {expected['bytes']:,} bytes", file.shard)
        if seal(path) != expected:
            raise BadShard("damaged: it is not what was written", file.shard)
    except FileNotFoundError:
        shown = f"no shard of generate --shard: without {name}"
        raise BadShard(shown if path.exists() else "there is no such file") from None
    except OSError as error:
        raise BadShard(error.strerror or str(error)) from None
    except BadShard:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, UserError):
        raise BadShard(f"{name} is damaged") from None
    return file


def _check(file: ShardFile) -> None:
    """Raise ValueError where the description of a shard cannot be true."""
    shard, recipe = file.shard, file.recipe
    records = shard_records(range(*shard.sample), shard.part)
    texts = [recipe.kind, shard.model, *recipe.columns]
    if (records.start, records.stop) != shard.records or not all(isinstance(t, str) for t in texts):
        raise ValueError
    if recipe.kind not in WRITERS or "smiles" not in recipe.columns:
        raise ValueError


def _pair(value: Any) -> tuple[int, int]:
    low, high = value
    if not (isinstance(low, int) and isinstance(high, int) and 0 <= low <= high):
        raise ValueError
    return low, high


@dataclass(frozen=True)
class Survey:
    """Result of a check of several files.

    Attributes:
        shards: Those that go together, in the order of their records.
        problems: A line for each file that is left out, and for each gap.
        notes: Further sentences for the user.
    """

    shards: list[ShardFile]
    problems: list[str]
    notes: list[str]


def survey(paths: Iterable[Path], read: Callable[[Path], ShardFile] = read_shard) -> Survey:
    """Check every file: which are whole shards of the sample that most of them are of."""
    files, problems, bad = [], [], []
    for path in paths:
        try:
            files.append(read(path))
        except BadShard as error:
            number = error.shard and "shard {}/{}, ".format(*error.shard.part)
            problems.append(f"{path}: {number or ''}{error}")
            bad.append(error.shard)
    if not files:
        return Survey([], problems, [])
    samples = Counter(_sample_key(file.shard) for file in files)
    usual = next(f.shard for f in files if _sample_key(f.shard) == samples.most_common(1)[0][0])
    named = {s.part[0] for s in bad if s and _sample_key(s) == _sample_key(usual)}
    chosen: dict[int, ShardFile] = {}
    for file in files:
        number, count = file.shard.part
        if other := _difference(file.shard, usual):
            problems.append(f"{file.path}: of another sample than most: {other}")
        elif number in chosen:
            problems.append(f"{file.path}: shard {number}/{count} as {chosen[number].path} is")
        else:
            chosen[number] = file
    count = usual.part[1]
    for before, after in pairwise(sorted({0, *chosen, *named, count + 1})):
        if after - before > 1:
            problems.append(_gap(usual, before + 1, after - 1))
    kept = [chosen[number] for number in sorted(chosen)]
    kinds = Counter(json.dumps(file.shard.environment) for file in kept)
    notes = [] if len(kinds) == 1 else [
        "the shards were drawn with different versions or processors, which may round otherwise: "
        "single graphs may differ from those of one machine (" + "; ".join(kinds) + ")"
    ]  # fmt: skip
    return Survey(kept, problems, notes)


def _gap(shard: Shard, first: int, last: int) -> str:
    """Say which shards of a sample are missing, from the number `first` to `last`."""
    count, sample = shard.part[1], range(*shard.sample)
    numbers = f"shard {first}/{count}" if first == last else f"shards {first} to {last} of {count}"
    low, high = (shard_records(sample, (number, count)) for number in (first, last))
    return f"missing: {numbers}, graphs {low.start} to {high.stop - 1}"


def _sample_key(shard: Shard) -> str:
    return json.dumps([shard.model, shard.recipe, shard.sample, shard.part[1]], sort_keys=True)


def _difference(one: Shard, other: Shard) -> str:
    """Say how the sample of a shard differs from that of another one; "" where it does not."""
    found = []
    if one.model != other.model:
        found.append(f"model {one.model[:8]} instead of {other.model[:8]}")
    for name in sorted(one.recipe.keys() | other.recipe.keys()):
        values = [json.dumps(shard.recipe.get(name)) for shard in (one, other)]
        if values[0] != values[1]:
            found.append(f"{name} {values[0]} instead of {values[1]}")
    if one.sample != other.sample:
        values = [f"{s.sample[0]} to {s.sample[1] - 1}" for s in (one, other)]
        found.append(f"graphs {values[0]} instead of {values[1]}")
    if one.part[1] != other.part[1]:
        found.append(f"{one.part[1]} shards instead of {other.part[1]}")
    return ", ".join(found)


def merged(
    shards: Sequence[ShardFile], *, unique: bool = True, counts: SampleCounts | None = None
) -> Iterator[str]:
    """Yield the text of one file piece after piece.

    Args:
        shards: Shards of one sample, in the order of their records.
        unique: True to leave out a molecule that came before; a graph without SMILES never is.
        counts: Counts whose `written` becomes the number of records that are written.

    Raises:
        UserError: A shard changes while it is read.
    """
    counts = SampleCounts() if counts is None else counts
    counts.written = 0
    recipe, seen = shards[0].recipe, HashSet()
    yield header(recipe.kind, recipe.columns)
    for shard in shards:
        pieces, read = [], 0
        with open_lines(shard.path) as lines:
            for entry in entries(lines, recipe.kind, recipe.columns):
                read += 1
                if not unique or not entry.smiles or seen.add(protonation_hash(entry.smiles)):
                    pieces.append(entry.text)
                    counts.written += 1
                if len(pieces) >= PIECE:
                    yield "".join(pieces)
                    pieces = []
        yield "".join(pieces)
        if read != shard.counts.written:
            raise UserError(f"{shard.path} changes while it is read")


def merge_to_file(
    texts: Iterable[str],
    out: Path,
    *,
    convert: Callable[[Path, Path], None] | None = None,
    force: bool = False,
) -> None:
    """Write pieces of text to a file that appears when all of them are there.

    Args:
        texts: The pieces, as of `merged`.
        out: The file.
        convert: Makes the file of the text, see `PartialFile.finish`.
        force: True to drop what an interrupted command has left of the file.

    Raises:
        UserError: The file cannot be written, or is unfinished.
    """
    with partial_file(out, NO_NAME) as file:
        if file.others() and not force:
            raise UserError(
                f"generate left an unfinished {out}: let it go on, or delete that with --force"
            )
        file.restart()
        try:
            for text in texts:
                file.commit(text, {})
            file.finish(convert)
        except BaseException:
            file.restart()  # it does not go on later
            raise


def totals(shards: Sequence[ShardFile]) -> SampleCounts:
    """Return the counts of all shards together."""
    sums = {
        name: sum(getattr(shard.counts, name) for shard in shards)
        for name in ("valid", "accepted", "written", "seconds")
    }
    return replace(SampleCounts(record=sum(shard.counts.sampled for shard in shards)), **sums)
