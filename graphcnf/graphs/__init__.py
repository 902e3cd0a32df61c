"""Graph batches, node orders, and models of graphs."""

from graphcnf.registry import exported

__getattr__, __dir__, __all__ = exported(
    __name__,
    {
        "GraphBatch": "batch",
        "PackedGraphs": "batch",
        "GraphModel": "graph_model",
        "model_for_graphs": "building",
        "GrowthModel": "node_by_node",
        "PairsModel": "pairs",
        "PathModel": "path.path_model",
        "UnorderedModel": "unordered",
    },
)
