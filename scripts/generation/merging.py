"""Shards of a sample checked, and put together into one file."""

from __future__ import annotations

import gzip
import io
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from graphcnf.compute.files import inside, open_input, read_json
from graphcnf.errors import UserError
from graphcnf.molecules.hashing import smiles_hash
from graphcnf.scripts.generation.conversion import parquet_lines
from graphcnf.scripts.generation.records import WRITERS, Recipe, entries, header
from graphcnf.scripts.generation.shards import FORMAT, Shard, beside, seal, shard_records
from graphcnf.scripts.generation.stream import Marks, Progress

PIECE = 1 << 16
"""Records that are written at a time."""


class BadShard(ValueError):
    """What keeps a file from being merged, in words.

    Attributes:
        shard: What it should be, where that is known.
    """

    def __init__(self, message: str, shard: Shard | None = None):
        super().__init__(message)
        self.shard = shard


@dataclass(frozen=True)
class Part:
    """A shard with its file.

    Attributes:
        path: The file.
        shard: What it is of.
        progress: What it holds.
    """

    path: Path
    shard: Shard
    progress: Progress

    @property
    def recipe(self) -> Recipe:
        """What was drawn and written."""
        return Recipe(**{k: _frozen(value) for k, value in self.shard.recipe.items()})


def read_part(path: Path) -> Part:
    """A shard, held against what lies beside it.

    Raises:
        BadShard: It is none, or not as it was written.
    """
    name = beside(path).name
    try:
        found = read_json(inside(path.parent, beside(path).name))
        if found["format"] != FORMAT:
            raise BadShard(f"{name} is of another version of graphcnf")
        kept = {field: found[field] for field in Shard.__dataclass_fields__}
        kept |= {field: _pair(found[field]) for field in ("part", "sample", "records")}
        part = Part(path, Shard(**kept), Progress(**found["progress"]))
        _check(part)
        expected = {field: found[field] for field in ("bytes", "sha256")}
        there = path.stat().st_size
        if there < expected["bytes"]:
            raise BadShard(f"truncated: {there:,} of {expected['bytes']:,} bytes", part.shard)
        if seal(path) != expected:
            raise BadShard("damaged: it is not what was written", part.shard)
    except FileNotFoundError:
        shown = f"no shard of generate --shard: without {name}"
        raise BadShard(shown if path.exists() else "there is no such file") from None
    except OSError as error:
        raise BadShard(error.strerror or str(error)) from None
    except BadShard:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, UserError):
        raise BadShard(f"{name} is damaged") from None
    return part


def _check(part: Part) -> None:
    """Raise ValueError where what is said of a shard cannot be."""
    shard, recipe = part.shard, part.recipe
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


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


@dataclass(frozen=True)
class Survey:
    """What became of the files that were named.

    Attributes:
        parts: Those that go together, in the order of their records.
        problems: What is wrong with others, and which are missing; a line for each.
        notes: What is not wrong, but should be known.
    """

    parts: list[Part]
    problems: list[str]
    notes: list[str]


def survey(paths: Iterable[Path], read: Callable[[Path], Part] = read_part) -> Survey:
    """Look at every file: which are whole shards of the sample that most of them are of."""
    parts, problems, bad = [], [], []
    for path in paths:
        try:
            parts.append(read(path))
        except BadShard as error:
            number = error.shard and "shard {}/{}, ".format(*error.shard.part)
            problems.append(f"{path}: {number or ''}{error}")
            bad.append(error.shard)
    if not parts:
        return Survey([], problems, [])
    samples = Counter(_sample_key(part.shard) for part in parts)
    usual = next(p for p in parts if _sample_key(p.shard) == samples.most_common(1)[0][0])
    named = {s.part[0] for s in bad if s and _sample_key(s) == _sample_key(usual.shard)}
    chosen: dict[int, Part] = {}
    for part in parts:
        number, count = part.shard.part
        if other := _difference(part, usual):
            problems.append(f"{part.path}: of another sample than most: {other}")
        elif number in chosen:
            problems.append(f"{part.path}: shard {number}/{count} as {chosen[number].path} is")
        else:
            chosen[number] = part
    count = usual.shard.part[1]
    for before, after in pairwise(sorted({0, *chosen, *named, count + 1})):
        if after - before > 1:
            problems.append(_gap(usual.shard, before + 1, after - 1))
    kept = [chosen[number] for number in sorted(chosen)]
    kinds = Counter(json.dumps(part.shard.environment) for part in kept)
    notes = [] if len(kinds) == 1 else [
        "the shards were drawn with different versions or processors, which may round otherwise: "
        "single graphs may differ from those of one machine (" + "; ".join(kinds) + ")"
    ]  # fmt: skip
    return Survey(kept, problems, notes)


def _gap(shard: Shard, first: int, last: int) -> str:
    """What is missing between two shards of a sample, in words."""
    count, sample = shard.part[1], range(*shard.sample)
    numbers = f"shard {first}/{count}" if first == last else f"shards {first} to {last} of {count}"
    low, high = (shard_records(sample, (number, count)) for number in (first, last))
    return f"missing: {numbers}, graphs {low.start} to {high.stop - 1}"


def _sample_key(shard: Shard) -> str:
    return json.dumps([shard.model, shard.recipe, shard.sample, shard.part[1]], sort_keys=True)


def _difference(part: Part, usual: Part) -> str:
    """In which respects a shard is of another sample, in words; empty where in none."""
    one, other, found = part.shard, usual.shard, []
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


def merged(parts: Sequence[Part], *, unique: bool, count: Counter[str]) -> Iterator[str]:
    """Yield piece after piece the text of one file.

    Args:
        parts: Shards of one sample, in the order of their records.
        unique: Whether a molecule that came before is left out; a graph without SMILES never is.
        count: Gets "read", records of the shards, and "written", those that are no repeats.

    Raises:
        UserError: A shard changes while it is read.
    """
    recipe, seen = parts[0].recipe, Marks()
    yield header(recipe)
    for part in parts:
        pieces, before = [], count["read"]
        with _lines(part.path) as lines:
            for entry in entries(lines, recipe):
                count["read"] += 1
                if not unique or not entry.smiles or seen.add(smiles_hash(entry.smiles)):
                    pieces.append(entry.text)
                    count["written"] += 1
                if len(pieces) >= PIECE:
                    yield "".join(pieces)
                    pieces = []
        yield "".join(pieces)
        if count["read"] - before != part.progress.written:
            raise UserError(f"{part.path} changes while it is read")


@contextmanager
def _lines(path: Path) -> Iterator[Iterable[str]]:
    """The lines of a shard, whatever it is packed in."""
    with open_input(path) as file:
        magic = file.read(4)
        file.seek(0)
        if magic == b"PAR1":
            yield parquet_lines(file)
            return
        packed = gzip.open(file) if magic[:2] == b"\x1f\x8b" else file
        with packed as content, io.TextIOWrapper(content, "utf-8", newline="") as text:
            yield text


def totals(parts: Sequence[Part]) -> Progress:
    """What the shards hold together."""
    sums = {
        name: sum(getattr(part.progress, name) for part in parts)
        for name in ("valid", "accepted", "written", "seconds")
    }
    return replace(Progress(record=sum(part.progress.sampled for part in parts)), **sums)
