"""Colourings of held-out graphs by trained models, counted without a conflict."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import networkx as nx
import numpy as np
import torch
import typer
from torch import Tensor

from graphcnf.coloring import ColoringFlow, conflicts
from graphcnf.coloring.network import undecided
from graphcnf.coloring.saturation import SaturationOrder
from graphcnf.compute.progress import progress_bar
from graphcnf.datasets.coloring import ColoringDataset, load_coloring
from graphcnf.errors import UserError, counted
from graphcnf.evaluation.formats import Column, number, percent, text
from graphcnf.flows.base import record_generators
from graphcnf.graphs import GraphBatch
from graphcnf.scripts.benchmarks.options import Out, check_picture, published, write, write_figure
from graphcnf.training.arguments import call, check

GRAPHS_PER_BATCH = 128
SHOWN = 8
"""Graphs in the picture."""

COLUMNS: list[Column] = [
    ("Model", text("method")),
    ("Without conflict", percent("validity", "graphs")),
    ("Edges in conflict", percent("conflicting_edges")),
    ("Bits per node", number("bits", 3)),
    ("Network evaluations", number("rounds", 1)),
    ("Seconds per 128 graphs", number("seconds", 2)),
    ("Parameters", number("parameters", 0)),
    ("Minutes of training", number("minutes", 1)),
]


@dataclass
class Colored:
    """Sampled colours (B, N) long of a batch of graphs, and the seconds that sampling took."""

    batch: GraphBatch
    colors: Tensor
    seconds: float = 0.0

    @property
    def conflicts(self) -> Tensor:
        """Edges of each graph that join equal colours, (B,) long."""
        return conflicts(self.colors, self.batch.adjacency, self.batch.mask)


def coloring(
    places: Annotated[
        list[Path],
        typer.Argument(metavar="RUN|DIR", help="Runs, or folders with colouring models."),
    ],
    graphs: Annotated[
        int, typer.Option("--graphs", "-n", min=1, help="Held-out graphs to colour.")
    ] = 2000,
    png: Annotated[Path | None, typer.Option(help="Picture of sampled colourings.")] = None,
    out: Out = None,
) -> None:
    """Colour held-out graphs with trained models, and count the colourings without a conflict."""
    check_picture(png, "--png")
    models = [ColoringFlow.from_pretrained(place) for place in places]
    data = models[0].metadata.get("data")
    for place, model in zip(places, models, strict=True):
        if model.metadata.get("data") != data:
            raise UserError(f"{place}: trained on other graphs than {places[0]}")
    dataset = _data_of(models[0], places[0])
    batches = held_out(dataset, graphs)
    alone = sampling_figures(order_alone(batches, dataset.colors))
    rows: list[dict[str, Any]] = [
        _data_row(dataset, batches),
        {"method": "order alone, free colours at random", **alone},
    ]
    first: list[Colored] = []
    for place, model in zip(places, models, strict=True):
        samples = sample_all(model, batches)
        first = first or samples
        way = {"nodes": "one node at a time", "waves": "waves", "channels": "parallel"}
        rows.append({
            "method": f"{place}: {way[model.config['coupling']]}",
            **sampling_figures(samples),
            "rounds": _evaluations(model, samples),
            "bits": _bits_per_node(model, batches),
            "parameters": sum(p.numel() for p in model.parameters()),
            "minutes": model.metadata.get("training", {}).get("minutes"),
        })  # fmt: skip
    notes = [
        f"One colouring each of {graphs:,} held-out graphs, temperature 1. Bits are "
        "upper bounds; those of the data are their entropy under the search that drew them, the "
        "fewest that a model can reach.",
        "One node at a time: always a node with the most colours around it (DSATUR), which is also "
        "how the colourings of the data were searched for. The order alone takes a free colour at "
        "random; what a model is better than that, it has learned.",
        "Seconds: median over batches of 128 graphs, with "
        f"{counted(torch.get_num_threads(), 'thread')}. Published figures are quoted "
        "(Lippe & Gavves 2021, arXiv 2006.09790): other random graphs of the same kind, colourings "
        "of another solver, a GPU.",
    ]
    write(out, rows + published_rows(data), COLUMNS, notes)
    if png is not None:
        _draw(first, png)


def _data_of(model: ColoringFlow, folder: Path) -> ColoringDataset:
    """Load the data set that a model was trained on."""
    if model.metadata.get("dataset") != "coloring":
        raise UserError(f"{folder}: the model does not say which graphs it was trained on")
    options, where = model.metadata.get("data"), f"{folder}/config.json, metadata.data"
    if not isinstance(options, dict):
        raise UserError(f"{where}: no object")
    check(where, options, load_coloring)
    return call(where, load_coloring, known={}, **options)


def held_out(dataset: ColoringDataset, count: int) -> list[GraphBatch]:
    """Return the first `count` held-out graphs, in batches of 128.

    Raises:
        UserError: There are fewer.
    """
    test = dataset.split("test")
    if count > len(test):
        raise UserError(f"{dataset.name} has {len(test)} held-out graphs, not {count}")
    firsts = range(0, count, GRAPHS_PER_BATCH)
    return [
        GraphBatch.collate(dataset.graphs, test[:count][k : k + GRAPHS_PER_BATCH]) for k in firsts
    ]


def sample_all(model: ColoringFlow, batches: Sequence[GraphBatch]) -> list[Colored]:
    """Draw a colouring of every graph; a graph's is a function of the model and its number."""
    first, found = 0, []
    with progress_bar("sampling", len(batches)) as show:
        for batch in batches:
            generators = record_generators(0, first, len(batch))
            began = time.perf_counter()
            colors = model.sample(batch, generator=generators)
            found.append(Colored(batch, colors, time.perf_counter() - began))
            first += len(batch)
            show(len(found))
    return found


def order_alone(batches: Sequence[GraphBatch], colors: int) -> list[Colored]:
    """Colour in the order of saturation, at random among the colours that no neighbour has.

    A node whose neighbours have all colours gets any.
    """
    generator = torch.Generator().manual_seed(0)
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


def sampling_figures(samples: Sequence[Colored]) -> dict[str, float]:
    """Return shares of valid graphs and conflicting edges, and seconds of a whole batch."""
    bad = torch.cat([part.conflicts for part in samples])
    edges = sum(int(part.batch.adjacency.sum()) // 2 for part in samples)
    figures = {
        "graphs": len(bad),
        "validity": float((bad == 0).double().mean()),
        "conflicting_edges": int(bad.sum()) / edges,
    }
    whole = [part.seconds for part in samples if len(part.batch) == GRAPHS_PER_BATCH]
    if any(whole):
        # The first batch also pays for what is done once.
        figures["seconds"] = statistics.median(whole[1:] or whole)
    return figures


def _evaluations(model: ColoringFlow, samples: Sequence[Colored]) -> float:
    """Return the mean number of network evaluations that colour a graph."""
    if model.config["coupling"] == "channels":
        return float(model.config["couplings"])
    graphs, total = sum(len(part.batch) for part in samples), 0
    if model.config["coupling"] == "nodes":
        return sum(int(part.batch.mask.sum()) for part in samples) / graphs
    for part in samples:
        order = SaturationOrder(part.batch.adjacency, part.batch.mask, model.colors, waves=True)
        while len((found := order.next())[0]):
            blocked = order.counts[found] > 0
            total += int(undecided(blocked, torch.ones_like(blocked[:, 0])).sum())
            order.settle(*found, part.colors[found])
    return total / graphs


@torch.no_grad()
def _bits_per_node(model: ColoringFlow, batches: Sequence[GraphBatch]) -> float:
    """Return the mean over graphs of the bound on the bits of the data's colouring, per node."""
    bits = [-model.log_prob(batch) / batch.sizes / math.log(2) for batch in batches]
    return float(torch.cat(bits).mean())


def _data_row(dataset: ColoringDataset, batches: Sequence[GraphBatch]) -> dict[str, Any]:
    """Return the row of the data; their entropy is the fewest bits that a model can reach."""
    count = sum(len(batch) for batch in batches)
    test = dataset.split("test")[:count]
    figures = sampling_figures([Colored(batch, batch.node_types) for batch in batches])
    bits = dataset.bits(test) / dataset.graphs.node_counts[test]
    return {"method": "data", **figures, "bits": float(np.mean(bits))}


def published_rows(data: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the published rows where the data are of the published kind."""
    if data.get("colors", 3) != 3 or {"nodes", "edge_probability"} & set(data):
        return []
    return published("coloring", size=data.get("size", "small"))


def _draw(samples: Sequence[Colored], path: Path) -> None:
    """Draw the first graphs with their sampled colours as PNG, edges in conflict in red."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    pairs = [(part, k) for part in samples for k in range(len(part.batch))][:SHOWN]
    lines = math.ceil(len(pairs) / 4)
    figure = Figure(figsize=(12, 3 * lines), dpi=100, layout="tight")
    axes = figure.subplots(lines, 4, squeeze=False)
    palette = colormaps["Set2"]
    for place, (part, k) in zip(axes.flat, pairs, strict=False):
        size = int(part.batch.sizes[k])
        graph = nx.from_numpy_array(part.batch.adjacency[k, :size, :size].numpy())
        colors = part.colors[k, :size].tolist()
        bad = [colors[i] == colors[j] for i, j in graph.edges]
        nx.draw_networkx(
            graph,
            nx.kamada_kawai_layout(graph),
            ax=place,
            with_labels=False,
            node_size=2400 / size**0.9,
            node_color=[palette(c % palette.N) for c in colors],
            edgecolors="#333333",
            edge_color=["#d62728" if b else "#999999" for b in bad],
            width=[2.5 if b else 1 for b in bad],
        )
        found = counted(sum(bad), "conflict") if any(bad) else "no conflict"
        place.set_title(f"{size} nodes, {found}", fontsize=10)
    for place in axes.flat:
        place.set_axis_off()
    write_figure(figure, path)
