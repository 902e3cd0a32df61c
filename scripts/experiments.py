"""Experiments that a preset can name: each joins a data set with a model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from graphcnf.errors import UserError, nearest
from graphcnf.files import at_home
from graphcnf.training.arguments import call, check
from graphcnf.training.experiment import Experiment
from graphcnf.training.settings import TrainingSettings


def build_experiment(config: dict[str, Any]) -> Experiment:
    """Build what `[data].name` asks for, with the weights initialised from `[training].seed`.

    Args:
        config: a preset: the tables `model`, `data` and `training`.

    Raises:
        UserError: an unknown data set, or arguments that it or the model does not take.
    """
    options = dict(config["data"])
    name = options.pop("name", None)
    known = ", ".join(EXPERIMENTS)
    if name is None:
        raise UserError(f"[data] needs a name; known: {known}")
    if not isinstance(name, str) or name not in EXPERIMENTS:
        raise UserError(
            f"[data] name: unknown data set {name!r}{nearest(str(name), list(EXPERIMENTS))}"
        )
    settings = TrainingSettings.from_dict(config["training"])
    torch.manual_seed(settings.seed)
    return EXPERIMENTS[name](dict(config["model"]), options, settings)


def _molecules(dataset, model_options: dict, settings: TrainingSettings) -> Experiment:
    from graphcnf.graphs import GraphBatch
    from graphcnf.graphs.batching import size_bucketed_batches

    graphs, size = dataset.graphs, settings.batch_size
    train, test = dataset.split("train"), dataset.split("test")
    if len(train) < 1 or len(test) < 1:
        raise UserError(f"{len(train)} training and {len(test)} held-out molecules: too few")
    counts = graphs.node_counts[train]
    # Any first few held-out batches must be a fair sample, whatever the order of the file.
    test = np.random.default_rng(0).permutation(test)
    model = _graph_model(dataset, model_options)

    def train_batches(epoch: int, seed: int, start: int, stride: int) -> Iterator[GraphBatch]:
        numbers = size_bucketed_batches(counts, size, seed, epoch)
        for index in islice(numbers, start, None, stride):
            yield GraphBatch.collate(graphs, train[index])

    def eval_batches() -> Iterator[GraphBatch]:
        for first in range(0, len(test), 4 * size):
            yield GraphBatch.collate(graphs, test[first : first + 4 * size])

    return Experiment(model, train_batches, eval_batches, headline="bits_per_node")


def _graph_model(dataset, options: dict):
    """A model for a data set, new or, where `[model]` names `weights`, a trained one."""
    from graphcnf.graphs import GraphCNF
    from graphcnf.graphs.pairs import PairSteps
    from graphcnf.graphs.path.network import PathNetwork

    options = dict(options)
    weights = options.pop("weights", None)
    metadata = {
        "dataset": dataset.name,
        "vocabulary": dataset.vocabulary.to_dict(),
        "size_histogram": dataset.size_histogram().tolist(),
        # Canonical SMILES, and with them the hashes, may change between versions.
        "rdkit": version("rdkit"),
    }
    if weights is not None:
        model = _pretrained(weights)
        _check_fit(model, dataset, weights)
        # What it was trained on before belongs to its history.
        metadata["weights"] = {"name": Path(weights).name, **model.metadata.get("training", {})}
        model.metadata, model.training_hashes = metadata, dataset.training_hashes()
        return model.train()
    known = {
        "node_categories": len(dataset.vocabulary.atoms),
        "bond_categories": len(dataset.vocabulary.bonds),
        "metadata": metadata,
        "training_hashes": dataset.training_hashes(),
        "edge_weights": dataset.vocabulary.bond_orders,
    }
    steps = PairSteps if options.get("adjacency") == "pairs" else PathNetwork
    fixed = ("graphs", "code", "max_nodes", "ordered", *known)
    check("[model]", options, GraphCNF.for_graphs, steps, fixed=fixed)
    return call("[model]", GraphCNF.for_graphs, dataset.graphs, known=known, **options)


def _pretrained(weights: Any):
    from graphcnf.graphs import GraphCNF

    if not isinstance(weights, str) or not weights or "\0" in weights:
        raise UserError(f"[model]: weights must be the name or the folder of a model in quotes, "
                        f"not {weights!r}")  # fmt: skip

    return GraphCNF.from_pretrained(weights)


def _check_fit(model, dataset, weights: str) -> None:
    """Raise UserError unless the model can code every molecule of the data set."""
    from graphcnf.molecules.vocabulary import MoleculeVocabulary

    if MoleculeVocabulary.of_model(model) != dataset.vocabulary:
        raise UserError(
            f"[model]: the weights {weights} know other categories than {dataset.name} has"
        )
    largest = int(dataset.graphs.node_counts.max())
    if largest > model.max_nodes:
        raise UserError(
            f"[model]: the weights {weights} take up to {model.max_nodes} atoms, {dataset.name} "
            f"has molecules of {largest}"
        )
    known = model.config["steps"]
    limited = known.get("largest_sums") is not None
    needed = type(model.steps).measure(
        dataset.graphs,
        **{k: known[k] for k in ("node_categories", "bond_categories")},
        edge_weights=dataset.vocabulary.bond_orders,
        support=limited,
    )
    for name, value in needed.items():
        if value is None or (name == "edge_weights" and not limited):
            continue
        least, most = np.atleast_1d(value), np.atleast_1d(known[name])
        if len(least) > len(most) or (least > most[: len(least)]).any():
            raise UserError(
                f"[model]: the weights {weights} code {name} up to {known[name]}, {dataset.name} "
                f"needs {value}"
            )


def _loaded(load: Callable, options: dict, **known) -> Any:
    """What `[data]` asks a loader for; `known` are arguments that do not come from it."""
    check("[data]", options, load, fixed=tuple(known))
    return call("[data]", load, known=known, **options)


def _zinc250k(model: dict, data: dict, settings: TrainingSettings) -> Experiment:
    from graphcnf.datasets.zinc250k import load_zinc250k

    return _molecules(_loaded(load_zinc250k, data), model, settings)


def _moses(model: dict, data: dict, settings: TrainingSettings) -> Experiment:
    from graphcnf.datasets.moses import load_moses

    return _molecules(_loaded(load_moses, data), model, settings)


def _qm9(model: dict, data: dict, settings: TrainingSettings) -> Experiment:
    from graphcnf.datasets.qm9 import load_qm9

    return _molecules(_loaded(load_qm9, data), model, settings)


def _smiles_file(model: dict, data: dict, settings: TrainingSettings) -> Experiment:
    path = data.pop("path", None)
    if not isinstance(path, str) or not path or "\0" in path:
        found = "" if path is None else f", not {path!r}"
        raise UserError(f'[data] needs path = "FILE" (or --set data.path=FILE){found}')
    from graphcnf.datasets.smiles_file import load_smiles_file

    known: dict[str, Any] = {"path": call("[data]", at_home, path, known={}), "vocabulary": None}
    if "weights" in model:
        from graphcnf.molecules.vocabulary import MoleculeVocabulary

        start = _pretrained(model["weights"])
        known["vocabulary"] = MoleculeVocabulary.of_model(start)
        data = {"max_atoms": start.max_nodes, **data}
    dataset = _loaded(load_smiles_file, data, **known)
    return _molecules(dataset, model, settings)


def _sets(model: dict, data: dict, settings: TrainingSettings) -> Experiment:
    from graphcnf.categorical import SetFlow
    from graphcnf.datasets.sets import TASKS

    task = data.pop("task", "shuffling")
    if not isinstance(task, str) or task not in TASKS:
        raise UserError(f"[data]: unknown task {task!r}{nearest(str(task), list(TASKS))}")
    dataset = _loaded(TASKS[task], data)
    size = settings.batch_size
    check("[model]", model, SetFlow, fixed=("elements", "categories"))
    network = call("[model]", SetFlow, dataset.elements, dataset.categories, known={}, **model)
    network.metadata = {"dataset": "sets", "task": task, "optimum": dataset.optimum}
    return Experiment(
        network,
        lambda epoch, seed, start, stride: dataset.train_batches(size, epoch, seed, start, stride),
        lambda: dataset.test_batches(size),
        headline="bits_per_variable",
    )


def _coloring(model: dict, data: dict, settings: TrainingSettings) -> Experiment:
    from graphcnf.datasets.coloring import load_coloring
    from graphcnf.graphs.coloring import ColoringFlow

    dataset = _loaded(load_coloring, data)
    size = settings.batch_size
    check("[model]", model, ColoringFlow, fixed=("colors",))
    network = call("[model]", ColoringFlow, dataset.colors, known={}, **model)
    network.metadata = {"dataset": "coloring", "data": data}
    return Experiment(
        network,
        lambda epoch, seed, start, stride: dataset.train_batches(size, epoch, seed, start, stride),
        lambda: dataset.test_batches(4 * size),
        headline="bits_per_node",
    )


def _images(model: dict, data: dict, settings: TrainingSettings) -> Experiment:
    from graphcnf.datasets.images import load_images
    from graphcnf.images import ImageFlow
    from graphcnf.images.models import MODELS
    from graphcnf.images.networks import ConvolutionNetwork

    shift, size = data.pop("shift", 0), settings.batch_size
    if isinstance(shift, bool) or not isinstance(shift, int) or not 0 <= shift <= 1000:
        raise UserError(f"[data]: shift must be a number of pixels from 0 on, not {shift!r}")
    if not isinstance(data.get("path", ""), str) or "\0" in data.get("path", ""):
        raise UserError(f"[data]: path must be a folder in quotes, not {data['path']!r}")
    if "architecture" not in model:
        raise UserError("[model]: images need an architecture, such as glow")
    for key in ("shape", "levels"):
        if key in model:
            raise UserError(f"[model]: {key} follows from the images")
    if "path" in data:
        # The model remembers it, and may be evaluated from elsewhere.
        data["path"] = str(call("[data]", at_home, data["path"], known={}).absolute())
    dataset = _loaded(load_images, data)
    known = {"shape": dataset.shape, "levels": dataset.levels}
    architecture = MODELS.get(str(model["architecture"]))
    if architecture is not None:
        fixed = ("inputs", "outputs", "size", "context", *known)
        check("[model]", model, ImageFlow, architecture, ConvolutionNetwork, fixed=fixed)
    network = call("[model]", ImageFlow, known=known, **model)
    network.metadata = {"dataset": dataset.name, "data": data, "checksum": dataset.checksum}

    def train_batches(epoch: int, seed: int, start: int, stride: int) -> Iterator[torch.Tensor]:
        return dataset.train_batches(size, epoch, seed, start, stride, shift=shift)

    return Experiment(
        network,
        train_batches,
        lambda: dataset.batches("validation", size),
        headline="bits_per_dimension",
    )


EXPERIMENTS: dict[str, Callable[[dict, dict, TrainingSettings], Experiment]] = {
    "zinc250k": _zinc250k,
    "moses": _moses,
    "qm9": _qm9,
    "smiles_file": _smiles_file,
    "sets": _sets,
    "coloring": _coloring,
    "images": _images,
}
