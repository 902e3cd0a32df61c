"""Colourings of graphs: `ColoringFlow`, p(colours of the nodes | graph)."""

from graphcnf.coloring.flow import ColoringFlow, conflicts, from_networkx
