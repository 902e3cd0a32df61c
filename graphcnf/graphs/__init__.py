"""Graph batches, node orders, GraphCNF, and the graph models that it is built on."""

from graphcnf.graphs.batch import GraphBatch, PackedGraphs
from graphcnf.graphs.growth import GrowthModel
from graphcnf.graphs.model import GraphCNF, GraphModel, graph_model
from graphcnf.graphs.pairs import PairsModel
from graphcnf.graphs.path.model import PathModel
from graphcnf.graphs.path.unordered import UnorderedModel
