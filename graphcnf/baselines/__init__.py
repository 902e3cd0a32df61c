"""Models after other systems, from their papers; importing it registers the graph models."""

from graphcnf.baselines.graphs.graphaf import GraphAFModel
from graphcnf.baselines.graphs.graphnvp import GraphNVPModel
from graphcnf.baselines.graphs.rvae import RegularizedVAE
from graphcnf.baselines.junction_tree.jtvae import JunctionTreeVAE

__all__ = ["GraphAFModel", "GraphNVPModel", "JunctionTreeVAE", "RegularizedVAE"]
