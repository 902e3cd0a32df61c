"""`CategoricalModel`: densities of discrete data in a user's own types.

A codec (`codec`, `tables`, `graphs`) translates tables, arrays, sequences or graphs to the data of
a flow and back; `scores` compares samples with data.
"""

from graphcnf.discrete.model import CategoricalModel
