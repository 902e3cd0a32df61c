"""Graphs and molecules to and from the types of PyTorch Geometric and networkx."""
