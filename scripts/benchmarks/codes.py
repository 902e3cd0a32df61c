"""How much probability a model leaves to other codes of a molecule than its canonical one."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from graphcnf.evaluation import measures
from graphcnf.evaluation.formats import Column, number, percent, text
from graphcnf.graphs.orderings import canonicalise
from graphcnf.molecules import codec
from graphcnf.molecules.vocabulary import MoleculeVocabulary
from graphcnf.scripts._options import load_model
from graphcnf.scripts.evaluation import named_data

if TYPE_CHECKING:
    from graphcnf.datasets.molecules import MoleculeDataset
    from graphcnf.graphs import GraphCNF

KINDS = ("canonical", "other numbering", "other Kekulé structure or marks")


def code_rows(
    name: str,
    *,
    samples: int,
    seed: int,
    orders: list[int],
    held_out: int,
    reconstruct: int,
    reference: str | None = None,
) -> list[dict[str, Any]]:
    """Shares of the samples' codes, bits over numbers of codes, and molecules that come back.

    Args:
        name: Shipped weights or a folder.
        samples: Raw samples to look at.
        seed: Of the samples.
        orders: Numbers of numberings to sum over.
        held_out: Held-out molecules to take the bits of.
        reconstruct: Held-out molecules to encode and decode, 0 for none.
        reference: See `named_data.load_reference`.
    """
    model = load_model(name)
    dataset = named_data.load_reference(reference, model)
    shares = code_shares(model, samples, seed)
    rows: list[dict[str, Any]] = [
        {"what": f"code: {kind}", "share": shares[kind]} for kind in KINDS
    ]
    bits = bits_by_orders(model, dataset, orders, held_out)
    rows += [{"what": f"bits per molecule, numberings: {k}", "bits": b} for k, b in bits.items()]
    if reconstruct:
        graphs = dataset.graphs.subset(named_data.held_out(dataset, reconstruct))
        for double in (True, False):
            back = measures.reconstruction(model, graphs, double=double)
            failed = round((1 - back) * len(graphs))
            what = f"come back in float{64 if double else 32}: all but {failed} of {len(graphs):,}"
            rows.append({"what": what, "share": back})
    return rows


def code_shares(model: GraphCNF, samples: int, seed: int) -> dict[str, float]:
    """Share of the valid samples whose code is the canonical one of their molecule, and others."""
    from graphcnf.graphs.packed import PackedGraphs

    vocabulary = MoleculeVocabulary.of_model(model)
    graphs = model.sample_records(0, samples, seed=seed)
    counts = dict.fromkeys(KINDS, 0)
    drawn, canonical = [], []
    for k in range(len(graphs)):
        mol = codec.graph_to_molecule(*graphs.graph(k), vocabulary)
        try:
            with codec.quiet():
                mol = codec.parse(codec.Chem.MolToSmiles(mol))
            graph = codec.molecule_to_graph(mol, vocabulary)
        except (ValueError, RuntimeError):
            continue
        drawn.append(graphs.graph(k))
        canonical.append(graph)
    drawn, canonical = PackedGraphs.from_lists(drawn), PackedGraphs.from_lists(canonical)
    same = np.array([_equal(drawn, canonical, k) for k in range(len(drawn))])
    counts["canonical"] = int(same.sum())
    others = np.flatnonzero(~same)
    a, b = canonicalise(drawn.subset(others)), canonicalise(canonical.subset(others))
    counts["other numbering"] = sum(_equal(a, b, k) for k in range(len(a)))
    counts[KINDS[2]] = len(drawn) - counts["canonical"] - counts["other numbering"]
    return {kind: count / max(len(drawn), 1) for kind, count in counts.items()}


def _equal(a, b, k: int) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(a.graph(k), b.graph(k), strict=True))


def bits_by_orders(
    model: GraphCNF, dataset: MoleculeDataset, orders: list[int], held_out: int
) -> dict[int, float]:
    """Mean bits per held-out molecule, size excluded, by the number of numberings summed over."""
    import torch

    from graphcnf.graphs import GraphBatch

    batch = GraphBatch.collate(dataset.graphs, named_data.held_out(dataset, held_out))
    with torch.no_grad():
        nats = {k: model.log_prob(batch, orders=k).double().mean() for k in orders}
    return {k: float(-mean) / math.log(2) for k, mean in nats.items()}


COLUMNS: list[Column] = [
    ("", text("what")),
    ("Share", percent("share")),
    ("Bits", number("bits", 2)),
]
