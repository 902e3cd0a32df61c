"""Graphs and molecules in the types of other libraries: PyTorch Geometric and networkx."""
