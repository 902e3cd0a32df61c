"""Draw a sample in independent parts, shards, and merge them into one file.

It is used by `graphcnf generate --shard` and `graphcnf merge`. The nouns:

- *Record*: one molecule of a sample. *Block*: a range of records that are drawn together.
- *Shard*: a file with the records of some consecutive blocks.
- *Description* of a shard: the file `part-3.smi.shard.json` beside `part-3.smi`, a JSON object:
    - `format`: version of this layout;
    - `part`: number of the shard, from 1 on, and number of all shards;
    - `sample`, `records`: number of the first record and of the one after the last, of all shards
      and of this one;
    - `model`, `recipe`, `environment`: what determines the records, as in the manifest of `Blocks`;
    - `progress`: its `SampleCounts`;
    - `bytes`, `sha256`: length and checksum of its file.

The last three entries are added once the shard is drawn. The description is written before the file
gets its name, so every complete shard has one.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields
from itertools import pairwise
from pathlib import Path
from typing import Any

from graphcnf.chemistry.hashing import HashSet
from graphcnf.chemistry.standardize import protonation_hash
from graphcnf.compute.cpu import environment
from graphcnf.errors import UserError
from graphcnf.file_reading import inside, open_input, read_json
from graphcnf.file_writing import replace_file
from graphcnf.graphs.graph_model import GraphModel
from graphcnf.graphs.records import block_number, block_start
from graphcnf.limits import MOST_CANDIDATES
from graphcnf.messages import counted
from graphcnf.pretrained import model_digest
from graphcnf.sampling.sample import Recipe, Sample, SampleCounts
from graphcnf.sampling.writers import WRITERS, entries, header, open_lines

FORMAT = 2
"""Version of the description's layout."""

Shard = dict[str, Any]
"""Description of a shard."""

ShardFile = tuple[Path, Shard]
"""File of a shard and its description."""


class NoShard(ValueError):
    """Raised if a file is not a whole shard; the message says why.

    `shard` is its description if that could be read, so that a report can name it.
    """

    def __init__(self, reason: str, shard: Shard | None = None):
        super().__init__(reason)
        self.shard = shard


def share_of(records: range, part: int, parts: int) -> range:
    """Return one of several parts of a range of records, cut between blocks.

    No block is drawn by two parts. The numbers of blocks of the parts differ by at most one.

    Some are empty if there are fewer blocks than parts.

    Examples:
        >>> [share_of(range(100, 2000), part, 3) for part in (1, 2, 3)]
        [range(100, 128), range(128, 512), range(512, 2000)]
    """
    first = block_number(records.start)
    count = block_count(records)
    low = block_start(first + count * (part - 1) // parts)
    high = block_start(first + count * part // parts)
    return range(max(low, records.start), min(high, records.stop))


def block_count(records: range) -> int:
    """Return the number of blocks that contain `records`, a range that is not empty."""
    return block_number(records.stop - 1) - block_number(records.start) + 1


def shards_of(
    model: GraphModel, recipe: Recipe, sample: range, out: Path, number: int, parts: int
) -> list[ShardFile]:
    """Return the files and descriptions of the shards to draw; nothing is drawn or written.

    If all shards are drawn, their files are numbered: m.smi.gz becomes m-1.smi.gz, m-2.smi.gz ...

    `number` is that of the shard to draw, from 1; 0 for all. `progress`, `bytes` and `sha256` are
    left out of the descriptions.
    """
    if parts > (most := block_count(sample)):
        raise UserError(
            f"{parts:,} shards: {len(sample):,} graphs are drawn in {counted(most, 'block')}, and "
            "a shard is at least one block"
        )
    common = {
        "format": FORMAT,
        "sample": [sample.start, sample.stop],
        "model": model_digest(model),
        "recipe": recipe.to_dict(),
        "environment": environment(str(model.device)),
    }
    stem, dot, suffixes = out.name.partition(".")
    found = []
    for k in [number] if number else range(1, parts + 1):
        name = out.name if number else f"{stem}-{k:0{len(str(parts))}}{dot}{suffixes}"
        records = share_of(sample, k, parts)
        part = {"part": [k, parts], "records": [records.start, records.stop]}
        found.append((out.with_name(name), {**common, **part}))
    return found


def write_description(out: Path, shard: Shard, sample: Sample, file: Path) -> None:
    """Write the description of a shard that has been drawn, before its file gets its name."""
    content = {**shard, "progress": vars(sample.counts), **_seal(file)}
    replace_file(_described(out), (json.dumps(content, indent=1) + "\n").encode())


def is_complete(out: Path, shard: Shard) -> bool:
    """Return True if a shard is drawn already, so that it can be skipped.

    It is so if the description beside the file says the same as `shard`, apart from the machine
    (`environment`), and if the file has the length and checksum of its description.
    """
    try:
        found = read_json(inside(out.parent, _described(out).name))
        return {**found, "environment": shard["environment"]} == {**found, **shard, **_seal(out)}
    except (OSError, ValueError, TypeError):
        return False


def _described(out: Path) -> Path:
    """Return the path of the description of a shard."""
    return out.with_name(f"{out.name}.shard.json")


def _seal(file: Path) -> dict[str, Any]:
    """Return what tells that a file is whole."""
    with open_input(file) as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()  # type: ignore[arg-type]
    return {"bytes": file.stat().st_size, "sha256": digest}


def _read_shard(path: Path) -> Shard:
    """Read the description of a shard, and check the shard's file against it."""
    name = _described(path).name
    try:
        shard = read_json(inside(path.parent, name))
        current = shard["format"] == FORMAT
        if current and not _is_sound(shard):
            raise ValueError
        found = _seal(path)
    except FileNotFoundError:
        reason = f"no shard of generate --shard: without {name}"
        raise NoShard(reason if path.exists() else "there is no such file") from None
    except OSError as error:
        raise NoShard(error.strerror or str(error)) from None
    except (
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        ArithmeticError,
        RecursionError,
        UserError,
    ):
        raise NoShard(f"{name} is damaged") from None
    if not current:
        raise NoShard(f"{name} is of another version of graphcnf")
    shown = "shard {}/{}".format(*shard["part"])
    if found["bytes"] < shard["bytes"]:
        sizes = f"{found['bytes']:,} of {shard['bytes']:,} bytes"
        raise NoShard(f"{shown}, truncated: {sizes}", shard)
    if {**shard, **found} != shard:
        raise NoShard(f"{shown}, damaged: it is not what was written", shard)
    return shard


def _is_sound(shard: Shard) -> bool:
    """Check that a description has the entries and types that it should: it comes from a file."""
    recipe, sample, (number, parts) = shard["recipe"], range(*shard["sample"]), shard["part"]
    counts = totals([(Path(), shard)])
    if recipe["best_of"] not in range(1, MOST_CANDIDATES + 1):
        return False
    counts.figures(True, recipe["filters"], recipe["best_of"])
    records = share_of(sample, number, parts)
    return (
        1 <= number <= parts <= block_count(sample)
        and sample.start >= 0
        and shard["records"] == [records.start, records.stop]
        and set(recipe) == {field.name for field in fields(Recipe)}
        and all(isinstance(text, str) for text in (shard["model"], *recipe["columns"]))
        and recipe["kind"] in WRITERS
        and "smiles" in recipe["columns"]
        and sum(counts.outcomes.values()) == counts.valid
        and isinstance(counts.written + shard["bytes"], int)
        and isinstance(shard["sha256"], str)
    )


def survey(paths: Iterable[Path]) -> tuple[list[ShardFile], list[str], list[str]]:
    """Check files that should be the shards of one sample, before they are merged.

    If they belong to several samples, the one with the most files is taken.

    Returns:
        - File and description of each intact shard of the sample, in the order of their records.
        - Problems: a line for each file that is left out, and for each missing shard.
        - Notes for the user, sentences.
    """
    files: list[ShardFile] = []
    damaged: list[Shard] = []
    problems: list[str] = []
    for path in paths:
        try:
            files.append((path, _read_shard(path)))
        except NoShard as error:
            problems.append(f"{path}: {error}")
            damaged += [error.shard] if error.shard else []
    if not files:
        return [], problems, []
    samples = [json.dumps(_sample_of(shard), sort_keys=True) for _, shard in files]
    usual = files[samples.index(Counter(samples).most_common(1)[0][0])][1]
    expected, chosen = _sample_of(usual), dict[int, ShardFile]()
    for path, shard in files:
        number, count = shard["part"]
        others = [
            f"{name} {json.dumps(value)} instead of {json.dumps(expected.get(name))}"
            for name, value in _sample_of(shard).items()
            if value != expected.get(name)
        ]
        if others:
            problems.append(f"{path}: of another sample than most: {', '.join(others)}")
        elif number in chosen:
            problems.append(f"{path}: shard {number}/{count}, like {chosen[number][0]}")
        else:
            chosen[number] = path, shard
    named = {*chosen, *(shard["part"][0] for shard in damaged if _sample_of(shard) == expected)}
    count = usual["part"][1]
    for before, after in pairwise(sorted({0, *named, count + 1})):
        first, last = before + 1, after - 1
        if first <= last:
            shown = f"shard {first}/{count}" if first == last else f"shards {first} to {last}"
            low, high = (share_of(range(*usual["sample"]), k, count) for k in (first, last))
            problems.append(f"missing: {shown}, graphs {low.start} to {high.stop - 1}")
    kept = [chosen[number] for number in sorted(chosen)]
    kinds = Counter(json.dumps(shard["environment"]) for _, shard in kept)
    notes = [
        "the shards were drawn with different versions or processors, so rounding may differ, and "
        "single graphs with it (" + "; ".join(kinds) + ")"
    ]
    return kept, problems, notes if len(kinds) > 1 else []


def _sample_of(shard: Shard) -> dict[str, Any]:
    """Return the part of a description that all shards of a sample have in common."""
    parts = {"model": shard["model"][:16], "graphs": shard["sample"], "shards": shard["part"][1]}
    return {**shard["recipe"], **parts}


def totals(shards: Sequence[ShardFile]) -> SampleCounts:
    """Add up the counts of shards.

    `seconds` is the sum over shards, also of those drawn at the same time. `written` and `reached`
    count a molecule of several shards several times.
    """
    counts = SampleCounts()
    for _, shard in shards:
        counts.add_counts(SampleCounts(**shard["progress"]))
    return counts


def merged(shards: Sequence[ShardFile], counts: SampleCounts, *, unique: bool) -> Iterator[str]:
    """Yield the text of the merged file: its header, then one record after the other.

    `counts.written` is set to the number of records so far, in place. `unique` leaves out repeats
    of a molecule; graphs without SMILES stay.
    """
    counts.written, seen, recipe = 0, HashSet(), shards[0][1]["recipe"]
    kind, columns = recipe["kind"], recipe["columns"]
    yield header(kind, columns)
    for path, shard in shards:
        read = 0
        with open_lines(path) as lines:
            for text, smiles in entries(lines, kind, columns):
                read += 1
                if not unique or not smiles or seen.add(protonation_hash(smiles)):
                    counts.written += 1
                    yield text
        if read != shard["progress"]["written"]:
            raise UserError(f"{path} changes while it is read")
