"""Models of other papers, for comparison; importing this package registers the graph models."""

from graphcnf.baselines.graphaf import GraphAFModel
from graphcnf.baselines.graphnvp import GraphNVPModel
from graphcnf.baselines.jtvae import JunctionTreeVAE
from graphcnf.baselines.rvae import RegularizedVAE
