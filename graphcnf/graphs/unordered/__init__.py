"""Graphs in any order of nodes: labels of all nodes first, then the edges."""

from graphcnf.graphs.unordered.steps import RoundSteps

__all__ = ["RoundSteps"]
