"""Shards: parts of a sample, drawn independently and merged into one file.

The shard `part-3.smi` is described by `part-3.smi.shard.json` beside it: number and count of the
shards; first record and end of the sample and of the shard; model, recipe and environment; counts
of the shard; length and checksum of its file. The description is written before the file gets its
name, so every complete shard has one.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from graphcnf.compute.cpu import environment
from graphcnf.errors import UserError
from graphcnf.files import inside, open_input, read_json, replace_file
from graphcnf.graphs.graph_model import GraphModel
from graphcnf.graphs.record_blocks import block_count, share_of
from graphcnf.molecules.hashing import HashSet
from graphcnf.molecules.standardize import protonation_hash
from graphcnf.pretrained import model_digest
from graphcnf.sampling.sample import Recipe, Sample, SampleCounts
from graphcnf.sampling.writers import WRITERS, entries, header, open_lines

FORMAT = 2
"""Version of the description's layout."""

Shard = dict[str, Any]
"""Description of a shard; `progress`, `bytes` and `sha256` are added once the shard is drawn."""

ShardFile = tuple[Path, Shard]
"""File of a shard and its description."""


def _shard_records(sample: range, number: int, parts: int) -> range:
    """Return the records of a shard, which are whole blocks; raise ValueError for a bad number."""
    if not 1 <= number <= parts:
        raise ValueError
    blocks = block_count(sample)
    if parts > blocks:
        raise UserError(
            f"{parts:,} shards: {len(sample):,} graphs are drawn in {blocks:,} "
            f"block{'s' if blocks > 1 else ''}, and a shard is at least one block"
        )
    return share_of(sample, number, parts)


def shards_of(
    model: GraphModel, recipe: Recipe, sample: range, out: Path, number: int, parts: int
) -> list[ShardFile]:
    """Return file and description of shard `number`, or of all shards for the number 0.

    The files of all shards are numbered: m.smi.gz becomes m-1.smi.gz, m-2.smi.gz ...

    Raises:
        UserError: There are fewer blocks than shards.
    """
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
        records = _shard_records(sample, k, parts)
        name = out.name if number else f"{stem}-{k:0{len(str(parts))}}{dot}{suffixes}"
        part = {"part": [k, parts], "records": [records.start, records.stop]}
        found.append((out.with_name(name), {**common, **part}))
    return found


def write_description(out: Path, shard: Shard, sample: Sample, file: Path) -> None:
    """Write the description of a drawn shard.

    `out` is the final name of its file, `file` the temporary one.
    """
    content = {**shard, "progress": vars(sample.counts), **_seal(file)}
    replace_file(_described(out), (json.dumps(content, indent=1) + "\n").encode())


def is_complete(out: Path, shard: Shard) -> bool:
    """Return True if the file exists and is this shard, drawn on any machine."""
    try:
        found = read_json(inside(out.parent, _described(out).name))
        return {**found, "environment": shard["environment"]} == {**found, **shard, **_seal(out)}
    except (OSError, ValueError, TypeError):
        return False


def _described(out: Path) -> Path:
    """Return the path of the description of a shard's file."""
    return out.with_name(f"{out.name}.shard.json")


def _seal(file: Path) -> dict[str, Any]:
    """Return length and checksum of a file."""
    with open_input(file) as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()  # type: ignore[arg-type]
    return {"bytes": file.stat().st_size, "sha256": digest}


def _read_shard(path: Path) -> tuple[Shard | None, str]:
    """Return the description of a shard, and what is wrong with the shard.

    The description is None if it is unusable; the problem is "" if there is none.
    """
    name = _described(path).name
    try:
        shard = read_json(inside(path.parent, name))
        if shard["format"] != FORMAT:
            return None, f"{name} is of another version of graphcnf"
        _check(shard)
        expected, there = shard["bytes"], path.stat().st_size
        if there < expected:
            return shard, f"truncated: {there:,} of {expected:,} bytes"
        damaged = {**shard, **_seal(path)} != shard
        return shard, "damaged: it is not what was written" if damaged else ""
    except FileNotFoundError:
        reason = f"no shard of generate --shard: without {name}"
        return None, reason if path.exists() else "there is no such file"
    except OSError as error:
        return None, error.strerror or str(error)
    except (
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        ArithmeticError,
        RecursionError,
        UserError,
    ):
        return None, f"{name} is damaged"


def _check(shard: Shard) -> None:
    """Raise an error that `_read_shard` catches, if a description is inconsistent."""
    recipe, sample = shard["recipe"], range(*shard["sample"])
    counts = totals([(Path(), shard)])
    counts.figures(True, recipe["filters"])
    records = _shard_records(sample, *shard["part"])
    texts = [shard["model"], *recipe["columns"]]
    if (
        sample.start < 0
        or shard["records"] != [records.start, records.stop]
        or set(recipe) != {field.name for field in fields(Recipe)}
        or not all(isinstance(text, str) for text in texts)
        or recipe["kind"] not in WRITERS
        or "smiles" not in recipe["columns"]
        or sum(counts.outcomes.values()) != counts.valid
        or not isinstance(counts.written + shard["bytes"], int)
        or not isinstance(shard["sha256"], str)
    ):
        raise ValueError


def survey(paths: Iterable[Path]) -> tuple[list[ShardFile], list[str], list[str]]:
    """Check files that should be the shards of one sample.

    If they belong to several samples, the most frequent one counts.

    Returns:
        The intact shards of the sample, in the order of their records; a line for each file that is
        left out and for each missing shard; notes for the user.
    """
    files: list[ShardFile] = []
    bad, problems = [], []
    for path in paths:
        shard, problem = _read_shard(path)
        if shard and problem:
            bad.append(shard)
            problem = "shard {}/{}, ".format(*shard["part"]) + problem
        if problem:
            problems.append(f"{path}: {problem}")
        elif shard:
            files.append((path, shard))
    if not files:
        return [], problems, []
    samples = [json.dumps(_sample_of(shard), sort_keys=True) for _, shard in files]
    usual = files[samples.index(Counter(samples).most_common(1)[0][0])][1]
    expected = _sample_of(usual)
    chosen: dict[int, ShardFile] = {}
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
    damaged = {shard["part"][0] for shard in bad if _sample_of(shard) == expected}
    count, part = usual["part"][1], partial(_shard_records, range(*usual["sample"]))
    for before, after in pairwise(sorted({0, *chosen, *damaged, count + 1})):
        first, last = before + 1, after - 1
        if first <= last:
            one = first == last
            shown = f"shard {first}/{count}" if one else f"shards {first} to {last} of {count}"
            low, high = part(first, count).start, part(last, count).stop - 1
            problems.append(f"missing: {shown}, graphs {low} to {high}")
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
    """Return the summed counts of all shards; `reached` counts repeats across shards, too."""
    counts = SampleCounts()
    for _, shard in shards:
        counts.add_counts(SampleCounts(**shard["progress"]))
    return counts


def merged(shards: Sequence[ShardFile], counts: SampleCounts, *, unique: bool) -> Iterator[str]:
    """Yield the text of the merged file record by record, and count the records in `counts`.

    With `unique`, repeats of a molecule are left out; graphs without SMILES stay.

    Raises:
        UserError: A shard changes while it is read.
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
