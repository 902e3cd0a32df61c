"""Graph colouring: random graphs that need exactly k colours, each with a colouring.

A *colouring* gives every node a colour, and no two neighbours the same one. This is the task of
Lippe & Gavves (2021, section 5.3 of arXiv 2006.09790): a model learns p(colouring | graph). Graphs
are generated as in their code.

Colourings are drawn by an exact depth-first *search* in the order of DSATUR (Brelaz 1979, *New
methods to color the vertices of a graph*, Communications of the ACM 22). The next node is the one
with the fewest remaining colours; on ties the one with most edges, then with the lowest number. It
gets one of its colours that lead to a colouring, with equal probabilities.

Colours are numbered from 0, and so are nodes.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from graphcnf.compute.parallel import parallel_map
from graphcnf.datasets import cache
from graphcnf.errors import UserError
from graphcnf.graphs.batch import GraphBatch, PackedGraphs
from graphcnf.graphs.training_batches import size_bucketed_batches
from graphcnf.limits import MAX_NODES, check_integer, check_low_and_high, is_number

SIZES = {"small": (10, 20), "large": (25, 50)}
"""Lowest and highest number of nodes in the published tasks."""

HELD_OUT = 0.1
"""Share of held-out graphs."""

FORMAT_VERSION = 4
"""Version in the cache key; to be raised when the graphs or the layout of the cache change."""

MAX_ATTEMPTS = 2000
"""Random graphs that are tried until one needs exactly k colours."""

_CHUNK = 1000
_JOINING_EDGES = 3

MAX_STEPS = 1_000_000
"""Assignments of a colour after which a search is given up."""

Neighbours = Sequence[Sequence[int]]
"""Neighbours of each node, without loops."""


@dataclass
class ColoringDataset:
    """Graphs with a colouring each, of which the last tenth is held out.

    Attributes:
        name: Name with colours and sizes, such as "coloring-3-10-20".
        graphs: The graphs. The type of a node is its colour, from 0; the type of all edges is 0.
    """

    name: str = field(compare=False)
    graphs: PackedGraphs
    colors: int

    def __len__(self) -> int:
        return len(self.graphs)

    def split(self, part: str) -> np.ndarray:
        """Return the indices of the training or held-out graphs, ascending, (M,) int64."""
        held_out = max(1, round(HELD_OUT * len(self)))
        numbers = np.arange(len(self))
        return {"train": numbers[:-held_out], "test": numbers[-held_out:]}[part]

    def train_batches(
        self, batch_size: int, epoch: int, seed: int, start: int = 0
    ) -> Iterator[GraphBatch]:
        """Yield the training graphs of an epoch in batches of graphs of similar size.

        The colours of each graph are permuted at random, since they are interchangeable.

        The epoch, from 0, determines the order; `start` is the first batch to yield, to go on
        within one.
        """
        train = self.split("train")
        sizes = self.graphs.node_counts[train]
        for number, index in size_bucketed_batches(sizes, batch_size, seed, epoch, start):
            chance = np.random.default_rng((seed, epoch, number))
            part = self.graphs.subset(train[index])
            renamed = chance.permuted(np.tile(np.arange(self.colors), (len(part), 1)), axis=1)
            owner = np.repeat(np.arange(len(part)), part.node_counts)
            part.node_types = renamed[owner, part.node_types].astype(np.uint8)
            yield GraphBatch.collate(part)

    def test_batches(self, batch_size: int) -> Iterator[GraphBatch]:
        """Yield the held-out graphs in batches, in the same order every time."""
        test = self.split("test")
        for first in range(0, len(test), batch_size):
            yield GraphBatch.collate(self.graphs, test[first : first + batch_size])

    def bits(self, numbers: Sequence[int]) -> np.ndarray:
        """Return -log2 p(colouring | graph) under the search that drew them, (M,) bits.

        Their mean estimates the entropy, the lowest bits that a model can reach.
        """
        found = []
        for number in numbers:
            types, edges, _ = self.graphs.graph(number)
            neighbours = _neighbours(len(types), edges.tolist())
            found.append(search_bits(neighbours, types.tolist(), self.colors))
        return np.array(found)


def load_coloring(
    size: str | None = "small",
    *,
    nodes: Sequence[int] | None = None,
    colors: int = 3,
    graphs: int = 100_000,
    edge_probability: Sequence[float] | None = None,
    seed: int = 0,
    workers: int | None = None,
    use_cache: bool = True,
) -> ColoringDataset:
    """Generate random graphs and a colouring of each, or load them from the cache.

    100,000 small graphs take about a minute on one core, large ones seven.

    Args:
        size: "small" (10 to 20 nodes) or "large" (25 to 50).
        nodes: (lowest, highest) number of nodes, in place of those of `size`; None for `size`.
        colors: Number of colours, at least 2; graphs that need fewer are discarded.
        edge_probability: (lowest, highest) probability of an edge; None for 0.1 to 0.3 or, with
            four colours or more, 0.15 to 0.3. As published, the highest falls with the number of
            nodes, to (lowest + highest) / 2 in the largest graphs.
    """
    if nodes is None:
        if size not in SIZES:
            raise UserError(f"size must be one of {', '.join(SIZES)}, got {size!r}")
        nodes = SIZES[size]
    check_integer("colors", colors, 2)
    check_integer("graphs", graphs, 2)
    check_integer("seed", seed)
    check_low_and_high("nodes", nodes)
    if edge_probability is None:
        edge_probability = (0.1, 0.3) if colors < 4 else (0.15, 0.3)
    is_pair = isinstance(edge_probability, list | tuple) and len(edge_probability) == 2
    if not (is_pair and all(map(is_number, edge_probability))):
        raise UserError(f"edge_probability must be two numbers, got {edge_probability!r}")
    (low, high), (least, most) = nodes, edge_probability
    if not 2 <= low <= high <= MAX_NODES:
        raise UserError(f"nodes must be 2 to {MAX_NODES}, got {low} to {high}")
    if not 0 < least <= most <= 1:
        raise UserError(
            f"edge_probability must lie in (0, 1], the lower one first, got {edge_probability!r}"
        )
    if colors > high:
        raise UserError(f"no graph of {high} nodes needs {colors} colours")
    task = {"nodes": [int(low), int(high)], "colors": colors, "edges": [least, most], "seed": seed}
    name = f"coloring-{colors}-{low}-{high}"

    def generated() -> dict[str, np.ndarray]:
        chunks = [
            {**task, "chunk": number, "count": min(_CHUNK, graphs - first)}
            for number, first in enumerate(range(0, graphs, _CHUNK))
        ]
        several = len(chunks) > 2
        if several:
            cache.note(f"generating {graphs:,} graphs of {low} to {high} nodes, cached for later")
        processes = workers if several else 1
        parts = parallel_map(_generate, chunks, workers=processes, label=f"generating {name}")
        return PackedGraphs.concatenate(parts).to_arrays()

    path = cache.cache_file(name, FORMAT_VERSION, graphs, task)
    arrays = cache.cached(path, generated) if use_cache else generated()
    return ColoringDataset(name, PackedGraphs.from_arrays(arrays), colors)


def random_graph(nodes: int, probability: float, chance: np.random.Generator) -> np.ndarray:
    """Draw a connected random graph.

    Each pair of nodes has an edge with the same probability. Where a node gets no edge, its pairs
    are drawn again until it has one. Then each unconnected part is joined to the rest by up to
    three random edges.

    The result is the adjacency matrix, (N, N) bool.
    """
    upper = np.triu(chance.random((nodes, nodes)) < probability, 1)
    adjacency = upper | upper.T
    while not adjacency.any(0).all():
        lonely = adjacency.any(0).argmin()
        row = chance.random(nodes) < probability
        row[lonely] = False
        adjacency[lonely] = adjacency[:, lonely] = row
    reached = np.zeros(nodes, bool)
    reached[0] = True
    while not reached.all():
        further = reached | adjacency[reached].any(0)
        if (further == reached).all():
            start = chance.choice(np.flatnonzero(reached), _JOINING_EDGES)
            end = chance.choice(np.flatnonzero(~reached), _JOINING_EDGES)
            adjacency[start, end] = adjacency[end, start] = True
        reached = further
    return adjacency


def _generate(task: dict[str, Any]) -> PackedGraphs:
    """Generate the graphs of one chunk, in a worker process."""
    chance = np.random.default_rng((task["seed"], task["chunk"]))
    order = random.Random(int(chance.integers(1 << 62)))
    return PackedGraphs.from_lists(_colored(task, chance, order) for _ in range(task["count"]))


def _colored(
    task: dict[str, Any], chance: np.random.Generator, order: random.Random
) -> tuple[list[int], list[list[int]], list[int]]:
    """Generate a graph that needs exactly k colours, and a colouring of it."""
    (low, high), (least, most), colors = task["nodes"], task["edges"], task["colors"]
    for _ in range(MAX_ATTEMPTS):
        nodes = int(chance.integers(low, high + 1))
        highest = min(most, high / nodes * (least + most) / 2)
        adjacency = random_graph(nodes, chance.uniform(least, highest), chance)
        edges = np.argwhere(np.tril(adjacency)).tolist()
        neighbours = _neighbours(nodes, edges)
        blank = [-1] * nodes
        found = complete(neighbours, colors, blank, order)
        if found is not None and complete(neighbours, colors - 1, blank) is None:
            return found, edges, [0] * len(edges)
    raise UserError(
        f"none of {MAX_ATTEMPTS} random graphs of {low} to {high} nodes with edge probabilities "
        f"of {least:g} to {most:g} needs exactly {colors} colours: change edge_probability"
    )


def _neighbours(nodes: int, edges: list[list[int]]) -> list[list[int]]:
    """Return the neighbours of each node."""
    neighbours: list[list[int]] = [[] for _ in range(nodes)]
    for i, j in edges:
        neighbours[i].append(j)
        neighbours[j].append(i)
    return neighbours


def search_bits(neighbours: Neighbours, coloring: Sequence[int], colors: int) -> float:
    """Return -log2 p(colouring | graph) under the random search by which colourings are drawn.

    It colours nodes in the order of `next_node`. A node gets one of those colours with which the
    graph can still be coloured, all with equal probability.
    """
    partial = [-1] * len(neighbours)
    allowed = [(1 << colors) - 1] * len(neighbours)
    bits = 0.0
    for _ in partial:
        node = next_node(neighbours, partial, allowed)
        options = [c for c in range(colors) if allowed[node] >> c & 1]
        own = coloring[node]
        if own not in options:
            raise UserError(f"node {node} has colour {own}: that is no colouring of the graph")
        # Unused colours are interchangeable, so one of them is tried for all.
        unused = [c for c in options if c not in partial]
        leads = {c: True for c in [own, *(unused if own in unused else [])]}
        for c in options:
            if c not in leads:
                partial[node] = c
                found = complete(neighbours, colors, partial) is not None
                leads |= {other: found for other in (unused if c in unused else [c])}
        bits += math.log2(sum(leads.values()))
        partial[node] = own
        allowed = _without(allowed, own, neighbours[node])
    return bits


def next_node(neighbours: Neighbours, coloring: Sequence[int], allowed: Sequence[int]) -> int:
    """Return the node that the search colours next: the one with the fewest colours left to it.

    Ties go to the node with the most edges, then to the lowest number.

    `coloring` has -1 for a node without a colour; bit c of `allowed` is set if the node may have
    colour c.
    """
    return min(
        (v for v, c in enumerate(coloring) if c < 0),
        key=lambda v: (allowed[v].bit_count(), -len(neighbours[v]), v),
    )


def _without(allowed: Sequence[int], color: int, nodes: Iterable[int]) -> list[int]:
    """Return the colours left to each node after one colour is forbidden to some nodes."""
    allowed = list(allowed)
    for v in nodes:
        allowed[v] &= ~(1 << color)
    return allowed


def complete(
    neighbours: Neighbours,
    colors: int,
    coloring: Sequence[int],
    chance: random.Random | None = None,
) -> list[int] | None:
    """Complete a partial colouring by search.

    Nodes without a colour have -1. With `chance`, colours are tried in random order, else in
    ascending order. None if there is no such colouring.
    """
    coloring = list(coloring)
    allowed = [(1 << colors) - 1] * len(coloring)
    for node, color in enumerate(coloring):
        if color >= 0:
            allowed = _without(allowed, color, neighbours[node])
    left = coloring.count(-1)
    # Nodes coloured so far, each with colours left to try, unused colours, and `allowed` before it.
    trail: list[tuple[int, list[int], set[int], list[int]]] = []
    for _ in range(MAX_STEPS):
        if len(trail) == left:
            return coloring
        node = next_node(neighbours, coloring, allowed)
        # Reversed, since colours are taken from the end.
        options = [c for c in reversed(range(colors)) if allowed[node] >> c & 1]
        if chance is not None:
            chance.shuffle(options)
        trail.append((node, options, set(options).difference(coloring), allowed))
        while not trail[-1][1]:
            trail.pop()
            if not trail:
                return None
            node, options, unused, _ = trail[-1]
            if coloring[node] in unused:
                # If one unused colour fails, so do the others.
                options[:] = [c for c in options if c not in unused]
            coloring[node] = -1
        node, options, _, before = trail[-1]
        coloring[node] = options.pop()
        allowed = _without(before, coloring[node], neighbours[node])
    raise UserError(
        f"no colouring of a graph of {len(coloring)} nodes with {colors} colours after "
        f"{MAX_STEPS:,} steps of the search: too large for an exact one"
    )
