"""Small models of molecules."""

import torch

from graphcnf.graphs import GraphModel


def small_model(data, metadata=None, **options):
    """A small model of the molecules of a data set, its weights as at the start of a training."""
    torch.manual_seed(0)
    return GraphModel.for_graphs(
        data.graphs,
        node_categories=len(data.vocabulary.atoms),
        bond_categories=len(data.vocabulary.bonds),
        metadata={"vocabulary": data.vocabulary.to_dict(), **(metadata or {})},
        **{"width": 16, "layers": 1, "heads": 2, "table_rows": 64, **options},
    )
