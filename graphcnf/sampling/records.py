"""Blocks of records drawn and written as text: the part of sampling that runs in every process."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from rdkit import Chem

from graphcnf.molecules.selection import DECIMALS, Selection, described
from graphcnf.molecules.standardize import protonation_hash
from graphcnf.sampling.draw import block_log_likelihoods, draw_block
from graphcnf.sampling.formats import WRITERS, header

if TYPE_CHECKING:
    import pandas as pd

    from graphcnf.graphs import GraphCNF, PackedGraphs
    from graphcnf.molecules.growth import Found


@dataclass(frozen=True)
class Recipe:
    """Everything apart from the model and the number of a record that determines its text.

    Attributes:
        seed: Seed of the sample.
        temperature: Temperature of sampling.
        sizes: Lowest and highest number of atoms, or None.
        kind: "smi", "csv", "sdf" or "jsonl".
        columns: Names of the columns, in order.
        everything: True to write invalid graphs and repeats, too.
        properties: Columns that are properties of a valid molecule.
        requirements: Comparisons that a molecule has to meet (`Selection`).
        patterns: SMARTS that it has to contain.
        targets: Properties asked of every molecule, as `GraphCNF.sample_records` takes them.
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

    @property
    def selective(self) -> bool:
        """True where valid molecules are selected further."""
        return bool(self.requirements or self.patterns)


class Record(NamedTuple):
    """A drawn record.

    Attributes:
        number: Its number in the sample.
        strict: True for a valid molecule as it is, in one piece.
        accepted: True where it also meets the requirements and contains the patterns.
        hash: Hash of its SMILES where repeats are not wanted, else None.
        text: Its text, empty for a graph that is not wanted.
        reached: Each property that was asked for, as (value asked, value of a valid molecule).
    """

    number: int
    strict: bool
    accepted: bool
    hash: int | None
    text: str
    reached: dict[str, tuple[float, float]]


def block_records(model: GraphCNF, recipe: Recipe, block: range) -> list[Record]:
    """Draw and write a whole block of records (`graphcnf.graphs.record_blocks`)."""
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
        frame["log_likelihood"] = molecule_log_likelihoods(
            model, graphs, block, frame, recipe.seed, recipe.targets
        )
    write, records = WRITERS[recipe.kind], []
    selection = _selection(recipe.requirements, recipe.patterns)
    asked = {
        table["name"]: value
        for table, value in zip(model.conditions, recipe.targets or (), strict=False)
        if value is not None
    }
    chemistry = bool(recipe.properties or recipe.selective or asked)
    for row in frame.to_dict("records"):
        mol = Chem.MolFromSmiles(row["smiles"]) if chemistry and row["strict"] else None
        accepted = row["strict"] and (mol is None or selection.accepts(mol))
        wanted = recipe.everything or accepted
        hash_ = None if recipe.everything or not wanted else protonation_hash(row["smiles"])
        if wanted:
            unknown = dict.fromkeys(recipe.properties)
            row |= unknown if mol is None else described(mol, recipe.properties)
        text = write({name: row[name] for name in recipe.columns}) if wanted else ""
        found = {} if mol is None or not wanted else described(mol, asked)
        reached = {k: (asked[k], v) for k, v in found.items() if math.isfinite(v)}
        records.append(Record(row["record"], row["strict"], accepted, hash_, text, reached))
    return records


@lru_cache(maxsize=1)
def _selection(requirements: tuple[str, ...], patterns: tuple[str, ...]) -> Selection:
    return Selection(requirements, patterns)


def molecule_log_likelihoods(
    model: GraphCNF,
    graphs: PackedGraphs,
    block: range,
    frame: pd.DataFrame,
    seed: int,
    targets: tuple[float | None, ...] | None = None,
) -> np.ndarray:
    """Return lower bounds on log p(molecule | number of atoms, targets), (M,) nats or None.

    A model without a node order gives all labellings of a molecule the same probability, and a
    molecule the sum of them. Graphs that are no molecules have no likelihood of that kind: nothing
    bounds the number of their symmetries, which would have to be counted one by one.
    """
    nats = block_log_likelihoods(model, graphs, block, seed=seed, targets=targets)
    known = frame["strict"].to_numpy() | (model.ordered)
    if not model.ordered:
        # It imports networkx, which would delay the first molecule of all others.
        from graphcnf.graphs.symmetry import labelling_bits

        nats[known] += labelling_bits(graphs.subset(known)) * math.log(2)
    shown = [
        round(float(value), 4) if there and math.isfinite(value) else None
        for value, there in zip(nats, known, strict=True)
    ]
    return np.array(shown, dtype=object)


def found_texts(
    molecules: Generator[Found],
    recipe: Recipe,
    number: int,
    more: Mapping[str, Callable[[Chem.Mol], float]] | None = None,
) -> Iterator[str]:
    """Yield the header and then the text of each of the first molecules as they are found.

    Args:
        molecules: Molecules, closed at the end.
        recipe: Format, columns and properties.
        number: Molecules to take.
        more: Functions of further columns, by name.
    """
    yield header(recipe.kind, recipe.columns)
    write = WRITERS[recipe.kind]
    with closing(molecules):
        for record, one in enumerate(islice(molecules, number)):
            mol = Chem.MolFromSmiles(one.smiles)
            row = {"record": record, "smiles": one.smiles}
            row |= {name: round(value(mol), DECIMALS) for name, value in (more or {}).items()}
            row |= described(mol, recipe.properties)
            yield write({name: row[name] for name in recipe.columns})
