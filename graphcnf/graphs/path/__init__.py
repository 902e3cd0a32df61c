"""Graphs atom by atom: the categories of a node along the depth-first path, one after the other."""
