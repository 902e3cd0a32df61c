"""Convert graphs and molecules to and from PyTorch Geometric (PyG).

- A graph of PyG is a `Data`. `x` has a row for each node. `edge_index` (2, E) has the node numbers
  of the edges, as a rule each edge in both directions. `edge_attr` has a row for each column of
  `edge_index`.
- In this package, graphs are *packed*: all of them are stored in a few arrays, as `PackedGraphs`.
- *Categories* are numbers from 0 that name the types of nodes or edges. In `x` and `edge_attr` they
  are one number per row, (n,) or (n, 1), or one-hot rows, (n, C).
- *Molecular features* are those of `torch_geometric.utils.from_smiles`, which data sets such as
  MoleculeNet have: nine numbers for an atom, the first of them its atomic number, and three for a
  bond.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from graphcnf.errors import UserError, type_of
from graphcnf.graphs.batch import PackedGraphs

if TYPE_CHECKING:
    from torch_geometric.data import Data

    from graphcnf.molecules.vocabulary import MoleculeVocabulary

FEATURES = 9, 3
"""Number of molecular features of an atom, and of a bond."""


def listed(data: Iterable[Data]) -> list[Data]:
    """Return graphs of PyG as a list, whatever holds them."""
    from torch_geometric.data import Batch, Data

    wanted = "give a list, a Batch or a Dataset of torch_geometric.data.Data"
    try:
        found = data.to_data_list() if isinstance(data, Batch) else list(data)
    except TypeError:  # not to be iterated over
        found = None
    if found is None or isinstance(data, str) or type(data) is Data:
        raise UserError(f"got {type_of(data)}: {wanted}")
    for number, graph in enumerate(found):
        if not isinstance(graph, Data):
            raise UserError(f"graph {number} is {type_of(graph)}: {wanted}")
    return found


def categories(what: str, values: Tensor | None) -> np.ndarray:
    """Read the categories of nodes or edges, (n,), from an attribute, named `what` in messages."""
    if values is None:
        raise ValueError(f"{what} is missing")
    if is_one_hot(values):
        return values.argmax(-1).cpu().numpy()
    if values.dim() > 2 or (values.dim() == 2 and values.shape[1] != 1):
        raise ValueError(
            f"{what} must be a list of categories or one-hot rows, got shape {tuple(values.shape)}"
        )
    return values.flatten().cpu().numpy()


def is_one_hot(values: Tensor) -> bool:
    """Return True for one-hot rows: a tensor (n, C), C > 1, with a single 1 in each row."""
    wide = values.dim() == 2 and values.shape[1] > 1
    return wide and bool(
        ((values == 1).sum(1) == 1).all() and ((values == 0) | (values == 1)).all()
    )


def from_pyg(data: Iterable[Data]) -> PackedGraphs:
    """Pack graphs of PyG.

    `edge_attr` may be missing: then every edge has category 0. Each edge is given in one direction
    or in both. Further attributes, such as coordinates, are dropped.
    """
    graphs = []
    for d in listed(data):
        if d.edge_index is None:
            raise ValueError("edge_index is missing")
        edges = d.edge_index.t().cpu().numpy()
        kinds = torch.zeros(len(edges)) if d.edge_attr is None else d.edge_attr
        graphs.append((categories("x", d.x), edges, categories("edge_attr", kinds)))
    return PackedGraphs.from_lists(graphs)


def to_pyg(graphs: PackedGraphs, smiles: Sequence[str | None] | None = None) -> list[Data]:
    """Convert graphs to `Data` of PyG, with both directions of every edge.

    Args:
        smiles: SMILES of each graph, which become its attribute `smiles`.
    """
    found = [data_of(*graphs.graph(k)) for k in range(len(graphs))]
    for data, text in zip(found, smiles or (), strict=smiles is not None):
        data.smiles = text
    return found


def data_of(nodes: ArrayLike, edges: ArrayLike, kinds: ArrayLike) -> Data:
    """Convert one graph to a `Data` of PyG, with both directions of every edge.

    `x` is (n,), `edge_index` (2, 2 m), `edge_attr` (2 m,), all long: first all edges in the given
    direction, then all in the other one.
    """
    from torch_geometric.data import Data

    arrays = (np.asarray(array, np.int64) for array in (nodes, edges, kinds))
    types, pairs, labels = map(torch.from_numpy, arrays)
    both = torch.cat([pairs, pairs.flip(1)]).t().contiguous()
    return Data(x=types, edge_index=both, edge_attr=torch.cat([labels, labels]))


def smiles_of(
    data: Iterable[Data], vocabulary: MoleculeVocabulary | None = None
) -> list[str | None]:
    """Return the SMILES of molecules of PyG.

    For each graph they are read from the first of these that it has: the attribute `smiles`,
    molecular features, categories.

    None stands for no valid molecule. The attribute `smiles` is not checked; other SMILES are
    canonical. `vocabulary` says what the categories in `x` and `edge_attr` mean.
    """
    return [_smiles(number, d, vocabulary) for number, d in enumerate(listed(data))]


def _smiles(number: int, data: Data, vocabulary: MoleculeVocabulary | None) -> str | None:
    """Return the SMILES of a molecule of PyG, None if it is no valid molecule."""
    from rdkit.Chem import MolSanitizeException
    from torch_geometric.utils import to_smiles

    from graphcnf.molecules.codec import quiet
    from graphcnf.molecules.validity import strict_smiles

    if isinstance(getattr(data, "smiles", None), str):
        return data.smiles
    widths = tuple(0 if t is None or t.dim() < 2 else t.shape[1] for t in (data.x, data.edge_attr))
    try:
        if widths == FEATURES and not is_one_hot(data.x):
            with quiet():
                return to_smiles(data)
        if vocabulary is not None:
            return strict_smiles(from_pyg([data]), vocabulary)[0]
    except MolSanitizeException:
        return None
    except (IndexError, KeyError, RuntimeError, ValueError) as error:
        raise UserError(f"graph {number} is no molecule: {error}") from None
    raise UserError(
        f"graph {number} has no attribute smiles and no features of from_smiles: give the "
        "vocabulary of its categories"
    )
