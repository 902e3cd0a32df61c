"""Figures of the experiments on sets and on graph colouring."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from graphcnf.coloring import ColoringFlow, conflicts
from graphcnf.coloring.network import undecided
from graphcnf.coloring.saturation import SaturationOrder
from graphcnf.compute.progress import progress_bar
from graphcnf.datasets.coloring import ColoringDataset, load_coloring
from graphcnf.datasets.sets import TASKS
from graphcnf.errors import UserError
from graphcnf.evaluation.formats import Column, Row, number, percent, text
from graphcnf.flows.base import record_generators
from graphcnf.graphs import GraphBatch
from graphcnf.scripts.benchmarks.runs import TrainedRun
from graphcnf.training.arguments import call, check

GRAPHS_PER_BATCH = 128

METHODS = {
    "uniform-dequantization": "Uniform dequantization",
    "variational-dequantization": "Variational dequantization",
    "mixture": "Mixture of logistics",
    "linear": "Linear flows",
    "variational": "Variational encoding",
    "interval": "Intervals",
}
"""Encodings in the order of the table."""

Method = tuple[str, str]
"""Encoding and coupling, as the table names them."""

PUBLISHED_SETS: dict[Method, dict[str, float]] = {
    ("Discrete flow", ""): {"shuffling": 3.87, "summation": 2.51},
    ("Variational dequantization", ""): {"shuffling": 3.01, "summation": 2.29},
    ("Mixture of logistics", "channels"): {"shuffling": 2.78, "summation": 2.24},
    ("Linear flows", "channels"): {"shuffling": 2.78, "summation": 2.25},
    ("Variational encoding", "channels"): {"shuffling": 2.79, "summation": 2.25},
}
"""Bits per element, Lippe & Gavves 2021, table 1, for the tasks with their default arguments. Our
coupling of channels is the one that is like the published flow."""

NOT_OF_A_METHOD = {"seed", "minutes", "steps", "threads", "devices", "accelerator"}
"""Training settings in which runs of one method may differ."""

PUBLISHED_COLORING = {
    "small": [
        {"model": "GraphCNF, published: all nodes in parallel", "validity": 0.9456,
         "seconds": 0.28},
        {"model": "RNN, published (the best): one node at a time", "validity": 0.9341},
    ],
    "large": [
        {"model": "GraphCNF, published: all nodes in parallel", "validity": 0.6680,
         "seconds": 0.54},
        {"model": "RNN, published (the best): one node at a time", "validity": 0.7132},
        {"model": "VAE, published", "validity": 0.0775},
    ],
}  # fmt: skip
"""Lippe & Gavves 2021, section 5.3: other random graphs of the same kind, a GPU. Its bits are of
the colourings of another solver and do not compare."""


def set_rows(runs: Sequence[TrainedRun]) -> tuple[list[dict[str, Any]], list[Column], list[str]]:
    """Table of finished runs on sets: one row per method, one column per task.

    Runs that differ in nothing but their seed (and budget) are averaged.

    Returns:
        Rows, columns and notes.

    Raises:
        UserError: A run is not finished, its data are no sets, or two runs of a method differ.
    """
    measured: dict[tuple[Method, str], list[float]] = {}
    minutes: dict[Method, list[float]] = {}
    tasks: dict[str, Any] = {}
    firsts: dict[tuple[Method, str], TrainedRun] = {}
    for run in runs:
        run.check_finished()
        data = dict(run.config["data"])
        if (kind := data.pop("name", None)) != "sets":
            raise UserError(f"{run.path}: the run is not on sets (its data are {kind})")
        name = data.pop("task", "shuffling")
        if not isinstance(name, str) or name not in TASKS:
            raise UserError(f"{run.path}/config.toml [data]: unknown task {name!r}")
        where = f"{run.path}/config.toml [data]"
        check(where, data, TASKS[name])
        task = call(where, TASKS[name], known={}, **data)
        label = name if task == TASKS[name]() else f"{name}, {_arguments(data)}"
        tasks[label] = task
        method, figures = _method(run.config["model"]), run.figures()
        if "bits_per_variable" not in figures:
            raise UserError(f"{run.path}/metrics.csv: damaged (no bits_per_variable)")
        _check_alike(firsts.setdefault((method, label), run), run)
        measured.setdefault((method, label), []).append(figures["bits_per_variable"])
        minutes.setdefault(method, []).append(figures["minutes"])
    known = ["Discrete flow", *METHODS.values()]
    place = {name: number for number, name in enumerate(known)}
    methods = {method for method, _ in measured}
    methods |= {m for m, bits in PUBLISHED_SETS.items() if tasks.keys() & bits.keys()}
    rows: list[dict[str, Any]] = [
        {"method": "Optimum", **{label: task.optimum for label, task in tasks.items()}}
    ]
    for method in sorted(methods, key=lambda m: (place.get(m[0], len(known)), m)):
        row: dict[str, Any] = {"method": method[0], "coupling": method[1]}
        for label in tasks:
            row |= _mean(label, measured.get((method, label), []))
            row[f"{label} published"] = PUBLISHED_SETS.get(method, {}).get(label)
        if method in minutes:
            row["minutes"] = max(minutes[method])
        rows.append(row)
    columns: list[Column] = [
        ("Bits per element", text("method")),
        ("Coupling of", text("coupling")),
    ]
    for label in tasks:
        columns.append((label.capitalize(), number(label, 3)))
        columns.append(("Published", number(f"{label} published", 2)))
    columns.append(("Minutes", number("minutes", 1)))
    seeds = sorted({len(values) for values in measured.values()})
    notes = [
        "Upper bounds on held-out sets, one draw of the encoder each; "
        + ("one seed each" if seeds == [1] else "mean ± standard deviation over seeds")
        + ". Minutes are those of the longest run.",
        "Couplings of elements take one element after the other, in a random order; those of "
        "groups evaluate their network once per random group, and a small read-out per element; "
        "those of channels (of the latents) are parallel, as published.",
        "Published: quoted from Lippe & Gavves 2021 (arXiv 2006.09790), table 1.",
    ]
    return rows, columns, notes


def _method(model: dict[str, Any]) -> Method:
    coupling = model.get("coupling", "elements")
    groups = coupling == "groups"
    encoding = model.get("encoding", "interval" if groups else "mixture")
    if groups:
        coupling = f"{model.get('couplings', 8)} groups"
    return METHODS.get(encoding, encoding.capitalize()), coupling


def _check_alike(first: TrainedRun, other: TrainedRun) -> None:
    """Raise `UserError` where two runs of one method are more than two seeds of it."""
    for table in ("model", "training"):
        mine, theirs = first.config.get(table, {}), other.config.get(table, {})
        for key in sorted((mine.keys() | theirs.keys()) - NOT_OF_A_METHOD):
            if mine.get(key) != theirs.get(key):
                raise UserError(
                    f"{other.path}: {table}.{key} is {theirs.get(key)}, but {mine.get(key)} in "
                    f"{first.path}: one table cannot average them"
                )


def _arguments(data: dict[str, Any]) -> str:
    return ", ".join(f"{key} = {value}" for key, value in data.items())


def _mean(key: str, values: list[float]) -> dict[str, float | None]:
    if not values:
        return {key: None}
    more = {f"{key}_sd": statistics.stdev(values)} if len(values) > 1 else {}
    return {key: statistics.fmean(values), **more}


@dataclass
class Colored:
    """Sampled colourings of one batch of graphs.

    Attributes:
        batch: The graphs, with the colourings of the data.
        colors: The sampled ones, (B, N) long.
        conflicts: Edges of each graph that join equal colours, (B,) long.
        seconds: That sampling took.
    """

    batch: GraphBatch
    colors: torch.Tensor
    conflicts: torch.Tensor = field(init=False)
    seconds: float = 0.0

    def __post_init__(self) -> None:
        self.conflicts = conflicts(self.colors, self.batch.adjacency, self.batch.mask)


def data_of(model: ColoringFlow, folder: Path) -> ColoringDataset:
    """The data set that a colouring model was trained on.

    Raises:
        UserError: The model does not say.
    """
    if model.metadata.get("dataset") != "coloring":
        raise UserError(f"{folder}: the model does not say which graphs it was trained on")
    options = model.metadata.get("data")
    where = f"{folder}/config.json, metadata.data"
    if not isinstance(options, dict):
        raise UserError(f"{where}: no object")
    check(where, options, load_coloring)
    return call(where, load_coloring, known={}, **options)


def held_out(dataset: ColoringDataset, count: int) -> list[GraphBatch]:
    """The first `count` held-out graphs, in batches of 128.

    Raises:
        UserError: There are not as many.
    """
    test = dataset.split("test")
    if count > len(test):
        raise UserError(f"{dataset.name} has {len(test)} held-out graphs, not {count}")
    return [
        GraphBatch.collate(dataset.graphs, test[first : min(count, first + GRAPHS_PER_BATCH)])
        for first in range(0, count, GRAPHS_PER_BATCH)
    ]


def sample_all(model: ColoringFlow, batches: Sequence[GraphBatch], *, seed: int) -> list[Colored]:
    """Draw a colouring of every graph; a graph's is a function of the seed and its number."""
    first, found = 0, []
    with progress_bar("sampling", len(batches)) as show:
        for done, batch in enumerate(batches):
            generators = record_generators(seed, first, len(batch))
            began = time.perf_counter()
            here = batch.to(model.device)
            colors = model.sample(here, generator=generators).cpu()
            found.append(Colored(batch, colors))
            found[-1].seconds = time.perf_counter() - began
            first += len(batch)
            show(done + 1)
    return found


def order_alone(batches: Sequence[GraphBatch], colors: int, *, seed: int) -> list[Colored]:
    """Colour in the order of saturation, at random among the colours that no neighbour has.

    A node whose neighbours have all colours gets any. What a model adds to its order is what it is
    better than this.
    """
    generator = torch.Generator().manual_seed(seed)
    found = []
    for batch in batches:
        order = SaturationOrder(batch.adjacency, batch.mask, colors)
        chosen = torch.zeros_like(batch.node_types)
        for _ in range(batch.mask.shape[1]):
            graph, node = order.next()
            free = order.counts[graph, node] == 0
            free = (free | ~free.any(1, keepdim=True)).float()
            color = torch.multinomial(free, 1, generator=generator)[:, 0]
            chosen[graph, node] = color
            order.settle(graph, node, color)
        found.append(Colored(batch, chosen))
    return found


@torch.no_grad()
def bits_per_node(model: ColoringFlow, batches: Sequence[GraphBatch], samples: int = 1) -> float:
    """Mean over graphs of the bound on the bits of the data's colouring, per node."""
    total = count = 0.0
    for batch in batches:
        here = batch.to(model.device)
        bits = -model.log_prob(here, samples=samples) / math.log(2)
        total += float((bits / here.sizes).sum())
        count += len(batch)
    return total / count


def sampling_figures(samples: Sequence[Colored]) -> dict[str, float]:
    """`validity`, `validity_error`, `conflicting_edges` and, from whole batches, `seconds`."""
    bad = torch.cat([part.conflicts for part in samples])
    edges = sum(int(part.batch.adjacency.sum()) // 2 for part in samples)
    validity = float((bad == 0).double().mean())
    whole = [part.seconds for part in samples if len(part.batch) == GRAPHS_PER_BATCH]
    figures = {
        "graphs": len(bad),
        "validity": validity,
        "validity_error": math.sqrt(validity * (1 - validity) / len(bad)),
        "conflicting_edges": int(bad.sum()) / edges,
    }
    if whole and any(whole):
        # The first batch also pays for what is done once.
        figures["seconds"] = statistics.median(whole[1:] or whole)
    return figures


def rounds_taken(model: ColoringFlow, samples: Sequence[Colored]) -> float:
    """Mean number of evaluations of a network that colour a graph."""
    if model.config["coupling"] == "channels":
        return float(model.config["couplings"])
    if model.config["coupling"] == "nodes":
        return sum(int(part.batch.mask.sum()) for part in samples) / sum(
            len(part.batch) for part in samples
        )
    total = 0
    for part in samples:
        order = SaturationOrder(part.batch.adjacency, part.batch.mask, model.colors, waves=True)
        while len((found := order.next())[0]):
            blocked = order.counts[found] > 0
            total += int(undecided(blocked, torch.ones_like(blocked[:, 0])).sum())
            order.settle(*found, part.colors[found])
    return total / sum(len(part.batch) for part in samples)


def data_figures(dataset: ColoringDataset, count: int) -> dict[str, Any]:
    """The row of the data: their colourings are valid, their entropy is what bits can reach."""
    test = dataset.split("test")[:count]
    bits = dataset.bits(test) / dataset.graphs.node_counts[test]
    batch = GraphBatch.collate(dataset.graphs, test)
    good = conflicts(batch.node_types, batch.adjacency, batch.mask) == 0
    return {
        "model": "data",
        "graphs": count,
        "validity": float(good.double().mean()),
        "bits": float(np.mean(bits)),
    }


COLORING_COLUMNS: list[Column] = [
    ("Model", text("model")),
    ("Without conflict", percent("validity", "graphs")),
    ("Edges in conflict", percent("conflicting_edges")),
    ("Bits per node", number("bits", 3)),
    ("Network evaluations", number("rounds", 1)),
    ("Seconds per 128 graphs", number("seconds", 2)),
    ("Parameters", number("parameters", 0)),
    ("Minutes of training", number("minutes", 1)),
]


def coloring_rows(
    places: Sequence[Path],
    *,
    graphs: int,
    seed: int,
    device: str = "cpu",
) -> tuple[list[dict[str, Any]], list[Colored]]:
    """Score colouring models on the held-out graphs that they were trained for.

    Args:
        places: Runs, or folders with models; on the same data.
        graphs: Held-out graphs to colour once each.
        seed: Of the samples.
        device: Of the models.

    Returns:
        Rows, and the samples of the first model.

    Raises:
        UserError: A model is missing or damaged, or two have other data.
    """
    models = [ColoringFlow.from_pretrained(place, device) for place in places]
    data = [model.metadata.get("data") for model in models]
    for place, other in zip(places, data, strict=True):
        if other != data[0]:
            raise UserError(f"{place}: trained on other graphs than {places[0]}")
    dataset = data_of(models[0], places[0])
    batches = held_out(dataset, graphs)
    rows: list[dict[str, Any]] = [data_figures(dataset, graphs)]
    alone = sampling_figures(order_alone(batches, dataset.colors, seed=seed))
    rows.append({"model": "order alone, free colours at random", **alone})
    first: list[Colored] = []
    for place, model in zip(places, models, strict=True):
        samples = sample_all(model, batches, seed=seed)
        first = first or samples
        record = model.metadata.get("training", {})
        way = {"nodes": "one node at a time", "waves": "waves", "channels": "parallel"}
        rows.append(
            {
                "model": f"{place}: {way[model.config['coupling']]}",
                **sampling_figures(samples),
                "rounds": rounds_taken(model, samples),
                "bits": bits_per_node(model, batches),
                "parameters": sum(p.numel() for p in model.parameters()),
                "minutes": record.get("minutes"),
            }
        )
    return rows + published_coloring(data[0]), first


def published_coloring(data: dict[str, Any]) -> list[Row]:
    """Published rows where the data are of the published kind."""
    usual = data.get("colors", 3) == 3 and not {"nodes", "edge_probability"} & set(data)
    return list(PUBLISHED_COLORING[data.get("size", "small")]) if usual else []
