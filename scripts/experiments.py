"""Experiments that a preset can name: each joins a data set with a model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

import graphcnf.baselines  # noqa: F401  (its graph models can be trained by name)
from graphcnf.compute.cpu import memory
from graphcnf.compute.files import expand_user
from graphcnf.compute.parallel import chunked
from graphcnf.errors import UserError, suggest
from graphcnf.graphs import GraphBatch, GraphCNF
from graphcnf.graphs.model import model_class
from graphcnf.limits import limited_parameters
from graphcnf.molecules.vocabulary import CODEC_VERSION
from graphcnf.training.arguments import call, check
from graphcnf.training.experiment import Experiment
from graphcnf.training.settings import TrainingSettings

if TYPE_CHECKING:
    from graphcnf.datasets.molecules import MoleculeDataset

MOLECULES = ("zinc250k", "moses", "qm9", "smiles_file")
"""Names of data sets of molecules, each loaded by `graphcnf.datasets.load_<name>`."""

PARAMETER_BYTES = 24
"""Memory of a parameter in training: weight, gradient, two moments, average, best average."""

FITTED = 10_000
"""Training molecules that say what categories add to properties, before training."""


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
            f"[data] name: unknown data set {name!r}{suggest(str(name), list(EXPERIMENTS))}"
        )
    settings = TrainingSettings.from_dict(config["training"])
    torch.manual_seed(settings.seed)
    most = memory() // PARAMETER_BYTES
    reason = f"training takes {PARAMETER_BYTES} bytes of memory for each; make it smaller"
    with limited_parameters(most, reason):
        return EXPERIMENTS[name](dict(config["model"]), options, settings)


FOLLOWING = ("graphs", "code", "max_nodes", "ordered", "conditions", "node_categories",
             "bond_categories", "metadata", "training_hashes", "edge_weights")  # fmt: skip
"""Arguments of every model that follow from its data."""


def _of_molecules(name: str, model: dict, data: dict, settings: TrainingSettings) -> Experiment:
    """Everything is checked before the molecules are loaded, which may take minutes."""
    options = dict(model)
    names = _property_names(options.pop("properties")) if "properties" in options else None
    started = _start(options, names) if "start" in options else None
    if started is None:
        _check_model(options, names)
    dataset = load_molecules(name, data)
    parts = [len(dataset.split(part)) for part in ("train", "test")]
    if not all(parts):
        raise UserError(f"{parts[0]} training and {parts[1]} held-out molecules: too few")
    if started is not None:
        return _started(started, options["start"], names, dataset, settings.batch_size)
    tables = None
    if names is not None:
        dataset, tables = _with_targets(dataset, names)
    known = {
        "node_categories": len(dataset.vocabulary.atoms),
        "bond_categories": len(dataset.vocabulary.bonds),
        "metadata": _described(dataset),
        "training_hashes": dataset.training_hashes(),
        "edge_weights": dataset.vocabulary.bond_orders,
        **({} if tables is None else {"conditions": tables}),
    }
    network = call("[model]", GraphCNF.for_graphs, dataset.graphs, known=known, **options)
    return _of_graphs(network, dataset, settings.batch_size)


def _check_model(options: dict[str, Any], names: list[str] | None) -> None:
    """Raise `UserError` where a model takes no such arguments."""
    found = call(
        "[model]", model_class, str(options.get("architecture", "path")),
        options.get("order", "canonical"), known={},
    )  # fmt: skip
    if names is not None and not found.takes_conditions:
        raise UserError('[model]: properties need a model that draws atom by atom ("path")')
    fixed = (*FOLLOWING, *found.measured)
    check("[model]", options, GraphCNF.for_graphs, *found.options(), fixed=fixed)


def _described(dataset) -> dict[str, Any]:
    """What a model keeps of its data."""
    return {
        "dataset": dataset.name,
        "vocabulary": dataset.vocabulary.to_dict(),
        "size_histogram": dataset.size_histogram().tolist(),
        # Canonical SMILES, and with them the hashes, may change between versions.
        "rdkit": version("rdkit"),
        "codec": CODEC_VERSION,
    }


def _of_graphs(model, dataset, size: int) -> Experiment:
    if dataset.targets is not None:
        train = dataset.split("train")
        chosen = np.random.default_rng(0).permutation(train)[:FITTED]
        batch = GraphBatch.collate(dataset.graphs, chosen)
        values = torch.from_numpy(dataset.targets[chosen])
        model.steps.fit_conditions(replace(batch, conditions=values))
    return _experiment(model, dataset, size)


def _experiment(model, dataset, size: int) -> Experiment:
    return Experiment(
        model,
        partial(dataset.train_batches, size),
        lambda: dataset.test_batches(4 * size),
    )


def _property_names(names: Any) -> list[str]:
    """The properties that `[model]` names.

    Raises:
        UserError: It is no list of names, or there is no such property.
    """
    from graphcnf.molecules.selection import parse_names

    if not (isinstance(names, list) and names and all(isinstance(n, str) for n in names)):
        raise UserError(
            f'[model]: properties must be a list such as ["logp", "qed"], not {names!r}'
        )
    return list(call("[model]", parse_names, ",".join(names), known={}))


def _with_targets(dataset, names: list[str]) -> tuple[Any, list[dict[str, Any]]]:
    """The data set with properties to ask for, and what a model keeps of them."""
    from graphcnf.datasets.properties import property_values
    from graphcnf.graphs.conditions import condition_tables

    values = property_values(dataset, names)
    tables = condition_tables(names, values[dataset.split("train")])
    return replace(dataset, targets=values), tables


def _start(options: dict[str, Any], names: list[str] | None) -> GraphCNF:
    """The model whose weights and sizes a training begins with."""
    for name in options:
        if name != "start":
            raise UserError(f"[model]: {name} follows from start")
    start = options["start"]
    if not isinstance(start, str):
        raise UserError(f"[model]: start must be a name or a folder in quotes, not {start!r}")
    model = call("[model]", GraphCNF.from_pretrained, start, known={})
    learned = [table["name"] for table in model.conditions]
    if learned and names not in (None, learned):
        raise UserError(f"[model]: {start} was trained with the properties {', '.join(learned)}")
    return model


def _started(model, start: str, names: list[str] | None, dataset, size: int) -> Experiment:
    """Training that begins with the weights of another model."""
    from graphcnf.molecules.vocabulary import MoleculeVocabulary

    if MoleculeVocabulary.of_model(model) != dataset.vocabulary:
        raise UserError(f"[model]: {start} has other categories of atoms or bonds than the data")
    graphs = dataset.graphs
    known = int(graphs.node_counts.max()) <= model.max_nodes and all(
        bool(model.steps.knows(GraphBatch.collate(graphs, part)).all())
        for part in chunked(range(len(graphs)), 4096)
    )
    if not known:
        raise UserError(f"[model]: {start} does not know all the molecules: see graphcnf finetune")
    model.metadata |= _described(dataset)
    model.training_hashes = dataset.training_hashes()
    if model.conditions:
        # Whatever they mean, they go on meaning it.
        dataset, _ = _with_targets(dataset, [table["name"] for table in model.conditions])
        return _experiment(model.train(), dataset, size)
    if names is not None:
        dataset, tables = _with_targets(dataset, names)
        model = call("[model]", model.with_conditions, tables, known={})
    return _of_graphs(model.train(), dataset, size)


def _loaded(load: Callable, options: dict, **known) -> Any:
    """What `[data]` asks a loader for; `known` are arguments that do not come from it."""
    check("[data]", options, load, fixed=tuple(known))
    return call("[data]", load, known=known, **options)


def load_molecules(name: str, data: dict[str, Any]) -> MoleculeDataset:
    """The molecules that a `[data]` table asks for.

    Args:
        name: One of `MOLECULES`.
        data: The other entries of the table.

    Raises:
        UserError: Entries that the loader does not take, or data that are not there.
    """
    from graphcnf import datasets

    options, known = dict(data), {}
    if name == "smiles_file":
        path = options.pop("path", None)
        if not isinstance(path, str) or not path or "\0" in path:
            found = "" if path is None else f", not {path!r}"
            raise UserError(f'[data] needs path = "FILE" (or --set data.path=FILE){found}')
        known["path"] = call("[data]", expand_user, path, known={})
    return _loaded(getattr(datasets, f"load_{name}"), options, **known)


def _sets(model: dict, data: dict, settings: TrainingSettings) -> Experiment:
    from graphcnf.categorical import SetFlow
    from graphcnf.datasets.sets import TASKS

    task = data.pop("task", "shuffling")
    if not isinstance(task, str) or task not in TASKS:
        raise UserError(f"[data]: unknown task {task!r}{suggest(str(task), list(TASKS))}")
    check("[model]", model, SetFlow, fixed=("elements", "categories"))
    dataset = _loaded(TASKS[task], data)
    size = settings.batch_size
    network = call("[model]", SetFlow, dataset.elements, dataset.categories, known={}, **model)
    network.metadata = {"dataset": "sets", "task": task, "optimum": dataset.optimum}
    return Experiment(
        network,
        partial(dataset.train_batches, size),
        lambda: dataset.test_batches(size),
    )


def _coloring(model: dict, data: dict, settings: TrainingSettings) -> Experiment:
    from graphcnf.coloring import ColoringFlow
    from graphcnf.datasets.coloring import load_coloring

    check("[model]", model, ColoringFlow, fixed=("colors",))
    dataset = _loaded(load_coloring, data)
    size = settings.batch_size
    network = call("[model]", ColoringFlow, dataset.colors, known={}, **model)
    network.metadata = {"dataset": "coloring", "data": data}
    return Experiment(
        network,
        partial(dataset.train_batches, size),
        lambda: dataset.test_batches(4 * size),
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
        data["path"] = str(call("[data]", expand_user, data["path"], known={}).absolute())
    kind = call("[model]", image_model_class, model["architecture"], known={})
    # What a flow's architecture does not take, its networks do.
    parts = (MODELS[model["architecture"]], ConvolutionNetwork) if kind is ImageFlow else ()
    fixed = ("inputs", "outputs", "size", "context", "shape", "levels")
    check("[model]", model, kind, *parts, fixed=fixed)
    dataset = _loaded(load_images, data)
    known = {"shape": dataset.shape, "levels": dataset.levels}
    network = call("[model]", kind, known=known, **model)
    network.metadata = {"dataset": dataset.name, "data": data, "checksum": dataset.checksum}

    return Experiment(
        network,
        partial(dataset.train_batches, size, shift=shift),
        lambda: dataset.batches("validation", size),
    )


EXPERIMENTS: dict[str, Callable[[dict, dict, TrainingSettings], Experiment]] = {
    **{name: partial(_of_molecules, name) for name in MOLECULES},
    "sets": _sets,
    "coloring": _coloring,
    "images": _images,
}
