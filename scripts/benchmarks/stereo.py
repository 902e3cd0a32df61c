"""Benchmarks of stereo marks: bits of held-out ones, and isomers that can exist in space.

- *Stereo element*: an atom or double bond that can have a mark (`@` or `/` in SMILES).
- *Bits* of a mark: -log2 of its probability given the graph and the marks before it.
- *Polycycle*: here a molecule with at least two marked atoms that are in several rings each. Of its
  *isomers* with other marks, many cannot exist in three dimensions; a good model draws only those
  that can be *embedded* (given coordinates).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, count, islice, product
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
from rdkit import Chem
from rdkit.Chem import rdDistGeom, rdForceFieldHelpers

from graphcnf.chunks import chunked
from graphcnf.compute.parallel import parallel_map
from graphcnf.datasets.stereo import StereoDataset, load_stereo
from graphcnf.datasets.zinc250k import load_zinc250k, zinc250k_table
from graphcnf.evaluation.layout import Column, number, percent, text
from graphcnf.messages import say
from graphcnf.molecule_flow import MoleculeFlow
from graphcnf.molecules.codec import parse, quiet
from graphcnf.pretrained import load_model, model_folder
from graphcnf.scripts._files import Role
from graphcnf.scripts._options import load_model as load_graph_model
from graphcnf.scripts._options import option
from graphcnf.scripts.benchmarks.runner import Folder, Minutes, Model, Out, Seed, write
from graphcnf.scripts.benchmarks.smiles_lstm import SmilesLSTM, bits_per_molecule, train
from graphcnf.stereo.marks import FORCED, Configuration, Constitution, split_stereo
from graphcnf.stereo.stereo_flow import CATEGORIES, KINDS, StereoContext, StereoFlow, StereoGraphs

LSTM_HELD_OUT = 2000  # held-out molecules with elements whose bits an LSTM is asked for
BACK_OFF = 8.0  # observations that the shorter context of a table counts for
CONFORMERS, MOST_ISOMERS = 3, 8  # conformers of an isomer, isomers of a molecule
ATTEMPTS, EMBEDDING_SEED = 20, 7  # for a conformer; an impossible isomer costs all of them
STRAINED = 10.0  # kcal/mol over the best isomer
BLOCK = 2000  # molecules that are drawn at once

StereoWeights = Annotated[
    str, option("Weights of stereo.", "--marks", metavar="NAME|DIR"), Role.MODEL
]

BITS_COLUMNS: list[Column] = [
    ("Bits per element", text("method")),
    ("All", number("all", 3)),
    *[(kind.capitalize(), number(kind, 3)) for kind in KINDS],
]
ISOMERS_COLUMNS: list[Column] = [
    ("Marks", text("marks")),
    ("Molecules", number("molecules", 0)),
    ("Embedded", percent("embedded")),
    ("Some isomer embedded", percent("possible")),
    (f"Over {STRAINED:g} kcal/mol", percent("strained")),
]


def stereo_bits(
    marks: StereoWeights = "zinc250k-stereo",
    lstm: Annotated[bool, option("Also two LSTMs of SMILES, with and without marks.")] = False,
    minutes: Minutes = 30.0,
    folder: Folder = Path("runs/stereo-lstm"),
    seed: Seed = 0,
    out: Out = None,
) -> None:
    """Compare models of stereo marks by the bits that a held-out mark costs on average.

    The table has a row for the model, one for each table of counts, and one for LSTMs of SMILES
    with --lstm: the bits of SMILES with marks, minus those of SMILES without.
    """
    flow, dataset = load_model(StereoFlow, model_folder(marks, shipped=True)), load_stereo()
    rows: list[dict[str, Any]] = []
    for name, bits in (*table_bits(dataset).items(), ("the model", model_bits(flow, dataset))):
        kinds = dataset.graphs[torch.from_numpy(dataset.split("test"))].kinds.numpy()
        each = {kind: bits[kinds == k].mean() for k, kind in enumerate(KINDS)}
        rows.append({"method": name, "all": bits.mean(), **each})
    if lstm:
        rows.append({"method": "SMILES LSTM", "all": lstm_bits(folder, minutes, seed)})
    notes = [
        f"All {len(dataset.split('test')):,} held-out molecules with elements. Tables back off: "
        "kind, relation to an earlier centre of the same two rings, atoms around the element.",
        "Pairs of marked centres whose relation geometry forces, in training and held-out "
        "molecules: {:,}, of which {:,} have it.".format(*forced_pairs(dataset.graphs)),
    ]
    if lstm:
        notes.append(
            f"SMILES LSTM: difference of the bits of {LSTM_HELD_OUT:,} of them with and without "
            f"marks, of two networks with {minutes:g} CPU minutes each, seed {seed}."
        )
    write(out, rows, BITS_COLUMNS, notes)


def forced_pairs(graphs: StereoGraphs) -> tuple[int, int]:
    """Count pairs of stereo centres of which geometry allows one relative configuration only.

    Args:
        graphs: The molecules with their configurations.

    Returns:
        (pairs, right): number of such pairs, as at a bridgehead, in which both centres have a mark;
        and how many of these have the configuration that can exist.
    """
    own, other, relation = (
        graphs.categories.numpy(),
        _partner_categories(graphs),
        graphs.relations.numpy(),
    )
    pairs = (relation // 2 == FORCED) & (own > 0) & (other > 0)
    return int(pairs.sum()), int((pairs & ((own == other) == (relation % 2 == 1))).sum())


def _partner_categories(graphs: StereoGraphs) -> np.ndarray:
    """Return the mark of the centre to which each stereo element is related in a ring system."""
    counts, partner = graphs.counts.numpy(), graphs.partners.numpy().astype(int)
    first = np.repeat(np.cumsum(counts) - counts, counts)
    return np.where(partner > 0, graphs.categories.numpy()[(first + partner - 1).clip(min=0)], 0)


def model_bits(flow: StereoFlow, dataset: StereoDataset) -> np.ndarray:
    """Return the bits of the mark of each held-out stereo element: -log2 of its probability.

    Args:
        flow: The model that gives the probabilities.
        dataset: Molecules, whose held-out part has S stereo elements.

    Returns:
        (S,), the elements of a molecule one after the other, each given those before it.
    """
    found = []
    for rows in np.array_split(dataset.split("test"), 100):
        graphs = dataset.graphs[torch.from_numpy(rows)]
        with torch.no_grad():
            x = graphs.padded(graphs.categories)[..., None]
            nats = flow.flow.network.log_probs(x, StereoContext.of(graphs))
        found.append(nats[graphs.mask][:, 0].double().numpy())
    return -np.concatenate(found) / math.log(2)


def table_bits(dataset: StereoDataset) -> dict[str, np.ndarray]:
    """Return the bits of the marks of held-out stereo elements by tables of counts.

    Each table counts marks in contexts; its probabilities are smoothed by those of the table before
    it, which has shorter contexts.

    Args:
        dataset: Molecules, whose held-out part has S stereo elements.

    Returns:
        `{name of a table: bits (S,)}`, from short to long contexts.
    """
    graphs = dataset.graphs
    held_out = np.isin(np.arange(len(graphs)), dataset.split("test"))
    test = np.repeat(held_out, graphs.counts.numpy())
    categories = graphs.categories.numpy().astype(int)
    p = np.full((test.sum(), CATEGORIES), 1 / CATEGORIES)
    found = {}
    for name, context in _contexts(graphs).items():
        counts = np.zeros((context.max() + 1, CATEGORIES))
        np.add.at(counts, (context[~test], categories[~test]), 1)
        known = counts[context[test]]
        p = (known + BACK_OFF * p) / (known.sum(1) + BACK_OFF)[:, None]
        found[name] = -np.log2(p[np.arange(len(p)), categories[test]])
    return found


def _contexts(graphs: StereoGraphs) -> dict[str, np.ndarray]:
    """Return the contexts of stereo elements in which `table_bits` counts marks."""

    def numbered(*columns: np.ndarray) -> np.ndarray:
        rows = np.column_stack(columns)
        return np.unique(rows, axis=0, return_inverse=True)[1].ravel()

    sizes, counts = graphs.sizes.numpy(), graphs.counts.numpy()
    first = np.cumsum(sizes) - sizes
    near, ends = graphs.neighbours.numpy().astype(int), graphs.elements.numpy().astype(int)
    near = np.where(near > 0, near + np.repeat(first, sizes)[:, None], 0)
    ends = np.where(ends > 0, ends + np.repeat(first, counts)[:, None], 0)
    atoms, kinds = np.append(0, graphs.atoms.numpy().astype(int) + 1), graphs.kinds.numpy()
    bonds = graphs.bonds.numpy().astype(int)
    relation = numbered(graphs.relations.numpy(), _partner_categories(graphs))
    found = {"frequencies": kinds, "relation": numbered(kinds, relation)}
    for reach in ("one bond", "two bonds"):
        around = np.sort(atoms[near] * (bonds.max() + 1) + bonds, axis=1)
        atoms = np.append(0, numbered(atoms[1:], around) + 1)
        ends_of = np.sort(atoms[ends], axis=1)
        found[f"relation, atoms within {reach}"] = numbered(relation, ends_of)
    return found


def lstm_bits(folder: Path, minutes: float, seed: int) -> float:
    """Return how many bits a stereo mark costs in SMILES, as a mean over stereo elements.

    Two LSTMs are trained on ZINC250k: one on isomeric SMILES, one on the same without stereo marks.
    What the marks cost is the difference of their bits for held-out molecules.

    Args:
        folder: Folder of both models; a finished training in it is not repeated.
        minutes: CPU time of each of the two trainings.
        seed: Seed of both trainings.
    """
    dataset = load_zinc250k()
    skipped = {record.line for record in dataset.skipped}
    lines = [s for k, s in enumerate(zinc250k_table().smiles(), 1) if k not in skipped]
    isomeric = sum(parallel_map(_isomeric, chunked(lines, 1000), label="SMILES"), [])
    chosen = []
    for k in np.random.default_rng(0).permutation(dataset.split("test")):
        constitution, _ = split_stereo(parse(isomeric[k]))
        if constitution.elements:
            chosen.append((k, len(constitution.elements)))
        if len(chosen) == LSTM_HELD_OUT:
            break
    bits = {}
    for name, smiles in (("isomeric", isomeric), ("plain", dataset.smiles)):
        place = folder / f"{name}-{minutes:g}-seed-{seed}"
        if not (place / "config.json").is_file():
            own = dataclasses.replace(dataset, smiles=smiles)
            train(own, place, minutes=minutes, seed=seed, source=name)
        model = SmilesLSTM.from_pretrained(place)
        bits[name] = bits_per_molecule(model, [smiles[k] for k, _ in chosen])
        say(f"LSTM, {name} SMILES: {bits[name]:.2f} bits per molecule")
    return (bits["isomeric"] - bits["plain"]) * len(chosen) / sum(n for _, n in chosen)


def _isomeric(lines: Sequence[str]) -> list[str]:
    with quiet():
        return [Chem.MolToSmiles(parse(line)) for line in lines]


def isomers(
    model: Model = "zinc250k",
    marks: StereoWeights = "zinc250k-stereo",
    molecules: Annotated[int, option("Polycycles in each row.", "-n", min=1)] = 200,
    seed: Seed = 0,
    out: Out = None,
) -> None:
    """Count molecules with several rings whose stereo marks can, or cannot, exist in space.

    They have at least two marked atoms that are in several rings each. The table has a row for the
    marks that the model draws, one for random marks on the same molecules, and one for molecules of
    ZINC250k. It says how many can be embedded in three dimensions, and how many are strained.
    """
    density = load_model(StereoFlow, model_folder(marks, shipped=True))
    flow = MoleculeFlow(load_graph_model(model), density)
    random = np.random.default_rng(seed)
    sampled = (flow.sample(BLOCK, seed=k, stereo=True).smiles for k in count(seed))
    drawn = list(islice(polycycles(filter(None, chain.from_iterable(sampled))), molecules))
    data = random.permutation(zinc250k_table().smiles()).tolist()
    sets = {
        "drawn": drawn,
        "random, same graphs": [_remarked(smiles, random) for smiles in drawn],
        "ZINC250k": list(islice(polycycles(data), molecules)),
    }
    rows = []
    for name, smiles in sets.items():
        shapes = sum(parallel_map(_shapes, chunked(smiles, 10), label=name), [])
        known = [shape for shape in shapes if shape.strain is not None]
        rows.append(
            {
                "marks": name,
                "molecules": len(smiles),
                "embedded": np.mean([shape.embedded for shape in shapes]),
                "possible": np.mean([shape.possible for shape in shapes]),
                "strained": np.mean([(shape.strain or 0) > STRAINED for shape in known]),
            }
        )
    notes = [
        "Polycycles: two or more marked atoms in several rings. Embedded: by RDKit's ETKDG, at its "
        "defaults; some isomer: by it or another isomer at these atoms.",
        f"Over {STRAINED:g} kcal/mol: MMFF94 energy over that of the best isomer at these atoms "
        f"({MOST_ISOMERS} at most), {CONFORMERS} conformers each, of the molecules that embed and "
        "have parameters.",
        f"Seed {seed}.",
    ]
    write(out, rows, ISOMERS_COLUMNS, notes)


def polycycles(smiles: Iterable[str]) -> Iterator[str]:
    """Yield those molecules that are polycycles with marks.

    Here a polycycle has at least two marked atoms that are in several rings each.

    Args:
        smiles: Isomeric SMILES of molecules.

    Yields:
        Canonical isomeric SMILES.
    """
    for line in smiles:
        if line.count("@") > 1:
            with quiet():
                constitution, configuration = split_stereo(parse(line))
            if len(_in_rings(constitution, configuration)) > 1:
                yield Chem.MolToSmiles(constitution.with_marks(configuration))


def _in_rings(constitution: Constitution, configuration: Configuration) -> list[int]:
    """Return which stereo elements are marked atoms that lie in several rings."""
    rings = constitution.mol.GetRingInfo()
    return [
        k
        for k, (e, c) in enumerate(zip(constitution.elements, configuration, strict=True))
        if c and not e.is_double and rings.NumAtomRings(e.atoms[0]) > 1
    ]


def _remarked(smiles: str, random: np.random.Generator) -> str:
    """Give a molecule random marks where it has some."""
    one, configuration = split_stereo(parse(smiles))
    other = tuple(int(random.integers(1, 3)) if c else 0 for c in configuration)
    return Chem.MolToSmiles(one.with_marks(one.canonical(other)))


class Shape(NamedTuple):
    """Result of embedding a molecule and its isomers in three dimensions.

    Attributes:
        embedded: True if the molecule itself can be embedded.
        possible: True if the molecule or one of its isomers can.
        strain: Energy of the molecule above the lowest one among it and its isomers, kcal/mol; None
            if the molecule cannot be embedded or the force field lacks parameters for it.
    """

    embedded: bool
    possible: bool
    strain: float | None


def _shapes(smiles: Sequence[str]) -> list[Shape]:
    with quiet():
        return [_shape(line) for line in smiles]


def _shape(smiles: str) -> Shape:
    """Try to embed a molecule, and up to eight isomers with other marks at the same atoms."""
    one, marks = split_stereo(parse(smiles))
    places = _in_rings(one, marks)[1:]  # against the first one
    others = set()
    for parities in islice(product((1, 2), repeat=len(places)), MOST_ISOMERS):
        known = dict(zip(places, parities, strict=True))
        others.add(one.canonical(tuple(known.get(k, c) for k, c in enumerate(marks))))
    mol = Chem.AddHs(one.with_marks(marks))
    embedded = rdDistGeom.EmbedMolecule(mol, randomSeed=EMBEDDING_SEED) == 0
    own, *rest = [_lowest_energy(one.with_marks(c)) for c in (marks, *sorted(others - {marks}))]
    possible = [energy for energy in rest if energy is not None]
    strain = None
    if own is not None and math.isfinite(own):
        strain = own - min([own, *possible])
    return Shape(embedded, embedded or bool(possible), strain)


def _lowest_energy(mol: Chem.Mol) -> float | None:
    """Return the lowest MMFF94 energy of relaxed conformers of a molecule, kcal/mol."""
    mol = Chem.AddHs(mol)
    embedded = rdDistGeom.EmbedMultipleConfs(
        mol, CONFORMERS, randomSeed=EMBEDDING_SEED, maxAttempts=ATTEMPTS
    )
    if not len(embedded):
        return None
    if not rdForceFieldHelpers.MMFFHasAllMoleculeParams(mol):
        return math.inf
    found = rdForceFieldHelpers.MMFFOptimizeMoleculeConfs(mol, maxIters=500)
    return min(energy for _, energy in found)
