"""Graph batches, node orders and GraphCNF."""

from graphcnf.graphs.batch import GraphBatch
from graphcnf.graphs.model import GraphCNF
from graphcnf.graphs.packed import PackedGraphs

__all__ = ["GraphBatch", "GraphCNF", "PackedGraphs"]
