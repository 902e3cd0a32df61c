"""Drawing of a block of records, filtering, and conversion to text, in every worker process.

A record is a function of model, seed and number. `graphcnf.graphs.record_blocks` defines blocks.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from rdkit import Chem

from graphcnf.compute.parallel import Cluster, Workers, available_cores
from graphcnf.graphs import GraphCNF, PackedGraphs
from graphcnf.graphs.record_blocks import BLOCK, RecordNoise, blocks, one_thread
from graphcnf.molecules.filters import NO_FILTERS, Filters
from graphcnf.molecules.properties import properties_of
from graphcnf.molecules.records import draw_block
from graphcnf.molecules.standardize import protonation_hash
from graphcnf.molecules.stereo_flow import stereo_of
from graphcnf.sampling.formats import WRITERS

WORTHWHILE = 1000
"""Records that are worth another process, which takes as long to start as 500 records to draw."""


@dataclass(frozen=True)
class Recipe:
    """Options that, with the model and the number of a record, determine its text."""

    seed: int
    temperature: float
    sizes: tuple[int, int] | None  # lowest and highest number of atoms
    kind: str  # "smi", "csv", "sdf" or "jsonl"
    columns: tuple[str, ...]
    everything: bool  # True to write invalid graphs and repeats as well
    properties: tuple[str, ...] = ()  # properties of molecules, also among the columns
    targets: tuple[float | None, ...] | None = None  # conditions of `GraphCNF.sample_records`
    best_of: int = 1  # candidates per record; the one nearest to the targets is kept
    filters: Filters = NO_FILTERS
    stereo: str = ""  # digest of the model that draws stereo marks, "" to draw none

    def to_dict(self) -> dict[str, Any]:
        """Return the recipe as JSON values; equal values determine equal records."""
        return json.loads(json.dumps({**vars(self), "filters": self.filters.identity}))


class Record(NamedTuple):
    """A drawn record."""

    number: int
    strict: bool  # True for a connected valid molecule
    refusal: str  # `Filters.refusal` of a valid molecule, else ""
    hash: int | None  # `protonation_hash`; None if repeats are written
    text: str  # "" for a graph that is not written
    reached: dict[str, tuple[float, float]]  # target and value of each conditioned property


def block_records(model: GraphCNF, recipe: Recipe, block: range) -> list[Record]:
    """Draw a block of records, and convert each to its text."""
    graphs, frame = draw_block(
        model,
        block,
        seed=recipe.seed,
        temperature=recipe.temperature,
        sizes=recipe.sizes,
        targets=recipe.targets,
        best_of=recipe.best_of,
        conventions=(),
        stereo=stereo_of(model) if recipe.stereo else None,
    )
    if "log_likelihood" in recipe.columns:
        frame["log_likelihood"] = molecule_log_likelihoods(
            model, graphs, block, frame, recipe.seed, recipe.targets
        )
    write, records = WRITERS[recipe.kind], []
    names = [table["name"] for table in model.conditions]
    asked = {k: v for k, v in zip(names, recipe.targets or (), strict=False) if v is not None}
    chemistry = bool(recipe.properties or recipe.filters or asked)
    for row in frame.to_dict("records"):
        mol = Chem.MolFromSmiles(row["smiles"]) if chemistry and row["strict"] else None
        refusal = "" if mol is None else recipe.filters.refusal(mol)
        hash_, text, reached = None, "", {}
        if recipe.everything or (row["strict"] and not refusal):
            hash_ = None if recipe.everything else protonation_hash(row["smiles"])
            unknown = dict.fromkeys(recipe.properties)
            row |= unknown if mol is None else properties_of(mol, recipe.properties)
            row["smiles"] = row["isomer"]
            text = write({name: row[name] for name in recipe.columns})
            found = {} if mol is None else properties_of(mol, asked)
            reached = {k: (asked[k], v) for k, v in found.items() if math.isfinite(v)}
        records.append(Record(row["record"], row["strict"], refusal, hash_, text, reached))
    return records


def molecule_log_likelihoods(
    model: GraphCNF,
    graphs: PackedGraphs,
    block: range,
    frame: pd.DataFrame,
    seed: int,
    targets: Sequence[float | None] | None = None,
) -> np.ndarray:
    """Return lower bounds on log p(molecule | number of atoms, targets) of a block, (M,) nats.

    Each bound is one draw, with noise that is a function of the seed and the record's number; the
    graph keeps the numbering in which it was drawn.

    Under a model without a node order, all labellings of a molecule are equally probable, and the
    molecule has their sum. Such a model gives None for graphs that are no valid molecules, since
    counting the symmetries of an arbitrary graph may take forever.
    """

    def noise(chosen: np.ndarray) -> RecordNoise:
        return RecordNoise(seed, [block[k] for k in chosen])

    with one_thread(model.device):
        nats = model.log_probs(graphs, noise, conditions=targets)
    known = frame["strict"].to_numpy() | model.ordered
    if not model.ordered:
        # Imports networkx, which would delay the first molecule of ordered models.
        from graphcnf.graphs.isomorphism import labelling_bits

        nats[known] += labelling_bits(graphs.subset(known)) * math.log(2)
    shown = [
        round(float(value), 4) if there and math.isfinite(value) else None
        for value, there in zip(nats, known, strict=True)
    ]
    return np.array(shown, dtype=object)


def first_blocks(number: int, together: int = 1) -> Iterator[range]:
    """Yield the blocks of the first `number` records; the last block may be shorter."""
    needed = takewhile(lambda block: block.start < number, blocks(0, together))
    return (range(block.start, min(block.stop, number)) for block in needed)


def sampling_processes(model: GraphCNF, records: float, workers: Workers = None) -> int | Cluster:
    """Return the number of processes to draw about `records` records with, or the given cluster.

    One process for a model on a GPU, and never more processes than blocks.
    """
    if workers is not None and not isinstance(workers, int):
        return workers
    if model.device.type != "cpu":
        return 1
    if workers is None:
        return max(1, min(available_cores(), round(records / WORTHWHILE)))
    return max(1, min(workers, math.ceil(records / BLOCK)))
