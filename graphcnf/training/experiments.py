"""Experiments that a preset can name: each joins a data set with a model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tomli_w
import torch

import graphcnf.baselines  # noqa: F401  (its graph models can be trained by name)
from graphcnf import datasets
from graphcnf.compute.cpu import memory
from graphcnf.compute.files import (
    RUN_MARK,
    claim,
    expand_user,
    file_lock,
    inside,
    is_claimed,
    read_file,
    replace_file,
)
from graphcnf.compute.parallel import chunked
from graphcnf.errors import UserError, require, suggest
from graphcnf.graphs import GraphBatch, GraphCNF
from graphcnf.graphs.model import model_class
from graphcnf.limits import Range, is_integer, limited_parameters
from graphcnf.molecules.vocabulary import CODEC_VERSION, MoleculeVocabulary
from graphcnf.training.arguments import call, check
from graphcnf.training.experiment import Experiment, FitResult
from graphcnf.training.processes import is_main
from graphcnf.training.settings import TrainingSettings

if TYPE_CHECKING:
    from graphcnf.datasets.molecules import MoleculeDataset

MOLECULES = (*datasets.MOLECULES, "smiles_file")
"""Names of data sets of molecules, each loaded by `graphcnf.datasets.load_<name>`."""

PARAMETER_BYTES = 24
"""Memory of a parameter in training: weight, gradient, two moments, average, best average."""

FITTED = 10_000
"""Training molecules to which the parts of properties per category are fitted before training."""


def fit_config(
    config: dict[str, Any],
    out: str | Path,
    *,
    resume: bool = False,
    continue_from: str | Path | None = None,
    source: str = "",
) -> FitResult:
    """Train the model of a preset on its data; see `fit` for the arguments and the folder.

    The folder names the preset before data are loaded, which may take minutes: a run that is
    stopped meanwhile can be resumed. Where loading fails, the folder stays as it was.

    Args:
        config: a preset: the tables `model`, `data` and `training`.
        out: run directory.
        resume: go on with the run in it.
        continue_from: another run's directory.
        source: file of the preset, for messages.

    Raises:
        UserError: as `build_experiment` and `fit`, or Lightning is missing.
    """
    require("lightning", "training", "train")
    out = Path(out)
    settings = TrainingSettings.from_dict(config["training"], f"{source} [training]".lstrip())
    if settings.minutes is None and settings.steps is None:
        raise UserError("a run needs a budget: give minutes or steps")
    with _announced(out, config, settings) if is_main() else nullcontext():
        if settings.threads:
            torch.set_num_threads(settings.threads)
        try:
            experiment = build_experiment(config)
        except UserError as error:
            text = str(error)
            raise UserError(f"{source} {text}" if text.startswith("[") else text) from error
    from graphcnf.training.loop import fit

    return fit(experiment, settings, out, resume, continue_from=continue_from, config=config)


@contextmanager
def _announced(out: Path, config: dict, settings: TrainingSettings) -> Iterator[None]:
    """Context in which the folder of a new run holds its configuration."""
    is_claimed(out, "training")
    file = inside(out, "config.toml")
    if (out / "checkpoints" / "last.ckpt").exists() or (out / "metrics.csv").exists():
        yield
        return
    content = tomli_w.dumps({**config, "training": settings.to_dict()})
    try:
        encoded = content.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"{out}: {content[error.start - 20 : error.end]!r} in the configuration is no text"
        ) from None
    before = read_file(file) if file.exists() else None
    new = [p for p in (out, *out.parents) if not p.exists()]
    claimed = claim(out, "training")
    with file_lock(inside(out, ".lock"), out):
        replace_file(file, encoded)
    try:
        yield
    except Exception:
        if before is None:
            file.unlink(missing_ok=True)
            if claimed:
                (out / RUN_MARK).unlink(missing_ok=True)
            with suppress(OSError):  # somebody has put something there
                for folder in new:
                    folder.rmdir()
        else:
            replace_file(file, before)
        raise


def build_experiment(config: dict[str, Any]) -> Experiment:
    """Build the model and data of a preset, the weights initialised from `[training].seed`.

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
    """Join molecules with a model, checked before they are loaded, which may take minutes."""
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


def _described(dataset: MoleculeDataset) -> dict[str, Any]:
    """Return the entries of a model's metadata that describe its data."""
    return {
        "dataset": dataset.name,
        "vocabulary": dataset.vocabulary.to_dict(),
        "size_histogram": dataset.size_histogram().tolist(),
        # Canonical SMILES, and with them the hashes, may change between versions.
        "rdkit": version("rdkit"),
        "codec": CODEC_VERSION,
    }


def _of_graphs(model, dataset: MoleculeDataset, size: int) -> Experiment:
    if dataset.targets is not None:
        train = dataset.split("train")
        chosen = np.random.default_rng(0).permutation(train)[:FITTED]
        batch = GraphBatch.collate(dataset.graphs, chosen)
        values = torch.from_numpy(dataset.targets[chosen])
        model.steps.fit_conditions(replace(batch, conditions=values))
    return _experiment(model, dataset, size, 4 * size)


def _experiment(model, dataset, size: int, held_out: int) -> Experiment:
    batches = partial(dataset.test_batches, held_out)
    return Experiment(model, partial(dataset.train_batches, size), batches)


def _property_names(names: Any) -> list[str]:
    """Return the properties that `[model]` names.

    Raises:
        UserError: It is no list of names, or there is no such property.
    """
    from graphcnf.molecules.selection import parse_names

    if not (isinstance(names, list) and names and all(isinstance(n, str) for n in names)):
        raise UserError(
            f'[model]: properties must be a list such as ["logp", "qed"], got {names!r}'
        )
    return list(call("[model]", parse_names, ",".join(names), known={}))


def _with_targets(dataset, names: list[str]) -> tuple[Any, list[dict[str, Any]]]:
    """Return the data set with properties to condition on, and a model's tables of them."""
    from graphcnf.datasets.properties import property_values
    from graphcnf.graphs.conditions import condition_tables

    values = property_values(dataset, names)
    tables = condition_tables(names, values[dataset.split("train")])
    return replace(dataset, targets=values), tables


def _start(options: dict[str, Any], names: list[str] | None) -> GraphCNF:
    """Return the model whose weights and sizes a training begins with."""
    for name in options:
        if name != "start":
            raise UserError(f"[model]: {name} follows from start")
    start = options["start"]
    if not isinstance(start, str):
        raise UserError(f"[model]: start must be a name or a folder in quotes, got {start!r}")
    model = call("[model]", GraphCNF.from_pretrained, start, known={})
    learned = [table["name"] for table in model.conditions]
    if learned and names not in (None, learned):
        raise UserError(f"[model]: {start} was trained with the properties {', '.join(learned)}")
    return model


def _started(model, start: str, names: list[str] | None, dataset, size: int) -> Experiment:
    """Join molecules with a model that is trained already."""
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
        # The properties keep their means and deviations, and with them their meaning.
        dataset, _ = _with_targets(dataset, [table["name"] for table in model.conditions])
        return _experiment(model.train(), dataset, size, 4 * size)
    if names is not None:
        dataset, tables = _with_targets(dataset, names)
        model = call("[model]", model.with_conditions, tables, known={})
    return _of_graphs(model.train(), dataset, size)


def _loaded(load: Callable, options: dict, **known) -> Any:
    """Call a loader with the options of `[data]`; `known` are arguments from elsewhere."""
    check("[data]", options, load, fixed=tuple(known))
    return call("[data]", load, known=known, **options)


def load_molecules(name: str, data: dict[str, Any]) -> MoleculeDataset:
    """Load the molecules that a `[data]` table asks for.

    Args:
        name: One of `MOLECULES`.
        data: The other entries of the table.

    Raises:
        UserError: Entries that the loader does not take, or data that are not there.
    """
    options, known = dict(data), {}
    if name == "smiles_file":
        path = options.pop("path", None)
        if not isinstance(path, str) or not path or "\0" in path:
            found = "" if path is None else f", got {path!r}"
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
    network = call("[model]", SetFlow, dataset.elements, dataset.categories, known={}, **model)
    network.metadata = {"dataset": "sets", "task": task, "optimum": dataset.optimum}
    return _experiment(network, dataset, settings.batch_size, settings.batch_size)


def _coloring(model: dict, data: dict, settings: TrainingSettings) -> Experiment:
    from graphcnf.coloring import ColoringFlow
    from graphcnf.datasets.coloring import load_coloring

    check("[model]", model, ColoringFlow, fixed=("colors",))
    dataset = _loaded(load_coloring, data)
    network = call("[model]", ColoringFlow, dataset.colors, known={}, **model)
    network.metadata = {"dataset": "coloring", "data": data}
    return _experiment(network, dataset, settings.batch_size, 4 * settings.batch_size)


def _images(model: dict, data: dict, settings: TrainingSettings) -> Experiment:
    from graphcnf.baselines.images.models import image_model_class
    from graphcnf.datasets.images import load_images
    from graphcnf.images import MODELS, ConvolutionNetwork, ImageFlow

    shift, size = data.pop("shift", 0), settings.batch_size
    if not (is_integer(shift) and shift in Range(0, 1000)):
        raise UserError(f"[data]: shift must be a number of pixels from 0 to 1000, got {shift!r}")
    if not isinstance(data.get("path", ""), str) or "\0" in data.get("path", ""):
        raise UserError(f"[data]: path must be a folder in quotes, got {data['path']!r}")
    if "architecture" not in model:
        raise UserError("[model]: images need an architecture, such as glow")
    for key in ("shape", "levels"):
        if key in model:
            raise UserError(f"[model]: {key} follows from the images")
    if "path" in data:
        # The model remembers it, and may be evaluated from elsewhere.
        data["path"] = str(call("[data]", expand_user, data["path"], known={}).absolute())
    kind = call("[model]", image_model_class, model["architecture"], known={})
    # The networks of a flow take the arguments that its architecture does not take.
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
        partial(dataset.batches, "validation", size),
    )


EXPERIMENTS: dict[str, Callable[[dict, dict, TrainingSettings], Experiment]] = {
    **{name: partial(_of_molecules, name) for name in MOLECULES},
    "sets": _sets,
    "coloring": _coloring,
    "images": _images,
}
