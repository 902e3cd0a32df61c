"""The front door for discrete data: tables, sequences, arrays and graphs to a model and back.

A codec (`codec`, `tables`, `graphs`) turns a user's data into those of a flow and back and keeps
the vocabulary; `CategoricalModel` joins the two and trains them; `scores` measures how far samples
are from data.
"""

from graphcnf.discrete.model import CategoricalModel
