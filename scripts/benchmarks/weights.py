"""Benchmarks of trained weights: codes of a molecule, target properties, fragments of ten drugs.

- *Code*: a graph with its numbering of atoms. A molecule has several, of which the *canonical* one
  is in the training data.
- *Properties*: the protocol of FreeGress (Ninniri et al. 2024). *Target values* are those of 100
  held-out molecules, for one property at a time, and 10 molecules are drawn for each value.
- *Fragments*: the protocol of SAFE (Noutahi et al. 2023, arXiv 2310.10773) and GenMol (Lee et al.
  2025, arXiv 2501.06158). Its tasks: extend a motif, link two parts, build around a structure,
  decorate; scaffold morphing links the same parts. 100 attempts for each drug and task. Failures
  count: validity and quality are shares of the attempts. *Quality*: distinct, QED of at least 0.6,
  SA score of at most 4. *Distance* is to the drug that the fragments are of.
"""

from __future__ import annotations

import csv
import math
import time
from typing import Annotated, Any

import numpy as np
import typer
from rdkit import Chem

from graphcnf.chemistry.descriptors import qed, sa
from graphcnf.chemistry.properties import conditions_of, property_table
from graphcnf.chemistry.surrogate import draw_nearest
from graphcnf.datasets import references
from graphcnf.design.fragments import read_fragment
from graphcnf.design.growing import Growth, check_grows
from graphcnf.errors import UserError
from graphcnf.evaluation.evaluate import reconstruction
from graphcnf.evaluation.layout import Column, number, percent, text
from graphcnf.evaluation.metrics import fingerprints, internal_diversity, nearest_similarity
from graphcnf.evaluation.summary import mean_and_sd
from graphcnf.graphs.batch import PackedGraphs
from graphcnf.graphs.graph_model import GraphModel
from graphcnf.graphs.isomorphism import canonicalise
from graphcnf.graphs.records import sample_records
from graphcnf.messages import counted, say
from graphcnf.molecules import codec
from graphcnf.molecules.molecule_model import MoleculeModel
from graphcnf.molecules.vocabulary import vocabulary_of
from graphcnf.scripts._files import Role
from graphcnf.scripts._options import load_model, option, parse_seeds
from graphcnf.scripts.benchmarks.runner import (
    HERE,
    Model,
    Out,
    Reference,
    Samples,
    Seeds,
    published,
    write,
)

# Held-out molecules whose bits are computed, and numbers of numberings to sum over.
HELD_OUT, NUMBERINGS = 500, (1, 4, 16, 64)

CODES: list[Column] = [
    ("", text("what")),
    ("Share", percent("share")),
    ("Bits", number("bits", 2)),
]


def codes(
    model: Model = "zinc250k",
    samples: Samples = 2000,
    reconstruct: Annotated[int, option("Held-out molecules to encode and decode.", min=0)] = 0,
    reference: Reference = None,
    out: Out = None,
) -> None:
    """Count samples in the canonical numbering, and measure bits with several numberings.

    Prints shares of the valid samples; bits per held-out molecule, if the probabilities of one or
    several of its numberings are summed; and with --reconstruct, the share of molecules that come
    back from their latents.
    """
    loaded = load_model(model)
    dataset = references.load_reference(reference, loaded)
    chosen = references.held_out(dataset, HELD_OUT)
    if not len(chosen):
        raise UserError(f"{dataset.name} has no held-out molecules: name others with --reference")
    shares = code_shares(loaded, samples)
    rows: list[dict[str, Any]] = [{"what": f"code: {k}", "share": v} for k, v in shares.items()]
    graphs = dataset.take(chosen).graphs
    for k in NUMBERINGS:
        bits = -loaded.log_prob(graphs, orders=k).mean() / math.log(2)
        rows.append({"what": f"bits per molecule, numberings: {k}", "bits": float(bits)})
    if reconstruct:
        graphs = dataset.take(references.held_out(dataset, reconstruct)).graphs
        for double in (True, False):
            back = reconstruction(loaded, graphs, double=double)
            failed = round((1 - back) * len(graphs))
            what = f"come back in float{64 if double else 32}: all but {failed} of {len(graphs):,}"
            rows.append({"what": what, "share": back})
    notes = [
        f"codes: of the valid ones of {samples:,} samples.",
        f"bits: of {len(chosen):,} held-out molecules, size excluded.",
    ]
    write(out, rows, CODES, notes)


def code_shares(model: GraphModel, samples: int) -> dict[str, float]:
    """Return how many valid samples of a model are the canonical code of their molecule.

    That is the graph with the numbering of atoms that it would have in the training data. Codes
    that differ in numbering only are equal once both graphs are numbered canonically. All others
    differ in Kekulé structure or aromatic marks.

    Args:
        model: The model.
        samples: Number of samples, drawn with seed 0.

    Returns:
        Shares of the valid samples, in [0, 1]: "canonical", "other numbering", and "other Kekulé
        structure or marks".
    """
    vocabulary = vocabulary_of(model)
    graphs = sample_records(model, range(samples), seed=0)
    counts = dict.fromkeys(("canonical", "other numbering", "other Kekulé structure or marks"), 0)
    for k in range(len(graphs)):
        mol = codec.graph_to_molecule(*graphs.graph(k), vocabulary)
        try:
            with codec.quiet():
                mol = codec.parse(Chem.MolToSmiles(mol))
            pair = [graphs.graph(k), codec.molecule_to_graph(mol, vocabulary)]
        except (ValueError, RuntimeError):
            continue
        numbered = [canonicalise(PackedGraphs.from_lists([graph])).graph(0) for graph in pair]
        if all(map(np.array_equal, *pair)):
            counts["canonical"] += 1
        elif all(map(np.array_equal, *numbered)):
            counts["other numbering"] += 1
        else:
            counts["other Kekulé structure or marks"] += 1
    return {name: count / max(sum(counts.values()), 1) for name, count in counts.items()}


VALUES = 100  # held-out molecules that give values

PROPERTIES: list[Column] = [
    ("Method", text("method")),
    ("Condition", text("condition")),
    ("Mean absolute error", number("error", 3)),
    ("Of the data", number("spread", 3)),
    ("Strict", percent("strict")),
    ("Unique", percent("unique")),
]


def properties(
    model: Annotated[
        str,
        typer.Argument(metavar="NAME|DIR", help="A model that was trained with properties."),
        Role.MODEL,
    ],
    best_of: Annotated[int, option("Draws; the one with the smallest error is kept.", min=1)] = 1,
    conditions: Annotated[
        str | None,
        option("Properties.", metavar="NAME,...", show_default="all of the model"),
    ] = None,
    samples: Annotated[
        int, option("Samples for each property, as many for each value.", "--samples", "-n", min=1)
    ] = 1000,
    seeds: Seeds = "0",
    reference: Reference = None,
    out: Out = None,
) -> None:
    """Draw molecules with target values of a property, and measure how far they are from it.

    The error is the mean absolute difference between the property of a molecule and its target.
    """
    loaded = load_model(model)
    known = [table["name"] for table in loaded.conditions]
    if not known:
        raise UserError(f"{model} was not trained with properties")
    chosen = known if conditions is None else [name.strip() for name in conditions.split(",")]
    conditions_of(loaded, dict.fromkeys(chosen, 0.0))  # raises for an unknown one
    dataset = references.load_reference(reference, loaded)
    wanted = dataset.take(references.held_out(dataset, VALUES)).smiles
    numbers, each = parse_seeds(seeds), math.ceil(samples / VALUES)
    rows: list[dict[str, Any]] = []
    for name in chosen:
        targets = property_table(wanted, [name])[:, 0]
        found = [_errors(loaded, name, targets, best_of, each, seed) for seed in numbers]
        rows.append({"method": model, **mean_and_sd(found)})
        rows += published("properties", condition=name)
    kept = f"the nearest of {best_of} samples is kept" if best_of > 1 else "raw samples"
    notes = [
        f"{VALUES} held-out molecules, {counted(each, 'sample')} for the value of each, "
        f"temperature 1; {kept}, errors of the strictly valid ones.",
        "Of the data: mean distance of two of the values.",
    ]
    write(out, rows, PROPERTIES, notes)


def _errors(
    model: GraphModel, name: str, targets: np.ndarray, best_of: int, each: int, seed: int
) -> dict[str, Any]:
    """Return the table's row of one property."""
    flow, errors, smiles = MoleculeModel(model), [], []
    for k, value in enumerate(targets):
        asked = conditions_of(model, {name: float(value)})
        _, molecules = draw_nearest(
            flow, range(each), best_of, targets=asked, seed=seed * len(targets) + k
        )
        valid = [molecule.smiles for molecule in molecules if molecule.smiles]
        errors += list(abs(property_table(valid, [name])[:, 0] - value))
        smiles += valid
    pairs = len(targets) * (len(targets) - 1)
    return {
        "condition": name,
        "error": float(np.mean(errors)) if errors else None,
        "spread": float(abs(targets - targets[:, None]).sum()) / pairs,
        "strict": len(smiles) / (each * len(targets)),
        "unique": len(set(smiles)) / max(len(smiles), 1),
    }


TASKS = {
    "motif extension": ("motif_extension", "grow"),
    "linker design": ("linker_design", "link"),
    "scaffold morphing": ("linker_design", "link"),
    "superstructure generation": ("superstructure_generation", "scaffold"),
    "scaffold decoration": ("scaffold_decoration", "decorate"),
}
"""Column of `fragments.csv` for each task, and its name in `graphcnf.design.fragments.TASKS`."""

FRAGMENTS: list[Column] = [
    ("Task", text("task")),
    ("Method", text("method")),
    ("Valid", percent("valid")),
    ("Unique", percent("unique")),
    ("Quality", percent("quality")),
    ("Diversity", number("diversity", 3)),
    ("Distance", number("distance", 3)),
    ("Fragment in it", percent("holds")),
    ("s per 100", number("seconds", 1)),
]


def fragments(
    model: Model = "zinc250k",
    samples: Samples = 100,
    particles: Annotated[
        int, option("Particles of an attempt, one of which is drawn by weight.", min=1)
    ] = 1,
    seeds: Seeds = "0,1,2",
    out: Out = None,
) -> None:
    """Complete fragments of ten drugs: extend, link, build around and decorate them.

    The table has a row for each task, with the validity, quality and diversity of the molecules.
    Attempts that fail count as invalid.
    """
    numbers = parse_seeds(seeds)
    loaded = load_model(model)
    check_grows(loaded)
    with open(HERE / "fragments.csv", newline="", encoding="utf-8") as file:
        drugs = list(csv.DictReader(file))
    means: dict[str, dict[str, float]] = {}
    rows: list[dict[str, Any]] = []
    for task, (column, kind) in TASKS.items():
        if column not in means:  # scaffold morphing has the figures of linker design
            scores = [
                _score(loaded, drug, column, kind, seed=seed, samples=samples, particles=particles)
                for seed in numbers
                for drug in drugs
            ]
            means[column] = {
                key: float(np.nanmean([score[key] for score in scores])) for key in scores[0]
            }
        rows.append({"task": task, "method": model, **means[column]})
        rows += published("fragments", task=task)
    notes = [
        f"{samples} attempts for each of ten drugs, seeds {seeds}; particles per attempt: "
        f"{particles}; temperature 1, number of atoms as in the training data.",
        "Valid: of the attempts, the strictly valid molecules with the whole fragment. Unique: of "
        "these. Quality: of the attempts, distinct ones with QED of at least 0.6, SA of at most 4.",
        "Diversity, distance: mean Tanimoto distances (Morgan fingerprints of radius 2) of the "
        "distinct ones, to each other and to the drug.",
        "Scaffold morphing has the parts of linker design, and here the same molecules.",
        "Fragment in it: found by RDKit, without stereo. Seconds: of one thread.",
    ]
    write(out, rows, FRAGMENTS, notes)


def _score(
    model: GraphModel,
    drug: dict[str, str],
    column: str,
    kind: str,
    *,
    seed: int,
    samples: int,
    particles: int,
) -> dict[str, float]:
    """Complete the fragments of one drug in one task, and return figures of the molecules."""
    began = time.process_time()
    vocabulary = vocabulary_of(model)
    made: list[str | None] = []
    try:
        fragment = read_fragment(drug[column], kind, vocabulary)
        growth = Growth(model, vocabulary, fragment, seed=seed, particles=particles)
        made = growth.attempts(samples)
    except UserError as error:
        say(f"note: {drug['name']}, {column}: {error}")
    seconds = (time.process_time() - began) * 100 / samples
    valid = [smiles for smiles in made if smiles is not None]
    mols = [Chem.MolFromSmiles(smiles) for smiles in dict.fromkeys(valid)]
    prints, of_drug = fingerprints(mols), fingerprints([Chem.MolFromSmiles(drug["smiles"])])
    pairs = len(mols) / max(len(mols) - 1, 1)  # published diversities leave out pairs (x, x)
    score = {
        "valid": len(valid) / samples,
        "unique": len(mols) / max(len(valid), 1),
        "quality": sum(qed(mol) >= 0.6 and sa(mol) <= 4 for mol in mols) / samples,
        "diversity": internal_diversity(prints) * pairs if len(mols) > 1 else np.nan,
        "distance": 1 - nearest_similarity(prints, of_drug) if mols else np.nan,
        "holds": float(np.mean([bool(fragment.match(mol)) for mol in mols])) if mols else np.nan,
        "seconds": seconds,
    }
    shown = ", ".join(f"{key} {value:.3f}" for key, value in score.items())
    say(f"{drug['name']}, {column}, seed {seed}: {shown}")
    return score
