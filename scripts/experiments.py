"""Experiments that a preset can name: each joins a data set with a model."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module
from importlib.metadata import version
from typing import Any

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
    from graphcnf.graphs import GraphCNF
    from graphcnf.graphs.codings import steps_class
    from graphcnf.graphs.path.network import PathNetwork

    parts = [len(dataset.split(part)) for part in ("train", "test")]
    if not all(parts):
        raise UserError(f"{parts[0]} training and {parts[1]} held-out molecules: too few")
    size = settings.batch_size
    known = {
        "node_categories": len(dataset.vocabulary.atoms),
        "bond_categories": len(dataset.vocabulary.bonds),
        "metadata": {
            "dataset": dataset.name,
            "vocabulary": dataset.vocabulary.to_dict(),
            "size_histogram": dataset.size_histogram().tolist(),
            # Canonical SMILES, and with them the hashes, may change between versions.
            "rdkit": version("rdkit"),
        },
        "training_hashes": dataset.training_hashes(),
        "edge_weights": dataset.vocabulary.bond_orders,
    }
    coding = str(model_options.get("adjacency", "path"))
    steps = PathNetwork if coding == "path" else call("[model]", steps_class, coding, known={})
    fixed = ("graphs", "code", "max_nodes", "ordered", "edge_kinds", "node_labels", "largest_sums",
             "edge_ends", "clusters", *known)  # fmt: skip
    check("[model]", model_options, GraphCNF.for_graphs, steps, fixed=fixed)
    model = call("[model]", GraphCNF.for_graphs, dataset.graphs, known=known, **model_options)
    return Experiment(
        model,
        partial(dataset.train_batches, size),
        lambda: dataset.test_batches(4 * size),
        headline="bits_per_node",
    )


def _loaded(load: Callable, options: dict, **known) -> Any:
    """What `[data]` asks a loader for; `known` are arguments that do not come from it."""
    check("[data]", options, load, fixed=tuple(known))
    return call("[data]", load, known=known, **options)


def _official(name: str, model: dict, data: dict, settings: TrainingSettings) -> Experiment:
    load = getattr(import_module(f"graphcnf.datasets.{name}"), f"load_{name}")
    return _molecules(_loaded(load, data), model, settings)


def _smiles_file(model: dict, data: dict, settings: TrainingSettings) -> Experiment:
    path = data.pop("path", None)
    if not isinstance(path, str) or not path or "\0" in path:
        found = "" if path is None else f", not {path!r}"
        raise UserError(f'[data] needs path = "FILE" (or --set data.path=FILE){found}')
    from graphcnf.datasets.smiles_file import load_smiles_file

    known: dict[str, Any] = {"path": call("[data]", at_home, path, known={})}
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
        partial(dataset.train_batches, size),
        lambda: dataset.test_batches(size),
        headline="bits_per_variable",
    )


def _coloring(model: dict, data: dict, settings: TrainingSettings) -> Experiment:
    from graphcnf.coloring import ColoringFlow
    from graphcnf.datasets.coloring import load_coloring

    dataset = _loaded(load_coloring, data)
    size = settings.batch_size
    check("[model]", model, ColoringFlow, fixed=("colors",))
    network = call("[model]", ColoringFlow, dataset.colors, known={}, **model)
    network.metadata = {"dataset": "coloring", "data": data}
    return Experiment(
        network,
        partial(dataset.train_batches, size),
        lambda: dataset.test_batches(4 * size),
        headline="bits_per_node",
    )


def _images(model: dict, data: dict, settings: TrainingSettings) -> Experiment:
    from graphcnf.baselines.images.models import image_model_class
    from graphcnf.datasets.images import load_images
    from graphcnf.images import MODELS, ConvolutionNetwork, ImageFlow

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
    kind = call("[model]", image_model_class, model["architecture"], known={})
    # What a flow's architecture does not take, its networks do.
    parts = (MODELS[model["architecture"]], ConvolutionNetwork) if kind is ImageFlow else ()
    fixed = ("inputs", "outputs", "size", "context", *known)
    check("[model]", model, kind, *parts, fixed=fixed)
    network = call("[model]", kind, known=known, **model)
    network.metadata = {"dataset": dataset.name, "data": data, "checksum": dataset.checksum}

    return Experiment(
        network,
        partial(dataset.train_batches, size, shift=shift),
        lambda: dataset.batches("validation", size),
        headline="bits_per_dimension",
    )


EXPERIMENTS: dict[str, Callable[[dict, dict, TrainingSettings], Experiment]] = {
    **{name: partial(_official, name) for name in ("zinc250k", "moses", "qm9")},
    "smiles_file": _smiles_file,
    "sets": _sets,
    "coloring": _coloring,
    "images": _images,
}
