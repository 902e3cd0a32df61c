"""What edges a node may have: environments known from training graphs, or a limit on their sum.

- The *environment* of a node is its category and the multiset of its edges; of each edge, the
  category and that of the neighbour count.
- Categories of edges and of neighbours may be *merged*: environments do not tell them apart. Each
  has a *representative*, the first category that it is merged with.
- The *state* of a node in a partly drawn graph says what edges it has so far, as far as this
  matters for what it may get. With environments, a state is a part of one that is known; with
  limits on sums, it is a sum of edge weights; without rules, there is one state.
- A state is *complete* if a node of a whole graph may have it. With environments, that is known of
  the node's category or of one that it is merged with: what edges a node may get is told apart
  further than when it may be left.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from graphcnf.errors import UserError

# A neighbour is one number: edge category * CATEGORIES + node category.
CATEGORIES = 256
# Limits on what a saved model may ask for: edges of a node in an environment, and states.
MOST_EDGES, MOST_STATES = 12, 50_000
Environment = tuple[int, tuple[int, ...]]
"""A node category, and the neighbours in rising order."""
UNKNOWN = 0
"""State of a node whose edges are part of no known environment, and in place of no node."""


@dataclass
class NodeStates:
    """The S states of nodes, and how further edges change them.

    Attributes:
        first: State of a node without edges, by category, (C,) long.
        after: State after a further edge, by state, edge category and category of the neighbour,
            (S, E, C) long; `UNKNOWN` if the node may not have this edge.
        complete: Which states a node of a whole graph may have, (S,) bool; `UNKNOWN` counts as one,
            so that it does not keep a drawing from going on.
        category: Category of a node in each state, or one with the same states, (S,) long.
        sums: Largest sum of edge weights of a node, by category, (C,) long.
    """

    first: Tensor
    after: Tensor
    complete: Tensor
    category: Tensor
    sums: Tensor


def states_of_sums(largest_sums: Sequence[int], edge_weights: Sequence[int]) -> NodeStates:
    """Return the states of nodes whose sums of edge weights are limited; all are complete.

    Args:
        largest_sums: Limit for each node category.
        edge_weights: Weight of each edge category.
    """
    sums, weights = torch.tensor(largest_sums), torch.tensor(edge_weights)
    # Categories of one limit share their states: one for each sum from 0 to the limit.
    limits, limit_of = sums.unique(return_inverse=True)
    start = 1 + (limits + 1).cumsum(0) - (limits + 1)
    group = torch.repeat_interleave(torch.arange(len(limits)), limits + 1)
    more = torch.arange(len(group))[:, None] + 1 + weights
    after = torch.where(more <= (start + limits)[group, None], more, UNKNOWN)
    category = (limit_of == torch.arange(len(limits))[:, None]).int().argmax(1)[group]
    return NodeStates(
        first=start[limit_of],
        after=F.pad(after, (0, 0, 1, 0))[..., None].expand(-1, -1, len(sums)),
        complete=torch.ones(len(group) + 1, dtype=torch.bool),
        category=F.pad(category, (1, 0)),
        sums=sums,
    )


def states_without_rules(node_categories: int, edge_weights: Sequence[int]) -> NodeStates:
    """Return the only state of all nodes, which any edge leaves as it is.

    Args:
        node_categories: Number of node categories.
        edge_weights: Weight of each edge category.
    """
    state = torch.arange(2)  # unknown, and the only one
    return NodeStates(
        first=torch.ones(node_categories, dtype=torch.long),
        after=state[:, None, None].expand(-1, len(edge_weights), node_categories),
        complete=state >= 0,
        category=torch.zeros_like(state),
        # More than any node has, since graphs have at most 255 nodes.
        sums=torch.full((node_categories,), 260 * max(edge_weights)),
    )


class Environments:
    """Environments of nodes that are known.

    Args:
        nodes: Representative of each node category, as a neighbour.
        edges: Representative of each edge category.
        known: The environments, each a list of a node category, then for each edge the
            representatives of the edge and of the neighbour: [node, edge, neighbour, edge,
            neighbour, ...].

    Raises:
        UserError: if an argument is no such list.
    """

    def __init__(
        self, nodes: Sequence[int], edges: Sequence[int], known: Iterable[Sequence[int]] = ()
    ):
        for name, merged in (("nodes", nodes), ("edges", edges)):
            if not _are_representatives(merged):
                raise UserError(
                    f'"{name}" of environments must name for each category the first one that it '
                    f"is merged with, got {merged}"
                )
        self.nodes, self.edges = list(nodes), list(edges)
        self.known = {self._checked(environment) for environment in known}

    @classmethod
    def of(cls, arguments: Any, node_categories: int, edge_categories: int) -> Environments:
        """Return the environments that `arguments` returned, as read from a file.

        Args:
            arguments: Keys "nodes", "edges" and "known".
            node_categories: Number of node categories of the model.
            edge_categories: Number of edge categories of the model.

        Raises:
            UserError: if they are anything else.
        """
        if not isinstance(arguments, dict) or set(arguments) != {"nodes", "edges", "known"}:
            raise UserError('environments must be a table of "nodes", "edges" and "known"')
        found = cls(**arguments)
        if (len(found.nodes), len(found.edges)) != (node_categories, edge_categories):
            raise UserError(
                f"environments must be of {node_categories} node and {edge_categories} edge "
                f"categories, got {len(found.nodes)} and {len(found.edges)}"
            )
        return found

    def arguments(self) -> dict[str, list]:
        """Return the arguments of the constructor, as JSON values."""
        known = sorted(self.known)
        rows = [[n, *(v for k in around for v in divmod(k, CATEGORIES))] for n, around in known]
        return {"nodes": self.nodes, "edges": self.edges, "known": rows}

    def merged(self, environments: Iterable[Environment]) -> list[Environment]:
        """Return environments with the representatives of the nodes themselves."""
        return [(self.nodes[node], around) for node, around in environments]

    def states(self, edge_weights: Sequence[int]) -> NodeStates:
        """Return the states of nodes with these environments: all parts of one.

        Args:
            edge_weights: Weight of each edge category.

        Raises:
            UserError: if there are too many states.
        """
        number: dict[Environment, int] = {}
        sums = torch.zeros(len(self.nodes), dtype=torch.long)
        for node, around in sorted(self.known):
            weight = sum(edge_weights[k // CATEGORIES] for k in around)
            sums[node] = max(int(sums[node]), weight)
            for count in range(len(around) + 1):
                for part in combinations(around, count):
                    number.setdefault((node, part), len(number) + 1)
            if len(number) > MOST_STATES:
                raise UserError(f"the environments have more than {MOST_STATES:,} parts")
        after = torch.zeros(len(number) + 1, len(self.edges), len(self.nodes), dtype=torch.long)
        category, complete = (torch.zeros(len(after), dtype=torch.long) for _ in range(2))
        complete[UNKNOWN] = 1
        whole = set(self.merged(self.known))
        for (node, around), state in number.items():
            category[state], complete[state] = node, (self.nodes[node], around) in whole
            for k in range(len(around)):
                before = number[node, around[:k] + around[k + 1 :]]
                after[before, around[k] // CATEGORIES, around[k] % CATEGORIES] = state
        first = torch.tensor([number.get((k, ()), UNKNOWN) for k in range(len(self.nodes))])
        after = after[:, self.edges][..., self.nodes]
        return NodeStates(first, after, complete.bool(), category, sums)

    def _checked(self, environment: Any) -> Environment:
        """Return an environment of unknown origin as (node category, sorted neighbours).

        Raises:
            UserError: if it is anything else.
        """
        fits = isinstance(environment, list) and len(environment) % 2 == 1
        fits = fits and len(environment) // 2 <= MOST_EDGES
        if fits and all(type(value) is int for value in environment):
            node, around, edges = environment[0], environment[2::2], environment[1::2]
            if (
                0 <= node < len(self.nodes)
                and {*around} <= {*self.nodes}
                and {*edges} <= {*self.edges}
            ):
                pairs = zip(edges, around, strict=True)
                return node, tuple(sorted(edge * CATEGORIES + other for edge, other in pairs))
        raise UserError(
            f"an environment must list a node category, then the edge and node category of up to "
            f"{MOST_EDGES} neighbours, got {environment!r:.80}"
        )


def _are_representatives(merged: Any) -> bool:
    """Return True for a list that names for each index k an index <= k that names itself."""
    if not isinstance(merged, list) or not 0 < len(merged) <= CATEGORIES:
        return False
    whole = all(type(m) is int and 0 <= m <= k for k, m in enumerate(merged))
    return whole and all(merged[m] == m for m in merged)
