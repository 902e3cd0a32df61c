"""Graphs with node and edge categories, batches of them, and models of their density.

Read the files in this order; those of a model are loaded by its name alone:

1. `batch`: graphs as arrays (`PackedGraphs`) and as padded tensors (`GraphBatch`);
2. `graph_model`: what every model can do, and what a model of one's own writes; `sizes`, the
   distribution of the number of nodes;
3. `coded`: models that write a graph as a sequence and score it autoregressively;
4. `path`, the default: node by node, depth-first. The other models are `unordered` (the same in
   random node orders), `node_by_node` (any graphs), `faces` (planar graphs) and `pairs` (all nodes
   and pairs at once, as Lippe & Gavves 2021);
5. `records`: reproducible samples;
6. `building`, `training_loss`, `training_batches`: a model for training graphs, and its training.

`isomorphism` orders nodes and counts symmetries. `random_order` is the base of models whose node
order is drawn at random. `features` describes whole graphs to the networks of `pairs`, and
`conditions` brings given properties of a graph, such as logP, into a network.
"""

from graphcnf.registry import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "GraphBatch": "batch",
        "PackedGraphs": "batch",
        "GraphModel": "graph_model",
        "model_for_graphs": "building",
        "sample_records": "records",
        "FaceModel": "faces",
        "GrowthModel": "node_by_node",
        "PairsModel": "pairs",
        "PathModel": "path.path_model",
        "UnorderedModel": "unordered",
    },
)
