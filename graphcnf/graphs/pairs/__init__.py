"""Graphs in one shot, with a latent for every pair of nodes, as published.

`latents` has the latents of nodes and pairs and the flows over both, `network` what a coupling
knows of a graph, and `model` the three steps: nodes, bonds, adjacency with virtual edges.
"""
