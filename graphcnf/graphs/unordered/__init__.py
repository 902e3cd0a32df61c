"""Graphs in any order of nodes: labels of all nodes first, then the edges."""
