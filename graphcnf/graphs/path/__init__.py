"""Graphs atom by atom: the categories of a node along the depth-first path, one after the other.

`code` turns graphs into categories and back, `walk` keeps what the earlier nodes say about the next
one, `support` which categories are possible, `network` gives their probabilities, and `model` makes
a categorical flow of it. `orders` sums over numberings of a graph, `enlargement` adds categories to
a trained network, and `fragment`, `placement` and `conditional` draw graphs that hold a fragment.
"""
