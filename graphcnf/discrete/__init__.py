"""Distributions of discrete data: `CategoricalModel` in a user's own types, and the flows below it.

An *adapter* (`adapters`, `table_adapter`, `grid_adapter`, `graph_adapter`) translates tables,
arrays, sequences, grids or graphs to the categories of a *flow* (`columns`, `rows`, `grids`, a
graph model) and back. `table_scores` compares samples with data. `SetFlow` models sets,
`ColoringFlow` the colours of a graph's nodes.
"""

from graphcnf.registry import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "CategoricalModel": "categorical_model",
        "ColoringFlow": "coloring_flow",
        "conflicts": "coloring_flow",
        "from_networkx": "coloring_flow",
        "LookAhead": "coloring_network",
        "ColumnFlow": "columns",
        "ColumnMLP": "columns",
        "CausalAttention": "rows",
        "RowFlow": "rows",
        "Rows": "rows",
        "SetFlow": "set_flow",
        "evaluate_table": "table_scores",
        "ngram_distance": "table_scores",
        "pair_distances": "table_scores",
    },
)
