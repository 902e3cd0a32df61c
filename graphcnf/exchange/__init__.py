"""Graphs and molecules to and from the types of PyTorch Geometric and networkx."""

from graphcnf.registry import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "from_networkx": "nx_graphs",
        "to_networkx": "nx_graphs",
        "from_pyg": "pyg",
        "smiles_of": "pyg",
        "to_pyg": "pyg",
    },
)
