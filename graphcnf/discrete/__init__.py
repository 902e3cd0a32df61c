"""The front door for discrete data: tables, sequences, arrays and graphs to a model and back.

A codec (`tables`, `sequences`, `graphs`) turns what a user has into categories and back and keeps
the vocabulary; a density (`densities`) gives the categories a flow; `fitting` trains it in the one
training loop; `CategoricalModel` joins them.
"""

from graphcnf.discrete.model import CategoricalModel

__all__ = ["CategoricalModel"]
