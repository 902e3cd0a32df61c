"""Colourings of graphs: `ColoringFlow`, p(colours of the nodes | graph).

`flow` has the model, `network` what a colour depends on, `saturation` the order in which nodes get
theirs and the coupling over it, `lookahead` what a colour would leave to the other nodes.
"""

from graphcnf.coloring.flow import ColoringFlow, conflicts, from_networkx

__all__ = ["ColoringFlow", "conflicts", "from_networkx"]
