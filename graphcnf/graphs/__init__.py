"""Typed graphs, batches of them, and models of their density."""

from graphcnf.registry import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "GraphBatch": "batch",
        "PackedGraphs": "batch",
        "GraphModel": "graph_model",
        "StochasticModel": "graph_model",
        "log_prob_in_batches": "records",
        "model_for_graphs": "building",
        "sample_records": "records",
        "FaceModel": "faces",
        "GrowthModel": "node_by_node",
        "PairsModel": "pairs",
        "PathModel": "path.path_model",
        "UnorderedModel": "unordered",
    },
)
