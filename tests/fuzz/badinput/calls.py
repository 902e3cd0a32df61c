"""Calls from Python with arguments of a wrong type."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch_geometric.data import Data

from graphcnf.discrete import CategoricalModel
from graphcnf.exchange import from_networkx, from_pyg

TYPES = {"an int": 3, "None": None, "a float": 0.5, "a dict": {1: 2}, "an object": object()}
"""Values of types that no call takes, by how a message names them."""

CALLS: dict[str, tuple[Callable[[Any], Any], Any, str]] = {
    **{f"from_pyg {name}": (from_pyg, value, "Data") for name, value in TYPES.items()},
    "from_pyg text": (from_pyg, "abc", "a str"),
    "from_pyg one Data": (from_pyg, Data(x=torch.zeros(2)), "a Data"),
    "from_pyg numbers": (from_pyg, [1, 2], "an int"),
    "from_networkx text": (from_networkx, "abc", "a str"),
    **{f"fit {name}": (CategoricalModel.fit, value, name) for name, value in TYPES.items()},
    "fit numbers": (CategoricalModel.fit, [1, 2], "an int"),
    "fit real pixels": (CategoricalModel.fit, np.zeros((3, 4, 4)), "float64"),
}
"""Functions, their arguments, and what the message names."""
