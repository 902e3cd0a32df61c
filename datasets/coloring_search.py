"""Exact graph colouring by a depth-first search in the order of DSATUR, with random choices.

The next node is always one with the fewest colours left (among those, one with the most edges; then
the lowest number). Tried in random order, a colour is kept if the rest of the graph can still be
coloured: so at every node each colour that leads to a colouring is equally likely, and
`search_bits` knows the probability of the colouring that comes out.

References:
    Brelaz, *New methods to color the vertices of a graph*, Communications of the ACM 22, 1979.
"""

from __future__ import annotations

import math
import random
from collections.abc import Hashable, Sequence

import networkx as nx

from graphcnf.errors import UserError

MAX_STEPS = 1_000_000
"""Colours that a search tries before it gives up."""

Neighbours = Sequence[Sequence[int]]
"""For each node the numbers of its neighbours."""


def find_coloring(
    graph: nx.Graph, colors: int = 3, *, seed: int | None = None
) -> dict[Hashable, int]:
    """Colour a graph so that no edge joins equal colours.

    Args:
        graph: Undirected; for small graphs (hundreds of nodes at most), since the time of an exact
            search may grow exponentially.
        colors: Number of colours.
        seed: Of the random choices; None to take the lowest colour that is possible.

    Returns:
        Colour of each node, 0 to `colors - 1`.

    Raises:
        UserError: The graph is directed, a multigraph or empty, has an edge from a node to itself,
            or cannot be coloured; or the search takes too long.

    Examples:
        >>> import networkx as nx
        >>> colors = find_coloring(nx.cycle_graph(5), colors=3)
        >>> all(colors[i] != colors[(i + 1) % 5] for i in range(5))
        True
    """
    if graph.is_directed() or graph.is_multigraph():
        raise UserError(f"an undirected simple graph is needed, not a {type(graph).__name__}")
    if colors < 1:
        raise UserError(f"the number of colours must be at least 1, not {colors}")
    numbers = {node: number for number, node in enumerate(graph)}
    if not numbers:
        raise UserError("the graph is empty: there is nothing to colour")
    loop = next(nx.selfloop_edges(graph), None)
    if loop is not None:
        raise UserError(f"node {loop[0]!r} has an edge to itself: the graph has no colouring")
    neighbours = [[numbers[v] for v in graph.neighbors(node)] for node in graph]
    chance = None if seed is None else random.Random(seed)
    found = complete(neighbours, colors, [-1] * len(numbers), chance)
    if found is None:
        raise UserError(
            f"the graph of {len(numbers)} nodes cannot be coloured with {colors} colours"
        )
    return {node: found[number] for node, number in numbers.items()}


def search_bits(neighbours: Neighbours, coloring: Sequence[int], colors: int) -> float:
    """Bits (-log2 of the probability) of a colouring under the random search.

    Raises:
        UserError: It is no colouring of the graph, or the search takes too long.
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
        # Colours that no node has yet are interchangeable.
        unused = [c for c in options if c not in partial]
        leads = {c: True for c in [own, *(unused if own in unused else [])]}
        for c in options:
            if c not in leads:
                partial[node] = c
                found = complete(neighbours, colors, partial) is not None
                leads |= {other: found for other in (unused if c in unused else [c])}
        bits += math.log2(sum(leads.values()))
        partial[node] = own
        for v in neighbours[node]:
            allowed[v] &= ~(1 << own)
    return bits


def next_node(neighbours: Neighbours, coloring: Sequence[int], allowed: Sequence[int]) -> int:
    """The node to colour next; `allowed` holds a bit for every colour that is left."""
    return min(
        (v for v, c in enumerate(coloring) if c < 0),
        key=lambda v: (allowed[v].bit_count(), -len(neighbours[v]), v),
    )


def complete(
    neighbours: Neighbours,
    colors: int,
    coloring: Sequence[int],
    chance: random.Random | None = None,
    max_steps: int = MAX_STEPS,
) -> list[int] | None:
    """Colour the rest of a graph.

    Args:
        neighbours: Without loops.
        colors: Number of colours.
        coloring: Colours so far, -1 for none; without conflicts.
        chance: Of the order in which colours are tried; None for ascending order.
        max_steps: Colours to try at most.

    Returns:
        The colour of each node, or None where there is no colouring.

    Raises:
        UserError: `max_steps` are over.
    """
    coloring = list(coloring)
    allowed = [(1 << colors) - 1] * len(coloring)
    for node, color in enumerate(coloring):
        if color >= 0:
            for v in neighbours[node]:
                allowed[v] &= ~(1 << color)
    left = coloring.count(-1)
    trail: list[tuple[int, list[int], set[int], list[int]]] = []
    for _ in range(max_steps):
        if not left:
            return coloring
        node = next_node(neighbours, coloring, allowed)
        # Taken from the end.
        options = [c for c in reversed(range(colors)) if allowed[node] >> c & 1]
        if chance is not None:
            chance.shuffle(options)
        trail.append((node, options, set(options).difference(coloring), []))
        left -= 1
        while not trail[-1][1]:
            trail.pop()
            left += 1
            if not trail:
                return None
            node, options, unused, deprived = trail[-1]
            failed, coloring[node] = coloring[node], -1
            for v in deprived:
                allowed[v] |= 1 << failed
            deprived.clear()
            if failed in unused:
                # Where one new colour fails, the others do.
                options[:] = [c for c in options if c not in unused]
        node, options, _, deprived = trail[-1]
        color = coloring[node] = options.pop()
        for v in neighbours[node]:
            if coloring[v] < 0 and allowed[v] >> color & 1:
                allowed[v] ^= 1 << color
                deprived.append(v)
    raise UserError(
        f"no colouring of a graph of {len(coloring)} nodes with {colors} colours after "
        f"{max_steps:,} steps of the search: too large for an exact one"
    )
