"""Fragments of graphs without chemistry, and whether weights of particles are proper."""

import numpy as np
import torch

from graphcnf.design.graph_fragment import GraphFragment


def fragment(categories, edges, *, kind=GraphFragment, nodes=2, labels=1, attachments=None,
             valence=0, plain=(False, True), **options):  # fmt: skip
    """A fragment in one structure.

    Args:
        categories: Category of each node.
        edges: Pairs of nodes.
        kind: Class of the fragment.
        nodes: Number of node categories.
        labels: Label of each edge, or that of all.
        attachments: Number of edges to free nodes that each node must get.
        valence: Free degree of all nodes.
        plain: Whether an edge of each label may attach free nodes.
        **options: Further attributes of the fragment.
    """
    count = len(categories)
    known = torch.zeros(count, nodes, dtype=torch.bool)
    known[range(count), categories] = True
    structures = torch.zeros(1, len(edges), len(plain), dtype=torch.bool)
    structures[0, range(len(edges)), labels] = True
    return kind(
        categories=known,
        edges=torch.tensor(edges, dtype=torch.long).reshape(-1, 2),
        structures=structures,
        valence=torch.full((count,), valence),
        attachments=torch.tensor(attachments or [0] * count),
        plain=torch.tensor(plain),
        **options,
    )


def assert_proper(means, probabilities, places):
    """Compare mean weights with the mean number of places of a fragment in graphs of a model.

    Four standard errors; a factor of 1.3, or a third of the graphs, that is missing would show.
    """
    exact, error = float(probabilities @ places), np.std(means) / len(means) ** 0.5
    assert abs(np.mean(means) - exact) < 4 * error < 0.3 * exact
