"""Graphs in one shot, with a latent for every pair of nodes, as published."""
