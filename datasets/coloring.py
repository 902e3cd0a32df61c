"""Graph colouring: random graphs that need exactly k colours, each with a colouring.

The task of Lippe & Gavves (2021, section 5.3 of arXiv 2006.09790), as their published code makes
it: the number of nodes and the edge probability are uniform, every node has an edge, the graph is
connected, and the graphs that k colours, but not k - 1, can colour are kept. What differs is the
solver: theirs gives one colouring by its own rules, here every colouring is possible and the
probability of each is known (`graphcnf.datasets.coloring_search`).
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import networkx as nx
import numpy as np

from graphcnf.compute.parallel import parallel_map
from graphcnf.datasets import cache
from graphcnf.datasets.coloring_search import complete, search_bits
from graphcnf.errors import UserError
from graphcnf.graphs import GraphBatch, PackedGraphs
from graphcnf.graphs.batching import size_bucketed_batches
from graphcnf.graphs.packed import MAX_NODES

SIZES = {"small": (10, 20), "large": (25, 50)}
"""Numbers of nodes, lowest and highest, of the published tasks."""

HELD_OUT = 0.1
FORMAT_VERSION = 2
MAX_ATTEMPTS = 2000
_CHUNK = 1000
_JOINING_EDGES = 3


@dataclass
class ColoringDataset:
    """Graphs with their colourings, of which the last ones are held out.

    Attributes:
        name: What the data are called.
        graphs: The node types are colours; all edges have type 0.
        colors: Number of colours.
    """

    name: str
    graphs: PackedGraphs
    colors: int

    def __len__(self) -> int:
        return len(self.graphs)

    def split(self, part: str) -> np.ndarray:
        """Numbers of the graphs of the "train" or the "test" split."""
        held_out = max(1, round(HELD_OUT * len(self)))
        numbers = np.arange(len(self))
        return {"train": numbers[:-held_out], "test": numbers[-held_out:]}[part]

    def graph(self, number: int) -> nx.Graph:
        """A graph, the colour of a node as its attribute `color`."""
        types, edges, _ = self.graphs.graph(number)
        graph = nx.Graph()
        graph.add_nodes_from((node, {"color": int(c)}) for node, c in enumerate(types))
        graph.add_edges_from(edges.tolist())
        return graph

    def train_batches(
        self, batch_size: int, epoch: int, seed: int, start: int = 0
    ) -> Iterator[GraphBatch]:
        """Batches of an epoch, from number `start` on, each graph with its colours permuted.

        Which colour has which number means nothing: every permutation is as good a colouring.
        """
        train = self.split("train")
        batches = size_bucketed_batches(self.graphs.node_counts[train], batch_size, seed, epoch)
        for number, index in islice(enumerate(batches), start, None):
            chance = np.random.default_rng((seed, epoch, number))
            part = self.graphs.subset(train[index])
            renamed = chance.permuted(np.tile(np.arange(self.colors), (len(part), 1)), axis=1)
            owner = np.repeat(np.arange(len(part)), part.node_counts)
            part.node_types = renamed[owner, part.node_types].astype(np.uint8)
            yield GraphBatch.collate(part)

    def test_batches(self, batch_size: int) -> Iterator[GraphBatch]:
        """The held-out graphs in batches, the same ones every time."""
        test = self.split("test")
        for first in range(0, len(test), batch_size):
            yield GraphBatch.collate(self.graphs, test[first : first + batch_size])

    def bits(self, numbers: Sequence[int]) -> np.ndarray:
        """Bits of the colourings of some graphs under the search that drew them, (M,).

        Their mean is an estimate of the entropy of the data: the fewest bits that a model can
        reach.
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
    """Generate random graphs and a colouring of each; the first time, then cached.

    100,000 small graphs take about a minute on a core, as many large ones seven.

    Args:
        size: "small" (10 to 20 nodes) or "large" (25 to 50).
        nodes: Lowest and highest number of nodes instead.
        colors: Number of colours, at least 2. A graph that fewer can colour is left out.
        graphs: Number of graphs, of which a tenth is held out.
        edge_probability: Lowest and highest probability of an edge; None for 0.1 to 0.3 and, with
            four colours or more, 0.15 to 0.3. As published, the highest is lowered in larger
            graphs, to (lowest + highest) / 2 in those with the most nodes.
        seed: Of everything random.
        workers: Processes; None for one per core.
        use_cache: Whether to read and write the cache (`$GRAPHCNF_CACHE` or the user's cache
            folder).

    Raises:
        UserError: An argument is out of range, or such graphs hardly ever occur.
    """
    if nodes is None:
        if size not in SIZES:
            raise UserError(f"size must be one of {', '.join(SIZES)}, not {size!r}")
        nodes = SIZES[size]
    if edge_probability is None:
        edge_probability = (0.1, 0.3) if colors < 4 else (0.15, 0.3)
    _check(nodes, colors, graphs, edge_probability, seed)
    (low, high), (least, most) = nodes, edge_probability
    task = {"nodes": [int(low), int(high)], "colors": colors, "edges": [least, most], "seed": seed}
    key = json.dumps([FORMAT_VERSION, graphs, task])
    name = f"coloring-{colors}-{low}-{high}"
    path = cache.cache_folder() / f"{name}-{hashlib.sha256(key.encode()).hexdigest()[:16]}.npz"
    arrays = cache.read_or_none(path) if use_cache else None
    if arrays is not None:
        return ColoringDataset(name, PackedGraphs.from_arrays(arrays), colors)
    chunks = [
        {**task, "chunk": number, "count": min(_CHUNK, graphs - first)}
        for number, first in enumerate(range(0, graphs, _CHUNK))
    ]
    if len(chunks) > 2:
        cache.note(f"generating {graphs:,} graphs of {low} to {high} nodes; later starts are fast")
    parts = parallel_map(
        _generate, chunks, workers=workers if len(chunks) > 2 else 1, label=f"generating {name}"
    )
    packed = PackedGraphs.concatenate(parts)
    if use_cache:
        cache.write(path, packed.to_arrays())
    return ColoringDataset(name, packed, colors)


def random_graph(nodes: int, probability: float, chance: np.random.Generator) -> np.ndarray:
    """Adjacency (N, N) bool of a random connected graph without isolated nodes.

    Every edge exists with the same probability; an isolated node draws its edges anew, and parts
    are joined by up to three random edges.
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


def _generate(task: dict) -> PackedGraphs:
    chance = np.random.default_rng((task["seed"], task["chunk"]))
    order = random.Random(int(chance.integers(1 << 62)))
    return PackedGraphs.from_lists(_colored(task, chance, order) for _ in range(task["count"]))


def _colored(task: dict, chance: np.random.Generator, order: random.Random):
    """Colours, edges and edge types of one graph."""
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
    neighbours: list[list[int]] = [[] for _ in range(nodes)]
    for i, j in edges:
        neighbours[i].append(j)
        neighbours[j].append(i)
    return neighbours


def _check(nodes, colors, graphs, edge_probability, seed) -> None:
    for name, pair in (("nodes", nodes), ("edge_probability", edge_probability)):
        kind = int if name == "nodes" else int | float
        numbers = isinstance(pair, Sequence) and all(isinstance(value, kind) for value in pair)
        if not numbers or len(pair) != 2 or not pair[0] <= pair[1]:
            raise UserError(f"{name} takes the lowest and the highest value, not {pair!r}")
    if not 2 <= nodes[0] <= nodes[1] <= MAX_NODES:
        raise UserError(f"a graph has 2 to {MAX_NODES} nodes here, not {nodes[0]} to {nodes[1]}")
    if not 0 < edge_probability[0] <= edge_probability[1] <= 1:
        raise UserError(f"edge_probability must lie in (0, 1], not {list(edge_probability)}")
    for name, value, least in (("colors", colors, 2), ("graphs", graphs, 2), ("seed", seed, 0)):
        if not isinstance(value, int) or value < least:
            raise UserError(f"{name} must be a whole number from {least} on, not {value!r}")
    if colors > nodes[1]:
        raise UserError(f"no graph of {nodes[1]} nodes needs {colors} colours")
