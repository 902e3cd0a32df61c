"""Probability that a model spends on codes of a molecule other than the canonical one."""

from __future__ import annotations

import math
from typing import Annotated, Any

import numpy as np
import torch
from rdkit import Chem

from graphcnf.datasets import references
from graphcnf.errors import UserError
from graphcnf.evaluation.evaluate import reconstruction
from graphcnf.evaluation.formats import Column, number, percent, text
from graphcnf.graphs import GraphBatch, GraphCNF
from graphcnf.graphs.batch import PackedGraphs
from graphcnf.graphs.isomorphism import canonicalise
from graphcnf.molecules import codec
from graphcnf.molecules.vocabulary import MoleculeVocabulary
from graphcnf.scripts._options import load_model, option
from graphcnf.scripts.benchmarks.runner import Model, Out, Reference, Samples, write

# Held-out molecules whose bits are computed, and numbers of numberings to sum over.
HELD_OUT, NUMBERINGS = 500, (1, 4, 16, 64)

COLUMNS: list[Column] = [
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
    """Count the codes of samples, and measure the bits of further codes of a molecule."""
    loaded = load_model(model)
    dataset = references.load_reference(reference, loaded)
    chosen = references.held_out(dataset, HELD_OUT)
    if not len(chosen):
        raise UserError(f"{dataset.name} has no held-out molecules: name others with --reference")
    shares = code_shares(loaded, samples)
    rows: list[dict[str, Any]] = [{"what": f"code: {k}", "share": v} for k, v in shares.items()]
    batch = GraphBatch.collate(dataset.take(chosen).graphs)
    with torch.no_grad():
        for k in NUMBERINGS:
            bits = -float(loaded.log_prob(batch, orders=k).double().mean()) / math.log(2)
            rows.append({"what": f"bits per molecule, numberings: {k}", "bits": bits})
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
    write(out, rows, COLUMNS, notes)


def code_shares(model: GraphCNF, samples: int) -> dict[str, float]:
    """Return the shares of valid samples by the code of their molecule: canonical or another.

    Codes that differ in numbering only are equal once both graphs are numbered canonically; all
    others differ in Kekulé structure or aromatic marks.
    """
    vocabulary = MoleculeVocabulary.of_model(model)
    graphs = model.sample_records(0, samples, seed=0)
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
