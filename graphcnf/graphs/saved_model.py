"""What graph models need in folders: classes by name, and what is saved beside the weights.

The *architecture* of a graph model is the short name of its class. A *companion* is a model of what
the graphs leave out, such as stereo marks.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import numpy as np

from graphcnf.errors import UserError
from graphcnf.file_reading import WEIGHTS, inside
from graphcnf.pretrained import Pretrained, load_array, load_model
from graphcnf.registry import Registry, load

GRAPH_MODELS = Registry(
    "models",
    {
        "path": "graphcnf.graphs.path.path_model:PathModel",
        "unordered": "graphcnf.graphs.unordered:UnorderedModel",
        "growth": "graphcnf.graphs.node_by_node:GrowthModel",
        "pairs": "graphcnf.graphs.pairs:PairsModel",
        "graphnvp": "graphcnf.baselines.graphnvp:GraphNVPModel",
        "graphaf": "graphcnf.baselines.graphaf:GraphAFModel",
        "rvae": "graphcnf.baselines.rvae:RegularizedVAE",
        "jtvae": "graphcnf.baselines.jtvae:JunctionTreeVAE",
    },
)
"""Classes of graph models by architecture."""

COMPANIONS = {"stereo": "graphcnf.stereo.stereo_flow:StereoFlow"}
"""Classes of companions by the names of their folders."""


def load_training_hashes(folder: Path, dataset: str | None) -> np.ndarray | None:
    """Load the sorted hashes of the training graphs of a model, None if they are not known.

    Args:
        folder: Folder of the model.
        dataset: Name of its data set. Shipped weights of one data set share the hashes.

    Raises:
        UserError: if the file is damaged, or its numbers do not rise.
    """
    hashes = load_array(folder, "training_hashes")
    if hashes is None and folder.parent == WEIGHTS:
        hashes = load_array(WEIGHTS / str(dataset), "training_hashes")
    if hashes is not None and (hashes.dtype != np.uint64 or (hashes[1:] <= hashes[:-1]).any()):
        raise UserError(f"{folder}/training_hashes.safetensors must hold rising uint64 numbers")
    return hashes


def load_companions(folder: Path, names: list[str]) -> dict[str, Pretrained]:
    """Load the companions of a model, but those whose wing is not installed.

    Args:
        folder: Folder of the model.
        names: Names of its companions, as `config.json` lists them.

    Returns:
        `{name: companion}`, on the CPU; {} for no names.

    Raises:
        UserError: if a name is not in `COMPANIONS`, or files are missing or damaged.
    """
    found = {}
    for name in names:
        if name not in list(COMPANIONS):
            raise UserError(f"{folder}/config.json: unknown companion {name!r}")
        with suppress(ModuleNotFoundError):
            found[name] = load_model(load(COMPANIONS[name]), inside(folder, name))
    return found
