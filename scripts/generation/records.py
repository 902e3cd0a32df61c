"""Blocks of drawn records as lines of a file: the part of `generate` that runs in every process."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from rdkit import Chem
from rdkit.Chem import rdDepictor

from graphcnf.evaluation.draw import block_log_likelihoods, draw_block
from graphcnf.evaluation.formats import csv_cell
from graphcnf.molecules.codec import quiet
from graphcnf.molecules.selection import Selection, described
from graphcnf.molecules.standardize import protonation_hash

if TYPE_CHECKING:
    import pandas as pd

    from graphcnf.graphs import GraphCNF, PackedGraphs


@dataclass(frozen=True)
class Recipe:
    """What a record becomes, apart from the model.

    Attributes:
        seed: Seed of the sample.
        temperature: Of sampling.
        sizes: Lowest and highest number of atoms, or None.
        kind: "smi", "csv", "sdf" or "jsonl".
        columns: Names of what is written of a record, in order.
        everything: Whether invalid graphs and repeats are wanted, too.
        properties: Those of the columns that are properties of a valid molecule.
        requirements: What a molecule has to meet (`Selection`).
        patterns: SMARTS that it has to contain.
        targets: What is asked of every molecule, as `GraphCNF.sample_records` takes it.
        best_of: Candidates for each record, of which the nearest to the targets is kept.
    """

    seed: int
    temperature: float
    sizes: tuple[int, int] | None
    kind: str
    columns: tuple[str, ...]
    everything: bool
    properties: tuple[str, ...] = ()
    requirements: tuple[str, ...] = ()
    patterns: tuple[str, ...] = ()
    targets: tuple[float | None, ...] | None = None
    best_of: int = 1


class Record(NamedTuple):
    """A drawn record.

    Attributes:
        number: Its number in the sample.
        strict: Whether it is a valid molecule as it is, in one piece.
        accepted: Whether it also is what is required.
        mark: Hash of its SMILES where repeats are not wanted, else None.
        text: What to write, empty for a graph that is not wanted.
        reached: Each property that was asked for, as (value asked, value of a valid molecule).
    """

    number: int
    strict: bool
    accepted: bool
    mark: int | None
    text: str
    reached: dict[str, tuple[float, float]]


def block_records(model: GraphCNF, recipe: Recipe, block: range) -> list[Record]:
    """Draw and score a whole block of records (`graphcnf.graphs.record_blocks`)."""
    graphs, frame = draw_block(
        model,
        block,
        seed=recipe.seed,
        temperature=recipe.temperature,
        sizes=recipe.sizes,
        targets=recipe.targets,
        best_of=recipe.best_of,
        conventions=(),
    )
    if "log_likelihood" in recipe.columns:
        frame["log_likelihood"] = _log_likelihoods(
            model, graphs, block, frame, recipe.seed, recipe.targets
        )
    write, records = WRITERS[recipe.kind], []
    selection = _selection(recipe.requirements, recipe.patterns)
    asked = {
        table["name"]: value
        for table, value in zip(model.conditions, recipe.targets or (), strict=False)
        if value is not None
    }
    chemistry = bool(recipe.properties or recipe.requirements or recipe.patterns or asked)
    for row in frame.to_dict("records"):
        mol = Chem.MolFromSmiles(row["smiles"]) if chemistry and row["strict"] else None
        accepted = row["strict"] and (mol is None or selection.accepts(mol))
        wanted = recipe.everything or accepted
        mark = None if recipe.everything or not wanted else protonation_hash(row["smiles"])
        if wanted:
            unknown = dict.fromkeys(recipe.properties)
            row |= unknown if mol is None else described(mol, recipe.properties)
        text = write({name: row[name] for name in recipe.columns}) if wanted else ""
        found = {} if mol is None or not wanted else described(mol, asked)
        reached = {k: (asked[k], v) for k, v in found.items() if math.isfinite(v)}
        records.append(Record(row["record"], row["strict"], accepted, mark, text, reached))
    return records


@lru_cache(maxsize=1)
def _selection(requirements: tuple[str, ...], patterns: tuple[str, ...]) -> Selection:
    return Selection(requirements, patterns)


def _log_likelihoods(
    model: GraphCNF, graphs: PackedGraphs, block: range, frame: pd.DataFrame, seed: int,
    targets: tuple[float | None, ...] | None = None,
) -> np.ndarray:  # fmt: skip
    """Of each molecule, in nats, given its number of atoms and what was asked for, or None.

    A model without a node order gives all labellings of a molecule the same probability, and a
    molecule the sum of them. Graphs that are no molecules have no likelihood of that kind: nothing
    bounds the number of their symmetries, which would have to be counted one by one.
    """
    nats = block_log_likelihoods(model, graphs, block, seed=seed, targets=targets)
    known = frame["strict"].to_numpy() | model.ordered
    if not model.ordered:
        # It imports networkx, which would delay the first molecule of all others.
        from graphcnf.graphs.symmetry import labelling_bits

        nats[known] += labelling_bits(graphs.subset(known)) * math.log(2)
    shown = [
        round(float(value), 4) if there and math.isfinite(value) else None
        for value, there in zip(nats, known, strict=True)
    ]
    return np.array(shown, dtype=object)


def _smi(row: dict[str, Any]) -> str:
    return "\t".join("" if value is None else str(value) for value in row.values()) + "\n"


def _csv(row: dict[str, Any]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerow(map(csv_cell, row.values()))
    return buffer.getvalue()


def _jsonl(row: dict[str, Any]) -> str:
    return json.dumps(row) + "\n"


def _sdf(row: dict[str, Any]) -> str:
    """A record with 2D coordinates; what does not sanitize is drawn as it is."""
    valid = row.get("strict", True)
    with quiet():
        mol = Chem.MolFromSmiles(row["smiles"] or "", sanitize=valid)
        if valid:
            # Flat coordinates would otherwise say cis or trans.
            for place in Chem.FindPotentialStereo(mol):
                if place.type == Chem.StereoType.Bond_Double:
                    bond = mol.GetBondWithIdx(place.centeredOn)
                    bond.SetStereo(Chem.BondStereo.STEREOANY)
        else:
            mol.UpdatePropertyCache(strict=False)
            Chem.FastFindRings(mol)
        # CoordGen, which somebody may have switched on, does not always end at the same place.
        with rdDepictor.UsingCoordGen(False):
            rdDepictor.Compute2DCoords(mol)
        mol.SetProp("_Name", str(row["record"]))
        for name, value in row.items():
            mol.SetProp(name, "" if value is None else str(value))
        return Chem.SDWriter.GetText(mol, kekulize=valid)


WRITERS: dict[str, Callable[[dict[str, Any]], str]] = {
    "smi": _smi, "csv": _csv, "jsonl": _jsonl, "sdf": _sdf,
}  # fmt: skip


def header(recipe: Recipe) -> str:
    """What a file begins with."""
    if recipe.kind == "smi" and len(recipe.columns) > 1:
        return "# " + "\t".join(recipe.columns) + "\n"
    return ",".join(recipe.columns) + "\n" if recipe.kind == "csv" else ""


class Entry(NamedTuple):
    """A record of a file.

    Attributes:
        text: What is written of it.
        smiles: Its SMILES, empty where it has none.
    """

    text: str
    smiles: str


def entries(lines: Iterable[str], recipe: Recipe) -> Iterator[Entry]:
    """The records of a file that `header` and the writers have made, one after the other.

    Args:
        lines: Of the file, with their ends.
        recipe: What it was made by.
    """
    lines = iter(lines)
    if header(recipe):
        next(lines, None)
    place = recipe.columns.index("smiles")
    if recipe.kind == "sdf":
        yield from _sdf_entries(lines)
        return
    for line in lines:
        if recipe.kind == "jsonl":
            smiles = json.loads(line)["smiles"] or ""
        elif recipe.kind == "csv":
            smiles = next(csv.reader([line]))[place]
        else:
            smiles = line.rstrip("\n").split("\t")[place]
        yield Entry(line, smiles)


def _sdf_entries(lines: Iterator[str]) -> Iterator[Entry]:
    parts: list[str] = []
    for line in lines:
        parts.append(line)
        if line.rstrip() == "$$$$":
            named = (k for k, part in enumerate(parts) if re.match(r">.*<smiles>", part))
            yield Entry("".join(parts), parts[next(named) + 1].rstrip("\n"))
            parts = []
