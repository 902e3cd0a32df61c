"""Benchmark of graph colouring: the share of held-out graphs coloured without a conflict.

A *colouring* gives every node one of k colours; a *conflict* is an edge between two nodes of one
colour.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple

import torch
import typer
from torch import Tensor

from graphcnf.arguments import call, check
from graphcnf.chunks import chunked
from graphcnf.datasets.coloring import ColoringDataset, load_coloring
from graphcnf.discrete.coloring_flow import ColoringFlow, conflicts
from graphcnf.discrete.coloring_network import SaturationOrder, undecided
from graphcnf.errors import UserError
from graphcnf.evaluation.layout import Column, number, percent, text
from graphcnf.flows.base import record_generators
from graphcnf.graphs.batch import GraphBatch
from graphcnf.messages import counted
from graphcnf.scripts._files import Role
from graphcnf.scripts._options import option
from graphcnf.scripts.benchmarks.runner import Out, published, write

GRAPHS_PER_BATCH = 128

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


class Colored(NamedTuple):
    """Colourings that were drawn for a batch of graphs.

    Attributes:
        batch: The B graphs, with at most N nodes.
        colors: Colour of each node, from 0, (B, N) long.
        seconds: Seconds that drawing took; 0 if it was not measured.
    """

    batch: GraphBatch
    colors: Tensor
    seconds: float = 0.0


WAYS = {"nodes": "one node at a time", "waves": "waves", "channels": "parallel"}


def coloring(
    places: Annotated[
        list[str], typer.Argument(metavar="RUN...", help="Folders of models."), Role.MODEL
    ],
    graphs: Annotated[int, option("Held-out graphs to colour.", "--graphs", "-n", min=1)] = 2000,
    out: Out = None,
) -> None:
    """Colour held-out graphs with trained models, and count the colourings without a conflict."""
    models = [ColoringFlow.from_pretrained(place) for place in places]
    data = models[0].metadata.get("data")
    if models[0].metadata.get("dataset") != "coloring" or not isinstance(data, dict):
        raise UserError(f"{places[0]}: the model does not say which graphs it was trained on")
    for place, model in zip(places, models, strict=True):
        if model.metadata.get("data") != data:
            raise UserError(f"{place}: trained on other graphs than {places[0]}")
    where = f"{places[0]}/config.json, metadata.data"
    check(where, data, load_coloring)
    dataset = call(where, load_coloring, known={}, **data)
    batches = held_out(dataset, graphs)
    test = dataset.split("test")[:graphs]
    entropy = dataset.bits(test) / dataset.graphs.node_counts[test]
    itself = sampling_figures([Colored(batch, batch.node_types) for batch in batches])
    alone = sampling_figures(order_alone(batches, dataset.colors))
    rows: list[dict[str, Any]] = [
        {"method": "data", **itself, "bits": float(entropy.mean())},
        {"method": "order alone, free colours at random", **alone},
    ]
    for place, model in zip(places, models, strict=True):
        samples = sample_all(model, batches)
        rows.append(
            {
                "method": f"{place}: {WAYS[model.coupling]}",
                **sampling_figures(samples),
                "rounds": _evaluations(model, samples),
                "bits": _bits_per_node(model, batches),
                "parameters": sum(p.numel() for p in model.parameters()),
                "minutes": model.metadata.get("training", {}).get("minutes"),
            }
        )
    notes = [
        f"One colouring each of {graphs:,} held-out graphs, temperature 1. Bits are upper bounds; "
        "those of the data are their entropy under the search that drew them.",
        "One node at a time: always a node with the most colours around it (DSATUR), as in the "
        "search. The order alone takes a free colour at random.",
        f"Seconds: median over batches, {counted(torch.get_num_threads(), 'thread')}. Published: "
        "quoted (Lippe & Gavves 2021, arXiv 2006.09790), of other graphs of the same kind, on a "
        "GPU.",
    ]
    if data.get("colors", 3) == 3 and not {"nodes", "edge_probability"} & set(data):
        rows += published("coloring", size=data.get("size", "small"))
    write(out, rows, COLUMNS, notes)


def held_out(dataset: ColoringDataset, count: int) -> list[GraphBatch]:
    """Return the first held-out graphs of a data set, in batches of `GRAPHS_PER_BATCH` (128).

    Args:
        dataset: The data set.
        count: Number of graphs.
    """
    test = dataset.split("test")
    if count > len(test):
        raise UserError(f"{dataset.name} has {len(test)} held-out graphs, not {count}")
    parts = chunked(test[:count], GRAPHS_PER_BATCH)
    return [GraphBatch.collate(dataset.graphs, part) for part in parts]


def sample_all(model: ColoringFlow, batches: Sequence[GraphBatch]) -> list[Colored]:
    """Draw a colouring of every graph, and measure the time.

    A colouring depends on nothing but the model, the graph, and the number of the graph, which
    counts over all batches.

    Args:
        model: The model.
        batches: The graphs, in batches of 128; their colours are ignored.

    Returns:
        The colourings of each batch.
    """
    samples = []
    for k, batch in enumerate(batches):
        generators = record_generators(0, k * GRAPHS_PER_BATCH, len(batch))
        began = time.perf_counter()
        colors = model.sample(batch, generator=generators)
        samples.append(Colored(batch, colors, time.perf_counter() - began))
    return samples


def order_alone(batches: Sequence[GraphBatch], colors: int) -> list[Colored]:
    """Colour graphs without a model, as a baseline for what the order of the nodes achieves alone.

    The next node is always the one whose neighbours have the most different colours
    (`SaturationOrder`). It gets a random colour among those that no neighbour has; if there is
    none, a random one among all.

    Args:
        batches: The graphs; their colours are ignored.
        colors: Number of colours.

    Returns:
        The colourings of each batch, without times.
    """
    generator = torch.Generator().manual_seed(0)
    samples = []
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
        samples.append(Colored(batch, chosen))
    return samples


def sampling_figures(samples: Sequence[Colored]) -> dict[str, float]:
    """Return figures of drawn colourings.

    Args:
        samples: The colourings of each batch.

    Returns:
        A dict: "graphs", their number; "validity", the share of graphs without a conflict;
        "conflicting_edges", the share of edges with one; and "seconds", the median time of batches
        of 128 graphs, if there are any whose time was measured.
    """
    bad = torch.cat([conflicts(p.colors, p.batch.adjacency, p.batch.mask) for p in samples])
    edges = sum(int(part.batch.adjacency.sum()) // 2 for part in samples)
    figures = {
        "graphs": len(bad),
        "validity": float((bad == 0).double().mean()),
        "conflicting_edges": int(bad.sum()) / edges,
    }
    whole = [part.seconds for part in samples if len(part.batch) == GRAPHS_PER_BATCH]
    if any(whole):
        # The first batch includes one-time costs.
        figures["seconds"] = statistics.median(whole[1:] or whole)
    return figures


def _evaluations(model: ColoringFlow, samples: Sequence[Colored]) -> float:
    """Return how often the network is evaluated to colour a graph, as a mean over graphs."""
    if model.coupling == "channels":
        return float(model.couplings)
    graphs, total = sum(len(part.batch) for part in samples), 0
    if model.coupling == "nodes":
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
    """Return the bits per node of the colourings in the data, as a mean over graphs."""
    bits = [-model.log_prob(batch) / batch.node_counts / math.log(2) for batch in batches]
    return float(torch.cat(bits).mean())
