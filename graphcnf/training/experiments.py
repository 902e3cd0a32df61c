"""From presets to experiments: for each data set, a function that builds the model and its batches.

- *Preset*: a TOML file with the tables `[model]`, `[data]` and `[training]`; here the first two are
  dictionaries of arguments, the last one is `TrainingSettings`.
- *Experiment*: the model with its training and held-out batches, as the training loop takes it.
- *Condition*: a property of molecules, such as logP, that the model can be asked for.

The arguments of the model are checked before data are loaded, which may take minutes.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from graphcnf import datasets
from graphcnf.arguments import call, check
from graphcnf.chemistry.properties import parse_names, property_table
from graphcnf.chunks import chunked
from graphcnf.datasets.cache import cached
from graphcnf.datasets.molecules import cache_path
from graphcnf.datasets.sets import TASKS
from graphcnf.datasets.smiles_file import STDIN
from graphcnf.errors import UserError, require, suggest
from graphcnf.file_reading import expand_user
from graphcnf.graphs.batch import GraphBatch
from graphcnf.graphs.building import (
    model_class,
    model_for_graphs,
    takes_conditions,
    with_conditions,
)
from graphcnf.graphs.conditions import condition_statistics
from graphcnf.graphs.graph_model import GraphModel
from graphcnf.limits import Range, is_integer
from graphcnf.molecules.molecule_model import MoleculeModel
from graphcnf.molecules.vocabulary import vocabulary_of
from graphcnf.molecules.vocabulary_building import bond_orders, merge_aromatic
from graphcnf.registry import Registry
from graphcnf.training.conditioning import names_of, with_surrogates, with_targets
from graphcnf.training.exclusive import learning
from graphcnf.training.finetuning import facts, sample_shares
from graphcnf.training.settings import Experiment, Preset, TrainingSettings, trainable_here

if TYPE_CHECKING:
    from graphcnf.datasets.molecules import MoleculeDataset
    from graphcnf.training.loop import FitResult

MOLECULES = (*datasets.MOLECULES, "smiles_file")
"""Names of molecule data sets."""

SAMPLES = 200
"""Samples of a trained model that are compared with its training molecules."""

FITTED = 10_000
"""Training molecules for `PathModel.fit_contributions`."""

DERIVED = ("graphs", "code", "max_nodes", "ordered", "conditions", "node_categories", "merged",
             "edge_categories", "metadata", "training_hashes", "edge_weights")  # fmt: skip
"""Arguments of graph models that follow from the data, and cannot be set in `[model]`."""


def fit_preset(preset: Preset, out: str | Path, *, resume: bool = False) -> FitResult:
    """Train the model of a preset on its data; `graphcnf train` calls it."""
    require("lightning_fabric", "training", "train")
    from graphcnf.training.loop import fit

    tables = {"model": preset.model, "data": preset.data}
    return fit(partial(build_experiment, preset), preset.training, out, resume, config=tables)


@learning()
def build_experiment(preset: Preset) -> Experiment:
    """Load the data of a preset and build its model, initialised by the seed in `[training]`.

    The model is a trained one if the entry `start` of `[model]` names one.
    """
    options = dict(preset.data)
    name = options.pop("name", None)
    torch.manual_seed(preset.training.seed)
    try:
        if name is None:
            raise UserError(f"[data] needs a name; known: {', '.join(EXPERIMENTS)}")
        if not isinstance(name, str) or name not in EXPERIMENTS:
            raise UserError(f"[data] name: unknown data set {name!r}{_cure(str(name))}")
        with trainable_here():
            return EXPERIMENTS[name](dict(preset.model), options, preset.training)
    except UserError as error:
        if str(error).startswith("["):  # a table of the preset
            raise UserError(f"{preset.source} {error}".lstrip()) from error
        raise


def _cure(name: str) -> str:
    """Return the end of a message about an unknown data set, which may be the name of a file."""
    if os.path.isfile(name):
        return f'; for the molecules of this file: name = "smiles_file", path = "{name}"'
    return suggest(name, list(EXPERIMENTS))


def _of_molecules(
    name: str, model: dict[str, Any], data: dict[str, Any], settings: TrainingSettings
) -> Experiment:
    """Return the experiment of a data set of molecules and a `GraphModel`."""
    names = _property_names(model.pop("properties")) if "properties" in model else None
    network = _start_model(model, names) if "start" in model else None
    if network is None:
        _check_model(model, names or data.get("columns"))
    measured = load_molecules(name, data)
    train, held_out = _split(measured)
    if network is not None:
        _check_known(network, model["start"], measured)
    # A trained model keeps the means and deviations by which its properties are standardised.
    known = [] if network is None else names_of(network)
    new = [n for n in (*(names or ()), *measured.columns) if n not in known]
    dataset = with_targets(measured, [*known, *new], property_values)
    tables = condition_statistics(new, dataset.targets[train][:, len(known) :]) if new else None
    metadata = facts(dataset)
    if network is None:
        given = {
            "node_categories": len(dataset.vocabulary.atoms),
            "edge_categories": len(dataset.vocabulary.bonds),
            "metadata": metadata,
            "training_hashes": dataset.training_hashes(),
            "edge_weights": bond_orders(dataset.vocabulary),
            "merged": merge_aromatic(dataset.vocabulary),
            **({"conditions": tables} if tables else {}),
        }
        network = call("[model]", model_for_graphs, dataset.graphs, known=given, **model)
    else:
        network.metadata |= metadata
        network.metadata.pop("likelihood_quantiles", None)  # of other weights than the new ones
        network.training_hashes = dataset.training_hashes()
        if tables:
            network = call("[model]", with_conditions, network, tables, known={})
        network.train()
    with_surrogates(network, measured)
    if tables and not measured.columns:  # which have too few values for this
        _fit_conditions(network, dataset, train)
    found = _experiment(network, dataset, settings.batch_size, 4 * settings.batch_size)
    found.summarize = _copies
    return found


def _fit_conditions(model: Any, dataset: MoleculeDataset, train: np.ndarray) -> None:
    """Initialise the conditioning on properties from up to `FITTED` molecules."""
    chosen = np.random.default_rng(0).permutation(train)[:FITTED]
    values = torch.from_numpy(dataset.targets[chosen])
    batch = GraphBatch.collate(dataset.graphs, chosen)
    model.fit_contributions(replace(batch, condition_values=values))


def _copies(model: GraphModel) -> list[str]:
    """Say in a sentence how many samples of a trained model are valid, distinct and copies."""
    assert model.training_hashes is not None
    _, shares = sample_shares(MoleculeModel(model), model.training_hashes, SAMPLES, seed=0)
    return [
        f"{SAMPLES} samples: {shares['strict_validity']:.1%} are valid; of these "
        f"{shares['uniqueness']:.1%} are distinct, and {shares['copied']:.1%} are copies of "
        "training molecules."
    ]


def _check_model(model: dict[str, Any], names: list[str] | None) -> None:
    """Check a `[model]` table of molecules."""
    architecture, order = str(model.get("architecture", "path")), model.get("order", "canonical")
    found = call("[model]", model_class, architecture, order, known={})
    if names is not None and not takes_conditions(found):
        raise UserError('[model]: properties need a model that draws atom by atom ("path")')
    fixed = (*DERIVED, *found.measured_arguments)
    check("[model]", model, model_for_graphs, *found.options(), fixed=fixed)


def _experiment(model: nn.Module, dataset: Any, size: int, held_out: int) -> Experiment:
    """Return the experiment of a model and a data set, with its batches."""
    batches = partial(dataset.test_batches, held_out)
    return Experiment(model, partial(dataset.train_batches, size), batches, data=dataset)


def _property_names(names: Any) -> list[str]:
    """Check the entry `[model] properties` of a preset."""
    if not (isinstance(names, list) and names and all(isinstance(n, str) for n in names)):
        raise UserError(
            f'[model]: properties must be a list such as ["logp", "qed"], got {names!r}'
        )
    return list(call("[model]", parse_names, ",".join(names), known={}))


def property_values(dataset: MoleculeDataset, names: Sequence[str]) -> np.ndarray:
    """Compute P properties of M molecules, in their units, (M, P); cached on disk."""

    def compute() -> dict[str, np.ndarray]:
        label = f"properties of {dataset.name}"
        return {"values": property_table(dataset.smiles, names, label=label)}

    digest = hashlib.sha256("\n".join(dataset.smiles).encode()).hexdigest()
    return cached(cache_path(f"properties-{dataset.name}", names, digest), compute)["values"]


def _start_model(options: dict[str, Any], names: list[str] | None) -> GraphModel:
    """Return the trained model that `[model] start` names, to train it further."""
    start = options["start"]
    if other := set(options) - {"start"}:
        raise UserError(f"[model]: {other.pop()} follows from start")
    if not isinstance(start, str):
        raise UserError(f"[model]: start must be a name or a folder in quotes, got {start!r}")
    model = call("[model]", GraphModel.from_pretrained, start, known={})
    learned = [table["name"] for table in model.conditions]
    if learned and names not in (None, learned):
        raise UserError(f"[model]: {start} was trained with the properties {', '.join(learned)}")
    return model


def _check_known(model: GraphModel, start: str, dataset: MoleculeDataset) -> None:
    """Check that a trained model can represent all molecules of a data set."""
    if vocabulary_of(model) != dataset.vocabulary:
        raise UserError(f"[model]: {start} has other categories of atoms or bonds than the data")
    graphs = dataset.graphs
    if graphs.node_counts.max() > model.max_nodes or not all(
        model.knows(GraphBatch.collate(graphs, part)).all()
        for part in chunked(range(len(graphs)), 4096)
    ):
        raise UserError(
            f"[model]: {start} cannot represent all the molecules: see graphcnf finetune"
        )


def load_molecules(name: str, data: dict[str, Any]) -> MoleculeDataset:
    """Load the molecules (`MOLECULES`) that the table `[data]` of a preset names."""
    options, known = dict(data), {}
    if name == "smiles_file":
        path = options.pop("path", None)
        if not isinstance(path, str) or not path or "\0" in path:
            found = "" if path is None else f", got {path!r}"
            raise UserError(f'[data] needs path = "FILE" (or --set data.path=FILE){found}')
        if path == STDIN:
            raise UserError("[data] path: a run that resumes reads its file again, name one, not -")
        known["path"] = call("[data]", expand_user, path, known={})
        return _loaded(datasets.load_smiles_file, options, **known)
    loader = datasets.MOLECULES[name]
    if "path" in options and "path" not in signature(loader).parameters:
        raise UserError(
            f"[data]: {name} reads no file that one can name; for the molecules of a file: name = "
            f'"smiles_file", path = "{options["path"]}"'
        )
    return _loaded(loader, options)


def _loaded(load: Callable[..., Any], options: dict[str, Any], **known: Any) -> Any:
    """Call a loader with the entries of `[data]`, so that its errors name the table."""
    check("[data]", options, load, fixed=tuple(known))
    return call("[data]", load, known=known, **options)


def _sets(model: dict[str, Any], data: dict[str, Any], settings: TrainingSettings) -> Experiment:
    """Return the experiment of sets of elements and a `SetFlow`."""
    kind = FLOWS["sets"]
    task = data.pop("task", "shuffling")
    if not isinstance(task, str) or task not in TASKS:
        raise UserError(f"[data]: unknown task {task!r}{suggest(str(task), list(TASKS))}")
    check("[model]", model, kind, fixed=("elements", "categories"))
    dataset = _loaded(TASKS[task], data)
    network = call("[model]", kind, dataset.elements, dataset.categories, known={}, **model)
    network.metadata = {"dataset": "sets", "task": task, "optimum": dataset.optimum}
    return _experiment(network, dataset, settings.batch_size, settings.batch_size)


def _coloring(
    model: dict[str, Any], data: dict[str, Any], settings: TrainingSettings
) -> Experiment:
    """Return the experiment of colourings and a `ColoringFlow`."""
    from graphcnf.datasets.coloring import load_coloring

    kind = FLOWS["coloring"]
    check("[model]", model, kind, fixed=("colors",))
    dataset = _loaded(load_coloring, data)
    network = call("[model]", kind, dataset.colors, known={}, **model)
    network.metadata = {"dataset": "coloring", "data": data}
    return _experiment(network, dataset, settings.batch_size, 4 * settings.batch_size)


def _split(dataset: Any) -> tuple[np.ndarray, np.ndarray]:
    """Divide a data set of molecules into training and held-out ones."""
    train, held_out = dataset.split("train"), dataset.split("test")
    if not (len(train) and len(held_out)):
        raise UserError(f"{len(train)} training and {len(held_out)} held-out molecules: too few")
    return train, held_out


def _stereo(model: dict[str, Any], data: dict[str, Any], settings: TrainingSettings) -> Experiment:
    """Return the experiment of stereo marks and a `StereoFlow`."""
    from graphcnf.datasets.stereo import load_stereo
    from graphcnf.stereo.stereo_flow import StereoFlow

    check("[model]", model, StereoFlow)
    dataset = _loaded(load_stereo, data)
    _split(dataset)
    network = call("[model]", StereoFlow, known={}, **model)
    network.metadata = {"dataset": dataset.name, "marks": dataset.marks()}
    return _experiment(network, dataset, settings.batch_size, 4 * settings.batch_size)


def _images(model: dict[str, Any], data: dict[str, Any], settings: TrainingSettings) -> Experiment:
    """Return the experiment of images and an `ImageModel`."""
    from graphcnf.datasets.images import load_images
    from graphcnf.images.image_model import FIXED, IMAGE_MODELS

    shift, size = data.pop("shift", 0), settings.batch_size
    if not (is_integer(shift) and shift in Range(0, 1000)):
        raise UserError(f"[data]: shift must be a number of pixels from 0 to 1000, got {shift!r}")
    if "architecture" not in model:
        raise UserError("[model]: images need an architecture, such as glow")
    check("[data]", data, load_images)
    if "path" in data:
        # The model stores the path, and may be evaluated in another working directory.
        data["path"] = str(call("[data]", expand_user, data["path"], known={}).absolute())
    options = dict(model)
    architecture = options.pop("architecture")
    kind = call("[model]", IMAGE_MODELS.find, architecture, "architecture", known={})
    check("[model]", options, *kind.parts(architecture), fixed=FIXED)
    dataset = _loaded(load_images, data)
    known = {"shape": dataset.shape, "levels": dataset.levels}
    network = call("[model]", kind, known=known, **model)
    network.metadata = {"dataset": dataset.name, "data": data, "checksum": dataset.checksum}
    train_batches = partial(dataset.train_batches, size, shift=shift)
    held_out = partial(dataset.batches, "validation", size)
    return Experiment(network, train_batches, held_out, data=dataset)


FLOWS = Registry(
    "flows",
    {
        "sets": "graphcnf.discrete.set_flow:SetFlow",
        "coloring": "graphcnf.discrete.coloring_flow:ColoringFlow",
    },
)
"""Flows of other discrete data that `graphcnf train` trains, by name of the data set."""

EXPERIMENTS: dict[str, Callable[[dict[str, Any], dict[str, Any], TrainingSettings], Experiment]] = {
    **{name: partial(_of_molecules, name) for name in MOLECULES},
    "sets": _sets,
    "coloring": _coloring,
    "stereo": _stereo,
    "images": _images,
}
"""By name of the data set, the function that builds an experiment.

It is called with the table `[model]` and the table `[data]` without the name, both of which it may
change, and the settings; it raises UserError for arguments that model or loader do not take.
"""
