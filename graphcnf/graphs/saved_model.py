"""Graph models as files: how their classes are found by name, and how they are saved and loaded.

`graphcnf.pretrained` says how any model is saved: a folder with `config.json`, which rebuilds the
model, and `model.safetensors`, its weights. This file adds what only graph models have.

- The *architecture* of a graph model is the short name of its class, such as "path". It stands in
  `config.json`, and `GRAPH_MODELS` finds the class.
- A *companion* is a second model, of what the graphs leave out, such as stereo marks. It is saved
  and loaded with the graph model, in a folder of its own beside the weights.
- The *training hashes* are numbers that tell which graphs were in the training data, so that a
  model can say whether a drawn graph is new.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from graphcnf.errors import UserError
from graphcnf.file_reading import WEIGHTS, inside
from graphcnf.limits import LARGEST_COUNT, is_number
from graphcnf.pretrained import (
    Pretrained,
    check_kinds,
    check_sizes,
    load_array,
    load_model,
    model_folder,
    save_model,
)
from graphcnf.registry import Registry, load

GRAPH_MODELS = Registry(
    "models",
    {
        "path": "graphcnf.graphs.path.path_model:PathModel",
        "unordered": "graphcnf.graphs.unordered:UnorderedModel",
        "growth": "graphcnf.graphs.node_by_node:GrowthModel",
        "faces": "graphcnf.graphs.faces:FaceModel",
        "pairs": "graphcnf.graphs.pairs:PairsModel",
        "graphnvp": "graphcnf.baselines.graphnvp:GraphNVPModel",
        "graphaf": "graphcnf.baselines.graphaf:GraphAFModel",
        "rvae": "graphcnf.baselines.rvae:RegularizedVAE",
        "jtvae": "graphcnf.baselines.jtvae:JunctionTreeVAE",
    },
)
"""Classes of graph models by architecture; each is imported when it is looked up."""

COMPANIONS = {"stereo": "graphcnf.stereo.stereo_flow:StereoFlow"}
"""Addresses of the classes of companions, by the names of their folders."""


class SavedGraphModel(Pretrained):
    """Base of `GraphModel` that saves it to a folder and loads it; `GraphModel` adds the density.

    Models of your own derive from `GraphModel`.

    Attributes:
        config: `{"architecture": name, argument: value, ...}`: the arguments that were given to
            the constructor, JSON values, among them `node_categories`, `edge_categories` and
            `max_nodes`.
        metadata: JSON values about the training: `size_histogram` (entry n: number of training
            graphs with n nodes), `dataset` (name of the data set), `training` (settings of the run)
            and more.
        training_hashes: Sorted hashes of the training graphs, (M,) uint64; None if unknown.
        companions: Models of what the graphs leave out, by name: "stereo" for stereo marks. They
            are saved and loaded with this model. Empty in a new model.
        architecture: Short name of the class, the same as in `GRAPH_MODELS`.

    Raises:
        TypeError: if the `__init__` of a subclass is not decorated by `keep_arguments`.
    """

    not_sizes: ClassVar[frozenset[str]] = frozenset({"mean", "deviation"})  # of conditions
    architecture: ClassVar[str] = ""

    def __init__(self) -> None:
        super().__init__()
        if not hasattr(type(self).__init__, "__wrapped__"):
            raise TypeError(f"write @keep_arguments above the __init__ of {type(self).__name__}")
        self.metadata = {}
        self.config = {"architecture": self.architecture, **self.config}
        self.training_hashes: np.ndarray | None = None
        self.companions: dict[str, Pretrained] = {}

    def save_pretrained(self, folder: str | Path, *, half: bool = False) -> None:
        """Write the model to a folder, from which `from_pretrained` loads it.

        The files are `config.json`, `model.safetensors`, `training_hashes.safetensors` if the
        hashes are known, and a folder for each companion. Files that are there are replaced.

        Args:
            folder: Folder to write to; it is created if it does not exist.
            half: True to store parameters in float16, for half the size; they are loaded as
                float32.

        Raises:
            UserError: if a file or folder to be written is a symbolic link.
            OSError: if a file cannot be written.
        """
        for name, companion in self.companions.items():
            companion.save_pretrained(inside(folder, name))
        # Also if none is left: one whose package is not installed was not loaded.
        self.metadata.pop("companions", None)
        if self.companions:
            self.metadata["companions"] = sorted(self.companions)
        hashes = self.training_hashes
        arrays = {} if hashes is None else {"training_hashes": hashes}
        save_model(self, folder, half=half, **arrays)

    @classmethod
    def from_pretrained(cls, name_or_folder: str | Path, device="cpu") -> Self:
        """Load shipped weights by name, or a folder that `save_pretrained` or training wrote.

        Args:
            name_or_folder: Name of shipped weights, such as "zinc250k"; path of the folder of a
                model or of a training run; or "org/name" of the Hugging Face hub.
            device: Device of the weights, such as "cuda:1".

        Returns:
            The model in evaluation mode, of the class that its `config.json` names.

        Raises:
            UserError: if there is no such model, or a file is damaged.
        """
        folder = model_folder(name_or_folder, shipped=True)
        model = load_model(cls, folder, device)
        model.training_hashes = load_training_hashes(folder, model.metadata.get("dataset"))
        model.companions = load_companions(folder, model.metadata.get("companions", []))
        return model

    @classmethod
    def rebuild(cls, config: Mapping[str, Any]) -> Self:
        """Build an untrained model from the `config` of another one.

        `from_pretrained` calls it before it reads the weights.

        Args:
            config: Arguments of the constructor by name, and "architecture", which names the class.

        Returns:
            A model with initial weights, of the class that the architecture names.

        Raises:
            ValueError: if that class is not this class or a subclass of it, or a size is too large.
            UserError: if there is no such architecture.
        """
        arguments = dict(config)
        name = arguments.pop("architecture", None)
        found = cls if name == cls.architecture else GRAPH_MODELS.find(name, "architecture")
        if not issubclass(found, cls):
            raise ValueError(f'a model of architecture "{name}"')
        check_sizes(arguments, found.not_sizes)
        return found(**arguments)

    def check_metadata(self, metadata: Any) -> None:
        """Check metadata that were read from a file, before they become those of this model.

        `from_pretrained` calls it. The histogram of sizes, for example, must be a list of counts,
        or drawing a graph would fail later.

        Args:
            metadata: The metadata, any JSON value.

        Raises:
            ValueError: if an entry that methods of this class read has a wrong type or value.
        """
        super().check_metadata(metadata)
        check_kinds(metadata, size_histogram=list, weights=dict, companions=list)
        counts = metadata.get("size_histogram", [1])
        if not all(is_number(count) and 0 <= count <= LARGEST_COUNT for count in counts):
            raise ValueError("metadata.size_histogram is no list of counts")
        if not any(counts[: self.config["max_nodes"] + 1]):
            raise ValueError("metadata.size_histogram counts nothing that the model can draw")


def load_training_hashes(folder: Path, dataset: str | None) -> np.ndarray | None:
    """Load the hashes of the training graphs of a saved model.

    Args:
        folder: Folder of the model.
        dataset: Name of its data set; None if unknown. The hashes of shipped weights may be those
            of the shipped folder of this name, so that models of one data set share one file.

    Returns:
        Hashes in ascending order, (M,) uint64; None if there is no such file.

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
    """Load the companions of a model: models of what its graphs leave out, such as stereo marks.

    A companion whose package is not installed is left out, since the model works without it.

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
        if name not in list(COMPANIONS):  # a list, since a name from a file may be unhashable
            raise UserError(f"{folder}/config.json: unknown companion {name!r}")
        with suppress(ModuleNotFoundError):
            found[name] = load_model(load(COMPANIONS[name]), inside(folder, name))
    return found
