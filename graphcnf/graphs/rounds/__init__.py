"""Graphs in a fixed number of rounds: all nodes, then all pairs of nodes, in random groups."""

from graphcnf.graphs.rounds.steps import RoundSteps

__all__ = ["RoundSteps"]
